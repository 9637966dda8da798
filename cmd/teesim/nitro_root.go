package main

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// fingerprint is SHA-256 of the root's DER, as AWS publishes its own.
func fingerprint(a *simnitro.Authority) string {
	sum := sha256.Sum256(a.Root().Raw)
	return hex.EncodeToString(sum[:])
}

func nitroRootCommand() *cobra.Command {
	var (
		authority nitroAuthorityFlags
		output    *cli.Format
	)
	c := &cobra.Command{
		Use:   "root",
		Short: "Print the simulated root certificate",
		Long: `Print the simulated root certificate in PEM, for a server or a verifier of
simulated evidence. The authority is made when it is missing.`,
		Example: `  teesim nitro root --authority sim > simulated-root.pem
  assay evidence verify --tee aws-nitro --roots simulated-root.pem document.cbor`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := authority.open()
			if err != nil {
				return err
			}
			if *output == cli.JSON {
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{
					"simulated": true, "pem": string(a.RootPEM()), "sha256": fingerprint(a),
					"not_before": a.Root().NotBefore, "not_after": a.Root().NotAfter,
				})
			}
			_, err = c.OutOrStdout().Write(a.RootPEM())
			return err
		},
	}
	authority.register(c)
	output = cli.OutputFlag(c)
	return c
}
