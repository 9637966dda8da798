package main

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

// tpmAuthorityFlags name the manufacturer.
type tpmAuthorityFlags struct{ dir string }

func (f *tpmAuthorityFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "authority", "", "directory of the simulated manufacturer's keys (made when missing)")
	_ = c.MarkFlagRequired("authority") // the flag exists
	_ = c.MarkFlagDirname("authority")
}

func (f *tpmAuthorityFlags) open() (*simtpm.Authority, error) {
	if f.dir == "" {
		return nil, cli.Usagef("for example --authority sim", "--authority is empty")
	}
	a, err := simtpm.OpenAuthority(f.dir, simtpm.Options{})
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return a, nil
}

// bootFlags say what a machine starts.
type bootFlags struct {
	image, loader, commandLine, firmware string
	secureBoot                           bool
	locality                             uint8
}

func (f *bootFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.image, "image", "", "name of the operating system; loader configuration, kernel and initrd derive from it")
	c.Flags().StringVar(&f.loader, "loader", string(simtpm.GRUB), "grub (shim and GRUB) or systemd-boot (and a unified kernel image)")
	c.Flags().StringVar(&f.commandLine, "cmdline", simtpm.DefaultCommandLine, "the kernel's command line")
	c.Flags().StringVar(&f.firmware, "firmware", simtpm.DefaultFirmware, "the firmware's version")
	c.Flags().BoolVar(&f.secureBoot, "secure-boot", true, "start with UEFI secure boot")
	c.Flags().Uint8Var(&f.locality, "locality", 0, "start the TPM from this locality, 0 or 3: PCR0 begins with it")
	_ = c.RegisterFlagCompletionFunc("loader", cobra.FixedCompletions(
		[]string{string(simtpm.GRUB), string(simtpm.SystemdBoot)}, cobra.ShellCompDirectiveNoFileComp))
}

// changed reports whether any was given.
func (f *bootFlags) changed(c *cobra.Command) bool {
	return slices.ContainsFunc([]string{"image", "loader", "cmdline", "firmware", "secure-boot", "locality"}, c.Flags().Changed)
}

// boot reads the flags, and checks what they say.
func (f *bootFlags) boot() (simtpm.Boot, error) {
	b := simtpm.Boot{
		Image: f.image, SecureBootOff: !f.secureBoot, Loader: simtpm.Loader(f.loader), CommandLine: f.commandLine,
		Firmware: f.firmware, Locality: f.locality,
	}
	if f.image == "" {
		return b, cli.Usagef("any name will do, for example --image ledger", "--image is empty")
	}
	if _, err := simtpm.Measurements(b); err != nil {
		return b, &cli.UsageError{Err: err}
	}
	return b, nil
}

// tpmFaults are those that run can be asked for.
func tpmFaults() []known {
	var out []known
	for _, f := range simtpm.Faults() {
		out = append(out, known{f.Name, f.Description})
	}
	return out
}

// startError tells an error of those who use the command from ours.
func startError(err error) error {
	if errors.Is(err, simtpm.ErrNotInstalled) {
		return &cli.UsageError{Err: simtpm.ErrNotInstalled, Hint: simtpm.InstallHint}
	}
	return &cli.UsageError{Err: err}
}
