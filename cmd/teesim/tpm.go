package main

import "github.com/spf13/cobra"

func tpmCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tpm",
		Short: "TPM 2.0: a machine with a software TPM (swtpm) and a measured boot",
		Long: `Simulate a machine with a TPM 2.0. The TPM is swtpm, a real one in software, which
must be installed; teesim plays its manufacturer, who leaves endorsement keys with
certificates in it, and the firmware and boot loader, which measure themselves and
what they start into it.`,
		Example: `  teesim tpm root --authority sim > simulated-tpm-root.pem
  teesim tpm run --authority sim --state machine-1 --image ledger --socket /tmp/tpm.sock --event-log /tmp/eventlog
  teesim tpm measurements --image ledger
  teesim tpm reset --socket /tmp/tpm.sock --image ledger-2
  teesim tpm faults`,
		PersistentPreRunE: announce,
	}
	c.AddCommand(tpmRunCommand(), tpmRootCommand(), tpmEKCommand(), tpmMeasurementsCommand(), tpmResetCommand(),
		tpmClearCommand(), tpmFaultsCommand())
	return c
}
