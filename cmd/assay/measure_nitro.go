package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/measure/eif"
)

// nitroMeasured is the JSON output of `measure nitro` (docs/reference/cli.md).
type nitroMeasured struct {
	TEE          attest.Platform         `json:"tee"`
	File         string                  `json:"file"`
	Size         int64                   `json:"size"`
	Name         string                  `json:"name"` // from the metadata, which nothing measures
	Version      string                  `json:"version"`
	Architecture string                  `json:"architecture"`
	CommandLine  string                  `json:"command_line"`
	Measurements map[string]attest.Bytes `json:"measurements"` // "pcr0", "pcr1", "pcr2", "pcr8" where it is signed
	Signer       *nitroSigner            `json:"signer"`
	Sections     []nitroSection          `json:"sections"`
}

type nitroSigner struct {
	Subject   string       `json:"subject"`
	SHA256    attest.Bytes `json:"sha256"`
	NotBefore time.Time    `json:"not_before"`
	NotAfter  time.Time    `json:"not_after"`
}

type nitroSection struct {
	Kind   string `json:"kind"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

func measureNitroCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "nitro FILE",
		Short: "Compute the PCR values of an enclave image file (EIF)",
		Long: `Compute the PCR values that an enclave launched from an image file (EIF) will
report: PCR0 (the whole image), PCR1 (kernel, command line and boot ramdisk), PCR2
(the application) and, where the image is signed, PCR8 (the signing certificate).

The file is checked as well: its structure, its checksum, and that the signature
is over this very image. PCR3 and PCR4 come from the parent instance's role and
id, and are in no file.`,
		Example: `  assay measure nitro payments-41.eif
  assay measure nitro payments-41.eif --output policy --reference payments-images
  assay measure nitro payments-41.eif --output json | jq -r .measurements.pcr0`,
		Args: cobra.ExactArgs(1),
	}
	output, reference := measureOutput(cli.Text), ""
	f := c.Flags()
	f.Var(&output, "output", "output format")
	f.StringVar(&reference, "reference", "nitro-images", "`NAME` of the reference set, for --output policy")
	_ = c.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return measureOutputs(), cobra.ShellCompDirectiveNoFileComp
	}) // the flag exists
	c.RunE = func(c *cobra.Command, args []string) error {
		img, err := measureEIF(c, args[0])
		if err != nil {
			return err
		}
		switch output {
		case measureOutput(cli.JSON):
			return cli.PrintJSON(c.OutOrStdout(), nitroReport(args[0], img))
		case policyOutput:
			return printNitroReference(cli.NewPage(c.OutOrStdout()), reference, args[0], img)
		}
		return printNitroMeasured(cli.NewPage(c.OutOrStdout()), img)
	}
	return c
}

// measureEIF reads an image of any size, from a file or from standard input.
func measureEIF(c *cobra.Command, path string) (*eif.Image, error) {
	in := c.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, cli.Usagef(fileHint(err), "%s", clean(err))
		}
		defer func() { _ = f.Close() }() // it was only read
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return nil, cli.Usagef("name an enclave image file", "%s: is a directory", path)
		}
		in = f
	}
	img, err := eif.Measure(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return img, nil
}

func nitroReport(path string, img *eif.Image) nitroMeasured {
	m := nitroMeasured{
		TEE: attest.AWSNitro, File: path, Size: img.Size, Name: img.Name, Version: img.ImageVersion,
		Architecture: img.Arch, CommandLine: img.CommandLine,
		Measurements: map[string]attest.Bytes{"pcr0": img.PCR0, "pcr1": img.PCR1, "pcr2": img.PCR2},
	}
	if s := img.Signer; s != nil {
		m.Measurements["pcr8"] = img.PCR8
		m.Signer = &nitroSigner{s.Subject, s.SHA256, s.NotBefore.UTC(), s.NotAfter.UTC()}
	}
	for _, s := range img.Sections {
		m.Sections = append(m.Sections, nitroSection{s.Kind.String(), s.Offset, s.Size})
	}
	return m
}

func printNitroMeasured(p *cli.Page, img *eif.Image) error {
	pcr8 := "unsigned: the register stays zero"
	if img.PCR8 != nil {
		pcr8 = img.PCR8.String()
	}
	p.Facts([]cli.Fact{
		{Name: "pcr0", Value: img.PCR0.String()},
		{Name: "pcr1", Value: img.PCR1.String()},
		{Name: "pcr2", Value: img.PCR2.String()},
		{Name: "pcr8", Value: pcr8},
	}...)
	p.Title("Image")
	facts := []cli.Fact{
		{Name: "name", Value: strings.TrimSpace(img.Name + " " + img.ImageVersion)},
		{Name: "architecture", Value: img.Arch},
		{Name: "size", Value: cli.Count(int(img.Size), "byte")},
		{Name: "command line", Value: fmt.Sprintf("%q", img.CommandLine)},
	}
	if s := img.Signer; s != nil {
		facts = append(facts, cli.Fact{Name: "signer", Value: fmt.Sprintf("%q, valid %s to %s, SHA-256 %s",
			s.Subject, s.NotBefore.UTC().Format(time.DateOnly), s.NotAfter.UTC().Format(time.DateOnly), s.SHA256)})
	}
	p.Facts(facts...)
	return p.Err()
}

// printNitroReference prints what goes into a policy.
func printNitroReference(p *cli.Page, name, path string, img *eif.Image) error {
	if !referenceName(name) {
		return cli.Usagef("give a name as in payments-images", "--reference %q: want lower-case letters, digits and hyphens", name)
	}
	note := strings.TrimSpace(img.Name + " " + img.ImageVersion)
	p.Linef("references:")
	p.Linef("  %s:", name)
	p.Linef("    - {value: \"%s\", note: %s, source: %s}", img.PCR0, yamlString(note), yamlString(filepath.Base(path)))
	p.Linef("# In the workload (tee: aws-nitro), under match:")
	p.Linef("#     pcr0: {in: %s}", name)
	if img.PCR8 != nil {
		p.Linef("#     pcr8: {eq: \"%s\"}  # %s", img.PCR8, strings.Trim(yamlString(img.Signer.Subject), `"`))
	}
	return p.Err()
}
