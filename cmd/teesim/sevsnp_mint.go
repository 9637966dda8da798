package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func sevsnpMintCommand() *cobra.Command {
	var (
		authority    snpAuthorityFlags
		launch       snpLaunchFlags
		fault        faultFlags
		reportData   hexValue
		at           timeValue
		extended     bool
		certificates string
	)
	c := &cobra.Command{
		Use:   "mint",
		Short: "Make one attestation report",
		Long: `Make one attestation report and write its bytes to standard output, with
--extended the certificate table behind it. The certificates (and with --crl the
CRL) can also be had in PEM, with --certificates. With --fault, exactly that is
wrong; without one the report verifies under the authority's roots. Faults of time
count from --at: verify at that time.`,
		Example: `  teesim sevsnp mint --image ledger --report-data 00ff --certificates chain.pem > report.bin
  teesim sevsnp mint --product turin --image ledger --extended > extended.bin
  teesim sevsnp mint --image ledger --fault tcb-other --certificates chain.pem > bad.bin`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, _, err := launch.launch(); err != nil {
				return err
			}
			faults, err := chosen(&fault, simsnp.FaultByName)
			if err != nil {
				return err
			}
			if len(reportData.value()) > 64 {
				return cli.Usagef("it is filled up with zeros", "--report-data has %d bytes, at most 64 fit", len(reportData.value()))
			}
			if toTerminal(c) {
				return cli.Usagef("redirect it: teesim sevsnp mint … > report.bin", "a report is not text, and would disturb the terminal")
			}
			a, err := authority.open(at.t)
			if err != nil {
				return err
			}
			g, err := launch.guest(a, faults)
			if err != nil {
				return err
			}
			if certificates != "" {
				if err := os.WriteFile(certificates, endorsementsPEM(g), 0o644); err != nil { //nolint:gosec // certificates are public
					return &cli.UsageError{Err: err}
				}
			}
			var data [64]byte
			copy(data[:], reportData.value())
			make := g.Report
			if extended {
				make = g.ExtendedReport
			}
			report, err := make(data)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(report)
			return err
		},
	}
	authority.register(c)
	launch.register(c)
	fault.register(c, "teesim sevsnp faults", snpFaults)
	c.Flags().Var(&reportData, "report-data", "REPORT_DATA, up to 64 bytes, filled up with zeros")
	c.Flags().Var(&at, "at", "time of the simulated world (default now)")
	c.Flags().BoolVar(&extended, "extended", false, "write the certificate table behind the report")
	c.Flags().StringVar(&certificates, "certificates", "", "file for the certificates in PEM")
	_ = c.MarkFlagFilename("certificates")
	return c
}

// endorsementsPEM writes each endorsement as what it is; what is neither a
// certificate nor a CRL, by some fault, is called a certificate.
func endorsementsPEM(g *simsnp.Guest) []byte {
	var b bytes.Buffer
	for _, der := range g.Endorsements() {
		kind := "CERTIFICATE"
		if _, err := x509.ParseRevocationList(der); err == nil {
			kind = "X509 CRL"
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return b.Bytes()
}
