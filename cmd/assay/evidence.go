package main

import (
	"crypto/x509"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

func evidenceCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "evidence",
		Short: "Look at hardware evidence, verify it, or collect it",
		Long: `Evidence is what a TEE's hardware signs about itself: an AWS Nitro Enclaves
attestation document, an AMD SEV-SNP attestation report, a TPM 2.0's quote. These
commands need no server and no network.`,
		Example: `  assay evidence verify --tee aws-nitro document.cbor
  assay evidence verify --tee amd-sev-snp --endorsement vcek.der report.bin
  assay evidence inspect --tee amd-sev-snp report.bin`,
	}
	c.AddCommand(evidenceVerifyCommand(now), evidenceInspectCommand(), evidenceCollectCommand(), evidenceImportCommand())
	return c
}

func evidenceInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect --tee TEE FILE",
		Short: "Show what evidence says, without verifying any of it",
		Long: `Show what evidence says. Nothing is verified: whoever made the file may have
written anything into it. Use it to see why evidence does not verify.

FILE may be binary, hex or base64; a Nitro document with or without the NSM's
response around it, an SEV-SNP report with or without the host's certificate
table behind it; a TPM's quote in Assay's JSON or CBOR (docs/spec/tpm-evidence.md)
or as go-tpm-tools' Attestation. - is standard input.`,
		Example: `  assay evidence inspect --tee aws-nitro document.cbor
  assay evidence inspect --tee amd-sev-snp --output json report.bin
  curl -s https://enclave.example.org/attestation | assay evidence inspect --tee aws-nitro --output json -`,
		Args: cobra.ExactArgs(1),
	}
	platform := teeFlag(c)
	log := eventLogFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		t, err := platform()
		if err != nil {
			return err
		}
		raw, err := readInput(c, args[0])
		if err != nil {
			return err
		}
		ev, err := t.normalize(raw)
		if err != nil {
			return err
		}
		if err := log.add(c, t, &ev); err != nil {
			return err
		}
		seen, err := t.inspect(ev)
		if err != nil {
			return err
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{
				"verified": false, "tee": t.platform, "unverified": seen.Document,
			})
		}
		return printInspection(cli.NewPage(c.OutOrStdout()), t, len(ev.Body), seen)
	}
	return c
}

func printInspection(p *cli.Page, t tee, size int, seen *inspection) error {
	p.Linef("NOT VERIFIED: nothing below was checked, and whoever made the file may have written it")
	p.Title("%s evidence, %s", t.title, cli.Count(size, "byte"))
	seen.print(p)
	printChain(p, seen.chain)
	return p.Err()
}

// printChain shows certificates, root first.
func printChain(p *cli.Page, chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	p.Title("Certificates, root first")
	var rows [][]string
	for _, cert := range chain {
		rows = append(rows, []string{stamp(cert.NotBefore), stamp(cert.NotAfter), cert.Subject.String()})
	}
	p.Table([]string{"not before", "not after", "subject"}, rows)
}
