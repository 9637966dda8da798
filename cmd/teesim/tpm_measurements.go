package main

import (
	"crypto"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

func tpmMeasurementsCommand() *cobra.Command {
	var (
		boot   bootFlags
		bank   string
		log    string
		state  string
		output *cli.Format
	)
	c := &cobra.Command{
		Use:   "measurements",
		Short: "Print the PCR values that a boot leaves, for a policy",
		Long: `Print the values that PCR 0 to 15 have after a boot, computed without a TPM. The
text is the "match" of a policy's workload: what firmware, secure boot, loader and
image decide. With --state it also has that machine's endorsement keys. The JSON has all
registers of both banks.`,
		Example: `  teesim tpm measurements --image ledger
  teesim tpm measurements --image ledger --state machine-1
  teesim tpm measurements --image ledger --bank sha384 --output json
  teesim tpm measurements --image ledger --event-log /tmp/eventlog`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := boot.boot()
			if err != nil {
				return err
			}
			hash, ok := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384}[bank]
			if !ok {
				return cli.Usagef("want sha256 or sha384", "--bank %.20q is no bank that firmware measures into", bank)
			}
			m, err := simtpm.Measurements(b)
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			if log != "" {
				if err := os.WriteFile(log, m.Log, 0o644); err != nil { //nolint:gosec // an event log is public
					return &cli.UsageError{Err: err}
				}
			}
			eks := []simtpm.EK{}
			if state != "" {
				if eks, err = simtpm.ReadEKs(state); err != nil {
					return &cli.UsageError{Err: err}
				}
			}
			if *output == cli.JSON {
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{
					"simulated": true, "tee": "tpm2", "endorsement_keys": ekIDs(eks), "image": b.Image, "secure_boot": !b.SecureBootOff,
					"pcrs": map[string]any{"sha256": hexPCRs(m.PCRs[crypto.SHA256]), "sha384": hexPCRs(m.PCRs[crypto.SHA384])},
				})
			}
			p := cli.NewPage(c.OutOrStdout())
			p.Linef("# SIMULATED measurements of image %q, for a workload with tee: tpm2", b.Image)
			p.Linef("match:")
			p.Linef("  bank: %s", eq(bank))
			matchers := append(bootMatchers(b, m.PCRs[hash]), matcher{"secure_boot", fmt.Sprintf("{eq: %t}", !b.SecureBootOff), "as the event log says it"})
			if len(eks) > 0 {
				matchers = append(matchers, matcher{"ek", ekSet(eks), "the machine"})
			}
			for _, l := range matchers {
				p.Linef("  %s: %s  # %s", l.name, l.value, l.meaning)
			}
			return p.Err()
		},
	}
	boot.register(c)
	_ = c.MarkFlagRequired("image") // the flag exists
	c.Flags().StringVar(&bank, "bank", "sha256", "sha256 or sha384")
	c.Flags().StringVar(&state, "state", "", "directory of a machine's TPM: its endorsement keys are part of the text")
	_ = c.MarkFlagDirname("state")
	c.Flags().StringVar(&log, "event-log", "", "write the boot event log to this file, too")
	_ = c.MarkFlagFilename("event-log")
	_ = c.RegisterFlagCompletionFunc("bank", cobra.FixedCompletions([]string{"sha256", "sha384"}, cobra.ShellCompDirectiveNoFileComp))
	output = cli.OutputFlag(c)
	return c
}

// ekSet matches any of a machine's endorsement keys: an agent uses one.
func ekSet(eks []simtpm.EK) string {
	var in []string
	for _, e := range ekIDs(eks) {
		in = append(in, fmt.Sprintf("%q", e.Digest))
	}
	return "{in: [" + strings.Join(in, ", ") + "]}"
}

func hexPCRs(pcrs map[int][]byte) map[string]string {
	out := make(map[string]string)
	for i, v := range pcrs {
		out[fmt.Sprint(i)] = hex.EncodeToString(v)
	}
	return out
}

// bootMatchers are the registers that say what was started.
func bootMatchers(b simtpm.Boot, pcrs map[int][]byte) []matcher {
	which := []struct {
		pcr     int
		meaning string
	}{
		{0, "the firmware"},
		{4, "the programs that were started before the kernel, and the kernel"},
		{7, "secure boot: whether it is on, its keys, and whose key was used"},
	}
	if b.Loader == simtpm.SystemdBoot {
		which = append(which, []struct {
			pcr     int
			meaning string
		}{{11, "the unified kernel image"}, {12, "the kernel's command line"}}...)
	} else {
		which = append(which, []struct {
			pcr     int
			meaning string
		}{{8, "GRUB's commands, and the kernel's command line"}, {9, "the files that GRUB has read"}}...)
	}
	var out []matcher
	for _, w := range which {
		out = append(out, matcher{fmt.Sprintf("pcr%d", w.pcr), eq(hex.EncodeToString(pcrs[w.pcr])), w.meaning})
	}
	return out
}
