package main

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func sevsnpRootsCommand() *cobra.Command {
	var (
		authority snpAuthorityFlags
		only      bool
		output    *cli.Format
	)
	c := &cobra.Command{
		Use:   "roots",
		Short: "Print the simulated root certificates",
		Long: `Print the simulated certificates of all product lines in PEM, of each the root
(ARK) and the two keys below it (ASK, ASVK), for a server or a verifier of simulated
evidence.`,
		Example: `  teesim sevsnp roots > simulated-roots.pem
  assay evidence verify --tee amd-sev-snp --roots simulated-roots.pem --endorsement chain.pem report.bin`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := authority.open(time.Time{})
			if err != nil {
				return err
			}
			text := a.RootsPEM()
			if only {
				text = a.ARKsPEM()
			}
			if *output == cli.JSON {
				arks := make(map[string]string)
				for _, p := range simsnp.Products() {
					sum := sha256.Sum256(a.Chain(p).ARK.Raw)
					arks[p.Line()] = hex.EncodeToString(sum[:])
				}
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{"simulated": true, "pem": string(text), "ark_sha256": arks})
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	authority.register(c)
	c.Flags().BoolVar(&only, "arks", false, "the roots alone")
	output = cli.OutputFlag(c)
	return c
}
