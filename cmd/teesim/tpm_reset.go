package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

// remoteFlags name a machine that runs.
type remoteFlags struct{ path string }

func (f *remoteFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.path, "socket", "", "path of the unix socket on which teesim tpm run listens")
	_ = c.MarkFlagRequired("socket") // the flag exists
	_ = c.MarkFlagFilename("socket")
}

func tpmResetCommand() *cobra.Command {
	var (
		remote           remoteFlags
		boot             bootFlags
		powerCut, resume bool
	)
	c := &cobra.Command{
		Use:   "reset",
		Short: "Reboot a running machine, into the same image or another",
		Long: `Reboot the machine that ` + "`teesim tpm run`" + ` serves on a socket: its TPM is reset, keys and
registers of the previous boot are gone, and the boot is measured anew. With --image
and the other flags of a boot it starts that, else the same as before.`,
		Example: `  teesim tpm reset --socket /tmp/tpm.sock
  teesim tpm reset --socket /tmp/tpm.sock --image ledger-2
  teesim tpm reset --socket /tmp/tpm.sock --suspend`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var b simtpm.Boot
			if boot.changed(c) {
				var err error
				if b, err = boot.boot(); err != nil {
					return err
				}
			}
			var err error
			r := simtpm.Remote{Path: remote.path}
			switch {
			case resume && (powerCut || boot.changed(c)):
				return cli.Usagef("leave the other flags out", "--suspend starts nothing anew")
			case resume:
				err = r.Resume()
			case powerCut:
				err = r.PowerCut(b)
			default:
				err = r.Reset(b)
			}
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			return nil
		},
	}
	remote.register(c)
	boot.register(c)
	c.Flags().BoolVar(&powerCut, "power-cut", false, "without a warning to the TPM: its clock is not safe for a while")
	c.Flags().BoolVar(&resume, "suspend", false, "suspend and resume instead: the registers stay")
	return c
}

func tpmClearCommand() *cobra.Command {
	var remote remoteFlags
	c := &cobra.Command{
		Use:   "clear",
		Short: "Clear a running machine's TPM",
		Long: `Carry out TPM2_Clear on the machine that ` + "`teesim tpm run`" + ` serves on a socket, as the
firmware's setup does: owner's keys are gone, counters start at zero, endorsement keys
and their certificates stay. Reboot it (teesim tpm reset) to start from there.`,
		Example: `  teesim tpm clear --socket /tmp/tpm.sock && teesim tpm reset --socket /tmp/tpm.sock`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := (simtpm.Remote{Path: remote.path}).Clear(); err != nil {
				return &cli.UsageError{Err: err}
			}
			return nil
		},
	}
	remote.register(c)
	return c
}
