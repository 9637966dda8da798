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
  teesim nitro mint --authority sim --fault leaf-expired > document.cbor
  teesim sevsnp run --product genoa --chip rack-4 --image ledger --socket /tmp/snp.sock
  teesim sevsnp kds --chip genoa:rack-4 --listen 127.0.0.1:8081
  teesim tpm run --authority sim --state machine-1 --image ledger --socket /tmp/tpm.sock`,
	}
	root.AddCommand(nitroCommand(), sevsnpCommand(), tpmCommand(), cli.VersionCommand("teesim"))
	return root
}

// announce says on standard error, before a command does anything, what it is.
func announce(c *cobra.Command, _ []string) error {
	_, err := fmt.Fprintln(c.ErrOrStderr(), banner)
	return err
}
