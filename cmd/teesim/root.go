package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// banner goes to standard error before anything else that a command does.
const banner = "SIMULATION: this is no hardware. Everything here is signed under a simulated root, and only a simulated trust domain accepts it."

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "teesim",
		Short: "Simulate hardware that attests",
		Long: `teesim simulates the devices that attest to trusted execution environments, so
that agents, policies and verifiers can be tried without the hardware.

` + banner + `

Exit codes: 0 good, 1 internal, 2 usage or configuration.`,
		Example: `  teesim nitro run --authority sim --image orders --socket /tmp/nsm.sock
  teesim nitro measurements --image orders
  teesim nitro mint --authority sim --fault leaf-expired > document.cbor`,
	}
	root.AddCommand(nitroCommand(), cli.VersionCommand("teesim"))
	return root
}

func nitroCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "nitro",
		Short: "AWS Nitro Enclaves: the Nitro Security Module (NSM)",
		Long: `Simulate the Nitro Security Module and the certificates behind it. Commands that
sign share an authority, a directory with the simulated root (made when it is
missing): root.pem is what a verifier is given, root.key stays with teesim.`,
		Example: `  teesim nitro root --authority sim > simulated-root.pem
  teesim nitro run --authority sim --image orders --role arn:aws:iam::123456789012:role/orders --socket /tmp/nsm.sock
  teesim nitro faults`,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.ErrOrStderr(), banner)
			return err
		},
	}
	c.AddCommand(runCommand(), mintCommand(), rootCertificateCommand(), measurementsCommand(), faultsCommand())
	return c
}
