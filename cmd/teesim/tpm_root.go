package main

import (
	"encoding/hex"
	"encoding/pem"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

func tpmRootCommand() *cobra.Command {
	var (
		authority    tpmAuthorityFlags
		intermediate bool
		output       *cli.Format
	)
	c := &cobra.Command{
		Use:   "root",
		Short: "Print the simulated manufacturer's root certificate",
		Long: `Print the root under which EK certificates of simulated machines are, in PEM, for a
server or a verifier of simulated evidence. The certificate between the root and
those of machines is in the machines' NV (index 0x01c00100), too; --intermediate
prints it behind the root.`,
		Example: `  teesim tpm root --authority sim > simulated-tpm-root.pem
  mkdir -p roots/ek && teesim tpm root --authority sim > roots/ek/simulated.pem
  assay evidence verify --tee tpm2 --tpm-roots roots --ak evidence.json.ak.pem evidence.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := authority.open()
			if err != nil {
				return err
			}
			text := a.RootPEM()
			if intermediate {
				text = append(text, a.IntermediatePEM()...)
			}
			if *output == cli.JSON {
				sum := a.RootDigest()
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{"simulated": true, "pem": string(text), "root_sha256": hex.EncodeToString(sum[:])})
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	authority.register(c)
	c.Flags().BoolVar(&intermediate, "intermediate", false, "print the intermediate certificate too")
	output = cli.OutputFlag(c)
	return c
}

func tpmEKCommand() *cobra.Command {
	var (
		state        string
		certificates bool
		output       *cli.Format
	)
	c := &cobra.Command{
		Use:   "ek",
		Short: "Print a machine's endorsement keys, for the inventory",
		Long: `Print the endorsement keys of the machine in a state directory, running or not: for
each the kind and SHA-256 of its DER SubjectPublicKeyInfo, by which an operator's
inventory names the machine. --certificate prints their certificates in PEM.`,
		Example: `  teesim tpm ek --state machine-1
  teesim tpm ek --state machine-1 --certificate > ek.pem`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			eks, err := simtpm.ReadEKs(state)
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			switch {
			case *output == cli.JSON:
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{"simulated": true, "endorsement_keys": ekIDs(eks)})
			case certificates:
				for _, e := range eks {
					if len(e.Certificate) == 0 {
						continue
					}
					if err := pem.Encode(c.OutOrStdout(), &pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate}); err != nil {
						return err
					}
				}
				return nil
			}
			p := cli.NewPage(c.OutOrStdout())
			for _, e := range ekIDs(eks) {
				p.Linef("%s %s", e.Digest, e.Kind)
			}
			return p.Err()
		},
	}
	c.Flags().StringVar(&state, "state", "", "directory of the machine's TPM")
	_ = c.MarkFlagRequired("state") // the flag exists
	_ = c.MarkFlagDirname("state")
	c.Flags().BoolVar(&certificates, "certificate", false, "print the certificates instead")
	output = cli.OutputFlag(c)
	return c
}
