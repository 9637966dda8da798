package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/issuer/ca"
)

func bootstrapCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "bootstrap",
		Short:   "The root with which agents know the server",
		Example: "  assayd bootstrap export > bootstrap-root.pem",
	}
	var flags configFlags
	export := &cobra.Command{
		Use:   "export",
		Short: "Print the bootstrap root as PEM",
		Long: `export prints the certificate that agents pin in their measured configuration.
It signs servers' TLS certificates and nothing else: no SVID chains to it.`,
		Example: "  assayd bootstrap export > bootstrap-root.pem\n  assayd bootstrap export --data-dir ~/assay",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			pem, err := ca.BootstrapRootPEM(cfg.DataDir)
			if err != nil {
				return starting(err)
			}
			_, err = c.OutOrStdout().Write(pem)
			return err
		},
	}
	flags.add(export)
	c.AddCommand(export)
	return c
}
