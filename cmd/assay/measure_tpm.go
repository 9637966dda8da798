package main

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// tpmMeasured is the JSON output of `measure tpm-eventlog`
// (docs/reference/cli.md).
type tpmMeasured struct {
	TEE    attest.Platform      `json:"tee"`
	File   string               `json:"file"`
	Size   int                  `json:"size"`
	Format string               `json:"format"` // "crypto-agile" or "tpm1.2"
	Bank   string               `json:"bank"`
	Banks  []string             `json:"banks"` // those that the log has digests of
	PCRs   map[int]attest.Bytes `json:"pcrs"`
	Events []eventlog.Event     `json:"events"`
	Boot   *attest.MeasuredBoot `json:"boot"` // what a server would claim of it
}

// bankValue is --bank.
type bankValue string

func pcrBanks() []string { return []string{"sha256", "sha384", "sha1"} }

func (b *bankValue) String() string { return string(*b) }
func (b *bankValue) Type() string   { return "BANK" }
func (b *bankValue) Set(s string) error {
	if !slices.Contains(pcrBanks(), s) {
		return errors.New("want " + strings.Join(pcrBanks(), ", "))
	}
	*b = bankValue(s)
	return nil
}

func (b *bankValue) hash() crypto.Hash {
	switch *b {
	case "sha384":
		return crypto.SHA384
	case "sha1":
		return crypto.SHA1
	}
	return crypto.SHA256
}

// staticPCRs are the registers that a server asks for: those above can be reset.
const staticPCRs = 16

func measureTPMCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tpm-eventlog FILE",
		Short: "Compute the PCRs that a boot event log yields, and show why",
		Long: `Compute the PCR values that a TCG boot event log yields, event by event, and what
a server would claim of the boot.

FILE is the log as the kernel has it, /sys/kernel/security/tpm0/binary_bios_measurements,
in the crypto-agile format of TPM 2.0 or that of TPM 1.2; - is standard input.

Nothing vouches for a log by itself: only a quote says which PCR values a machine
really has. Of an event only the digest is measured. What is shown of its data is
marked "measured" where it hashes to the digest, and is a description otherwise;
its type is whatever the log says.`,
		Example: `  assay measure tpm-eventlog /sys/kernel/security/tpm0/binary_bios_measurements
  assay measure tpm-eventlog --bank sha384 --output json eventlog.bin
  assay measure tpm-eventlog --pcr 0,4,7 --reference web-servers --output policy eventlog.bin`,
		Args: cobra.ExactArgs(1),
	}
	var (
		bank   = bankValue("sha256")
		output = measureOutput(cli.Text)
		name   string
		only   []int
	)
	f := c.Flags()
	f.Var(&bank, "bank", "the bank of PCRs: "+strings.Join(pcrBanks(), ", "))
	f.IntSliceVar(&only, "pcr", nil, "only these `PCRS`, as in 0,4,7")
	f.StringVar(&name, "reference", "tpm", "`NAME` that the reference sets begin with, for --output policy")
	f.Var(&output, "output", "output format")
	// The flags exist: they were added above.
	for flag, values := range map[string][]string{"output": measureOutputs(), "bank": pcrBanks()} {
		_ = c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return values, cobra.ShellCompDirectiveNoFileComp
		})
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		for _, i := range only {
			if i < 0 || i > 23 {
				return cli.Usagef("a TPM has PCRs 0 to 23", "--pcr %d: there is no such PCR", i)
			}
		}
		raw, err := readInput(c, args[0])
		if err != nil {
			return err
		}
		m, err := measureEventLog(args[0], raw, bank, only)
		if err != nil {
			return err
		}
		switch output {
		case measureOutput(cli.JSON):
			return cli.PrintJSON(c.OutOrStdout(), m)
		case policyOutput:
			return printTPMReference(cli.NewPage(c.OutOrStdout()), name, m)
		}
		return printTPMMeasured(cli.NewPage(c.OutOrStdout()), m)
	}
	return c
}

func measureEventLog(file string, raw []byte, bank bankValue, only []int) (*tpmMeasured, error) {
	l, err := eventlog.Events(raw, bank.hash())
	if err != nil {
		return nil, err
	}
	static := maps.Clone(l.PCRs)
	maps.DeleteFunc(static, func(i int, _ attest.Bytes) bool { return i >= staticPCRs })
	m := &tpmMeasured{TEE: attest.TPM2, File: file, Size: len(raw), Format: "tpm1.2", Bank: string(bank), Banks: l.Banks, PCRs: l.PCRs, Events: l.Events}
	if l.Agile {
		m.Format = "crypto-agile"
	}
	if m.Events == nil {
		m.Events = []eventlog.Event{}
	}
	if m.Boot, err = eventlog.Replay(raw, bank.hash(), static); err != nil {
		return nil, err
	}
	if only != nil {
		maps.DeleteFunc(m.PCRs, func(i int, _ attest.Bytes) bool { return !slices.Contains(only, i) })
		m.Events = slices.DeleteFunc(m.Events, func(e eventlog.Event) bool { return !slices.Contains(only, e.PCR) })
	}
	return m, nil
}

func printTPMMeasured(p *cli.Page, m *tpmMeasured) error {
	p.Linef("NOT VERIFIED: %s yields these PCRs (%s); only a quote says which ones a machine has", m.File, m.Bank)
	printRegisters(p, "PCRs", m.PCRs)
	p.Title("Events (%s, digests of %s)", m.Format, strings.Join(m.Banks, ", "))
	rows := make([][]string, 0, len(m.Events))
	for _, e := range m.Events {
		how, digest := "measured", e.Digest.String()
		switch {
		case !e.Extends:
			how, digest = "information", "-"
		case !e.Measured:
			how = "described"
		}
		pcr := strconv.Itoa(e.PCR)
		if e.PCR < 0 {
			pcr = "-"
		}
		rows = append(rows, []string{strconv.Itoa(e.Number), pcr, e.Type, digest, how, clipText(e.Text, 160)})
	}
	p.Table([]string{"event", "pcr", "type", "digest", "text is", "text"}, rows)
	p.Title("What a server would claim, if a quote had these PCRs")
	printBoot(p, m.Boot)
	return p.Err()
}

// clipText shortens text for a table.
func clipText(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}

// printBoot prints the claims of a measured boot.
func printBoot(p *cli.Page, b *attest.MeasuredBoot) {
	said := func(s string) string {
		if s == "" {
			return "not said"
		}
		return s
	}
	secure := "not said"
	if b.SecureBoot != nil {
		secure = map[bool]string{true: "on", false: "off"}[*b.SecureBoot]
	}
	var replayed []string
	for _, i := range b.Replayed {
		replayed = append(replayed, strconv.Itoa(i))
	}
	facts := []cli.Fact{
		{Name: "replayed", Value: "PCR " + said(strings.Join(replayed, " "))},
		{Name: "secure boot", Value: secure},
		{Name: "firmware", Value: said(b.Firmware)},
	}
	for i, d := range b.Loaders {
		facts = append(facts, cli.Fact{Name: fmt.Sprintf("loader %d", i+1), Value: d.String()})
	}
	facts = append(facts, cli.Fact{Name: "command line", Value: said(b.CommandLine)})
	if len(b.GRUBCommands) > 0 {
		facts = append(facts, cli.Fact{Name: "grub", Value: "ran " + cli.Count(len(b.GRUBCommands), "command")})
	}
	if len(b.GRUBFiles) > 0 {
		facts = append(facts, cli.Fact{Name: "files in PCR 9", Value: strconv.Itoa(len(b.GRUBFiles))})
	}
	for _, name := range sortedKeys(b.Unified) {
		facts = append(facts, cli.Fact{Name: "section " + name, Value: b.Unified[name].String()})
	}
	for _, name := range sortedKeys(b.Keys) {
		facts = append(facts, cli.Fact{Name: "key " + name, Value: b.Keys[name].String()})
	}
	p.Facts(facts...)
}

// printTPMReference prints what goes into a policy: a reference set for each
// static PCR and for the loaders, and, in comments, the rules that use them.
func printTPMReference(p *cli.Page, name string, m *tpmMeasured) error {
	if !referenceName(name) {
		return cli.Usagef("give a name as in web-servers", "--reference %q: want lower-case letters, digits and hyphens", name)
	}
	if m.Bank == "sha1" {
		return cli.Usagef("use --bank sha256", "--output policy: no policy names SHA-1 values")
	}
	note := yamlString(filepath.Base(m.File))
	var rules []string
	p.Linef("references:")
	set := func(field, matcher string, values ...attest.Bytes) {
		set := name + "-" + strings.TrimPrefix(field, "boot.")
		p.Linef("  %s:", set)
		for i, v := range values {
			if slices.ContainsFunc(values[:i], func(w attest.Bytes) bool { return w.String() == v.String() }) {
				continue // a loader that was started twice
			}
			p.Linef("    - {value: \"%s\", note: %s}", v, note)
		}
		rules = append(rules, fmt.Sprintf("%s: {%s: %s}", field, matcher, set))
	}
	for _, i := range slices.Sorted(maps.Keys(m.PCRs)) {
		if i < staticPCRs {
			set(fmt.Sprintf("pcr%d", i), "in", m.PCRs[i])
		}
	}
	if _, ok := m.PCRs[4]; ok && len(m.Boot.Loaders) > 0 {
		set("boot.loaders", "every", m.Boot.Loaders...)
	}
	if rules == nil {
		return &attest.Error{Kind: attest.Malformed, Check: eventlog.CheckStructure, Err: errors.New("this log has no events for the PCRs that are asked for")}
	}
	p.Linef("# In the workload (tee: tpm2), under match, as many of these as you need. Firmware")
	p.Linef("# settings change PCR 1, the disk's layout PCR 5, every kernel update PCR 4, 8, 9, 11.")
	for _, r := range rules {
		p.Linef("#     %s", r)
	}
	return p.Err()
}
