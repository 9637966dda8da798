package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

func measureCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "measure",
		Short: "Compute what a policy should expect of an image",
		Long: `Compute measurements from the files that a guest is launched with, so that a
policy can name them before the guest has ever run.`,
		Example: "  assay measure snp --ovmf OVMF.fd --vcpus 4 --vcpu-type EPYC-Genoa",
	}
	c.AddCommand(measureNitroCommand(), measureSNPCommand(), measureTPMCommand())
	return c
}

// snpMeasured is the JSON output of `measure snp` (docs/reference/cli.md).
type snpMeasured struct {
	TEE           attest.Platform `json:"tee"`
	Measurement   attest.Bytes    `json:"measurement"`
	VMM           string          `json:"vmm"`
	VCPUs         int             `json:"vcpus"`
	VCPUType      *string         `json:"vcpu_type"`
	VCPUSignature *string         `json:"vcpu_signature"` // CPUID leaf 1 EAX, hex
	GuestFeatures string          `json:"guest_features"` // hex
	OVMF          measuredFile    `json:"ovmf"`
	Kernel        *measuredFile   `json:"kernel"`
	Initrd        *measuredFile   `json:"initrd"`
	Append        *string         `json:"append"`
}

// measuredFile is a file that went into a measurement.
type measuredFile struct {
	Name   string       `json:"name"`
	Size   int64        `json:"size"`
	SHA256 attest.Bytes `json:"sha256"`
}

func measureSNPCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "snp --ovmf FILE --vcpus N --vcpu-type TYPE",
		Short: "Compute the launch MEASUREMENT of an SEV-SNP guest",
		Long: `Compute the MEASUREMENT that an SEV-SNP guest's reports will carry: the digest of
the pages and registers with which the host launches it.

It covers the firmware (--ovmf), the number and type of the virtual CPUs, and the
VMSA's SEV_FEATURES (--guest-features). Kernel, initrd and command line are part
of it only where the firmware checks their hashes, as OVMF's AmdSev build does
when QEMU runs with kernel-hashes=on: give them with --kernel, --initrd and
--append. Otherwise nothing in the measurement speaks of them.

--vmm says who launches: qemu on Linux 6.11 or newer, qemu-legacy on the SNP
kernels before that, which left the FPU's control words out, or ec2. On EC2 the
type of the virtual CPU is not measured.`,
		Example: `  assay measure snp --ovmf OVMF.fd --vcpus 4 --vcpu-type EPYC-Genoa
  assay measure snp --ovmf OVMF.amdsev.fd --kernel vmlinuz --initrd initrd.img --append "console=ttyS0 ro" --vcpus 2 --vcpu-type EPYC-v4 --output policy
  assay measure snp --vmm ec2 --ovmf ovmf_img.fd --vcpus 2 --output json`,
		Args: cobra.NoArgs,
	}
	var (
		in       snpLaunch
		line     string
		features = featuresValue(1)
		output   = measureOutput(cli.Text)
		name     string
	)
	f := c.Flags()
	f.StringVar(&in.ovmf, "ovmf", "", "firmware `FILE`")
	f.StringVar(&in.kernel, "kernel", "", "kernel `FILE`, where the firmware checks its hash")
	f.StringVar(&in.initrd, "initrd", "", "initrd `FILE`, with --kernel")
	f.StringVar(&line, "append", "", "kernel command `LINE`, with --kernel")
	f.IntVar(&in.vcpus, "vcpus", 0, "`NUMBER` of virtual CPUs")
	f.StringVar(&in.vcpuType, "vcpu-type", "", "QEMU's name for the `TYPE` of virtual CPU: "+strings.Join(vcpuTypes(), ", ")+", with or without a version as in EPYC-v4")
	f.Var(&features, "guest-features", "SEV_FEATURES of the VMSA; bit 0 (SNP active) is set")
	f.StringVar(&in.vmm, "vmm", vmmQEMU, "the `VMM` that launches the guest: "+strings.Join(vmms(), ", "))
	f.StringVar(&name, "reference", "snp-images", "`NAME` of the reference set, for --output policy")
	f.Var(&output, "output", "output format")
	// The flags exist: they were added above.
	for flag, values := range map[string][]string{"output": measureOutputs(), "vcpu-type": vcpuTypes(), "vmm": vmms()} {
		_ = c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return values, cobra.ShellCompDirectiveNoFileComp
		})
	}
	for _, required := range []string{"ovmf", "vcpus"} {
		_ = c.MarkFlagRequired(required)
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		in.features = uint64(features)
		if c.Flags().Changed("append") {
			in.append = &line
		}
		m, err := in.measure(c)
		if err != nil {
			return err
		}
		switch output {
		case measureOutput(cli.JSON):
			return cli.PrintJSON(c.OutOrStdout(), m)
		case policyOutput:
			return printReference(cli.NewPage(c.OutOrStdout()), name, m)
		}
		return printMeasured(cli.NewPage(c.OutOrStdout()), m)
	}
	return c
}

func printMeasured(p *cli.Page, m *snpMeasured) error {
	p.Linef("%s", m.Measurement)
	p.Title("Measured")
	file := func(f measuredFile) string {
		return fmt.Sprintf("%s, %s, SHA-256 %s", f.Name, cli.Count(int(f.Size), "byte"), f.SHA256)
	}
	facts := []cli.Fact{{Name: "ovmf", Value: file(m.OVMF)}}
	if m.Kernel != nil {
		facts = append(facts, cli.Fact{Name: "kernel", Value: file(*m.Kernel)})
		initrd, line := "none", `""`
		if m.Initrd != nil {
			initrd = file(*m.Initrd)
		}
		if m.Append != nil {
			line = strconv.Quote(*m.Append)
		}
		facts = append(facts, cli.Fact{Name: "initrd", Value: initrd}, cli.Fact{Name: "append", Value: line})
	} else {
		facts = append(facts, cli.Fact{Name: "kernel", Value: "not measured: the firmware may start any"})
	}
	cpu := fmt.Sprint(m.VCPUs)
	if m.VCPUType != nil {
		cpu += fmt.Sprintf(" of type %s (signature %s)", *m.VCPUType, *m.VCPUSignature)
	}
	p.Facts(append(facts,
		cli.Fact{Name: "vcpus", Value: cpu},
		cli.Fact{Name: "guest features", Value: m.GuestFeatures},
		cli.Fact{Name: "vmm", Value: m.VMM})...)
	return p.Err()
}

// printReference prints what goes into a policy: a reference set, and, in a
// comment, the rule that uses it.
func printReference(p *cli.Page, name string, m *snpMeasured) error {
	note := fmt.Sprintf("%s, %s", m.OVMF.Name, cli.Count(m.VCPUs, "vCPU"))
	if m.VCPUType != nil {
		note += " " + *m.VCPUType
	}
	if m.Kernel != nil {
		note += ", kernel " + m.Kernel.Name
	}
	if m.Initrd != nil {
		note += ", initrd " + m.Initrd.Name
	}
	if !referenceName(name) {
		return cli.Usagef("give a name as in payments-images", "--reference %q: want lower-case letters, digits and hyphens", name)
	}
	p.Linef("references:")
	p.Linef("  %s:", name)
	p.Linef("    - {value: \"%s\", note: %s}", m.Measurement, yamlString(note))
	p.Linef("# In the workload (tee: amd-sev-snp), under match:")
	p.Linef("#     measurement: {in: %s}", name)
	return p.Err()
}

func referenceName(s string) bool {
	return s != "" && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// yamlString quotes text for YAML: double quotes and, of the escapes, only those
// that Go and YAML share. File names with anything else lose it.
func yamlString(s string) string {
	return `"` + strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, s) + `"`
}

// measureOutput is --output of `measure`.
type measureOutput cli.Format

const policyOutput measureOutput = "policy"

func measureOutputs() []string {
	return []string{string(cli.Text), string(cli.JSON), string(policyOutput)}
}

func (o *measureOutput) String() string { return string(*o) }
func (o *measureOutput) Type() string   { return "text|json|policy" }
func (o *measureOutput) Set(s string) error {
	if !slices.Contains(measureOutputs(), s) {
		return errors.New("want text, json or policy")
	}
	*o = measureOutput(s)
	return nil
}

// featuresValue is --guest-features.
type featuresValue uint64

func (v *featuresValue) String() string { return fmt.Sprintf("%#x", uint64(*v)) }
func (v *featuresValue) Type() string   { return "HEX" }
func (v *featuresValue) Set(s string) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
	switch {
	case err != nil:
		return errors.New("want a hexadecimal number of at most 64 bits, as in 0x1")
	case n&1 == 0:
		return errors.New("bit 0 says that SNP is active: a guest without it makes no report")
	}
	*v = featuresValue(n)
	return nil
}
