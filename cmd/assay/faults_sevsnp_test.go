package main

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func snpAuthority(t testing.TB) *simsnp.Authority {
	t.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return fixtureTime }})
	check(t, err)
	return a
}

// Every fault goes through the command as a host would hand it over: the report
// with the certificate table behind it.
func TestEverySimulatedFaultOfAReportEndsTheCommandWithItsKind(t *testing.T) {
	authority, dir := snpAuthority(t), t.TempDir()
	roots, arks := filepath.Join(dir, "roots.pem"), filepath.Join(dir, "arks.pem")
	check(t, os.WriteFile(roots, authority.RootsPEM(), 0o600))
	check(t, os.WriteFile(arks, authority.ARKsPEM(), 0o600))
	refused := 0
	for _, f := range simsnp.Faults() {
		if f.Stage != simsnp.StageAuthenticate || f.Check == "" {
			continue
		}
		refused++
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			extended := faultyReport(t, authority, f)
			args := []string{"evidence", "verify", "--tee", "amd-sev-snp", "--at", fixtureTime.Format(time.RFC3339), "--output", "json", "--roots", roots}
			if f.Intermediate {
				args[len(args)-1] = arks
			}
			if f.Revocation {
				args = append(args, "--require-crl")
			}
			got := assay(t, extended, append(args, "-")...)
			var v verdict
			got.decode(t, &v)
			var kind attest.Kind
			check(t, kind.UnmarshalText([]byte(f.Kind)))
			if v.Verified || v.Claims != nil || v.Check == nil || v.Kind == nil || *v.Kind != kind || got.code != cli.KindCode(kind) {
				t.Fatalf("exit code %d, want %s:\n%s", got.code, f.Kind, got.stdout)
			}
			// A file that cannot be told for a report is refused before that.
			if *v.Check != f.Check && (!slices.Contains([]string{"encoding", "cert_table"}, *v.Check) || !slices.Contains([]string{"size", "report_version", "endorsements"}, f.Check)) {
				t.Errorf("check %s, want %s", *v.Check, f.Check)
			}
			if got := assay(t, extended, "evidence", "inspect", "--tee", "amd-sev-snp", "-"); got.code != cli.OK && got.code != cli.Malformed {
				t.Errorf("inspect: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
	if refused < 80 {
		t.Errorf("only %d faults", refused)
	}
}

// faultyReport is an extended report with one fault, of the first product and
// signing key that can have it.
func faultyReport(t *testing.T, a *simsnp.Authority, f simsnp.Fault) []byte {
	t.Helper()
	for _, p := range []simsnp.Product{simsnp.Milan, simsnp.Genoa, simsnp.Turin} {
		for _, k := range []simsnp.SigningKey{simsnp.VCEK, simsnp.VLEK} {
			if !f.Applies(p, k) {
				continue
			}
			chip, err := a.Chip(p, "a chip")
			check(t, err)
			guest, err := chip.Launch(simsnp.Launch{SigningKey: k}, f)
			check(t, err)
			b, err := guest.ExtendedReport([64]byte{1})
			check(t, err)
			return b
		}
	}
	t.Fatalf("%s applies to nothing", f.Name)
	return nil
}

func TestWhatVerifiesAndIsNotToBeBelievedWarns(t *testing.T) {
	authority, dir := snpAuthority(t), t.TempDir()
	roots := filepath.Join(dir, "roots.pem")
	check(t, os.WriteFile(roots, authority.RootsPEM(), 0o600))
	warned := 0
	for _, f := range simsnp.Faults() {
		if f.Check != "" {
			continue
		}
		got := assay(t, faultyReport(t, authority, f), "evidence", "verify", "--tee", "amd-sev-snp", "--at", fixtureTime.Format(time.RFC3339), "--roots", roots, "--output", "json", "-")
		var v verdict
		got.decode(t, &v)
		if got.code != cli.OK || !v.Verified || !v.Claims.Simulated {
			t.Fatalf("%s: exit code %d\n%s", f.Name, got.code, got.stdout)
		}
		s := v.Claims.SNP
		want := 1 // simulated
		for _, is := range []bool{s.Policy.Debug, s.Policy.MigrateMA, s.VMPL != 0} {
			if is {
				want++
				warned++
			}
		}
		if len(v.Warnings) != want {
			t.Errorf("%s: warnings %q, want %d", f.Name, v.Warnings, want)
		}
	}
	if warned < 3 {
		t.Errorf("%d faults warn, want debug, migrate_ma and vmpl at least", warned)
	}
}

// snpFixtures writes reports of a simulated guest, and what goes with them:
//
//	snp-roots.pem                  the simulator's roots   snp-foreign.pem  ARKs of the other product lines
//	snp.bin .hex .b64 .ext         a report with a binding, with its certificates in snp-certs.pem, or behind it (.ext)
//	snp-collected.bin              a report as `evidence collect --nonce $NONCE` makes it
//	snp-nonce.bin                  REPORT_DATA is the nonce itself
//	snp-debug.ext snp-vmpl.ext     refused by policies alone
//	snp-vcek.der snp-ask.der       as files of their own
//	snp.crl snp-revoked.ext        a current CRL; a report whose certificate table has one that revokes the VCEK
//	snp-policy.yaml                admits snp.bin             snp-other.yaml   does not
func snpFixtures(t testing.TB, dir string) {
	t.Helper()
	a := snpAuthority(t)
	put := func(name string, b []byte) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	put("snp-roots.pem", a.RootsPEM())
	chip, err := a.Chip(simsnp.Genoa, "a chip")
	check(t, err)
	launch := simsnp.Launch{Measurement: snpMeasurement()}
	guest, err := chip.Launch(launch)
	check(t, err)
	report := func(g *simsnp.Guest, data [64]byte) []byte {
		t.Helper()
		b, err := g.Report(data)
		check(t, err)
		return b
	}
	extended := func(g *simsnp.Guest, data [64]byte) []byte {
		t.Helper()
		b, err := g.ExtendedReport(data)
		check(t, err)
		return b
	}
	bound := snpBoundData(fixtureBinding)
	put("snp.bin", report(guest, bound))
	put("snp.hex", fmt.Appendf(nil, "%x\n", report(guest, bound)))
	put("snp.ext", extended(guest, bound))
	binding, err := attest.CollectedBinding([]byte(fixtureNonce))
	check(t, err)
	put("snp-collected.bin", report(guest, snpCollected(binding)))
	put("snp-nonce.bin", report(guest, [64]byte(append([]byte(fixtureNonce), make([]byte, 64-len(fixtureNonce))...))))
	es := guest.Endorsements()
	put("snp-vcek.der", es[0])
	put("snp-ask.der", es[1])
	var text []byte
	for i := len(es) - 1; i >= 0; i-- {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: es[i]})...)
	}
	put("snp-certs.pem", text)

	other, err := a.Chip(simsnp.Milan, "another chip")
	check(t, err)
	stranger, err := other.Launch(simsnp.Launch{})
	check(t, err)
	put("snp-stranger.der", stranger.Endorsements()[0])

	launch.CRL = true
	withCRL, err := chip.Launch(launch)
	check(t, err)
	put("snp.crl", withCRL.Endorsements()[3])
	faulty := func(name string) *simsnp.Guest {
		t.Helper()
		f, ok := simsnp.FaultByName(name)
		if !ok {
			t.Fatalf("the simulator has no fault %s", name)
		}
		g, err := chip.Launch(simsnp.Launch{Measurement: snpMeasurement()}, f)
		check(t, err)
		return g
	}
	put("snp-debug.ext", extended(faulty("debug"), bound))
	put("snp-vmpl.ext", extended(faulty("vmpl-3"), bound))
	put("snp-policy.yaml", []byte(snpFixturePolicy(snpMeasurement(), chip.ID())))
	put("snp-other.yaml", []byte(snpFixturePolicy(make([]byte, 47), chip.ID())))
}

func snpMeasurement() []byte {
	b := make([]byte, 48)
	for i := range b {
		b[i] = byte(0xa0 + i)
	}
	return b
}

func snpFixturePolicy(measurement, chip []byte) string {
	if len(measurement) < 48 {
		measurement = append([]byte{0x77}, measurement...)
	}
	return fmt.Sprintf(`version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
references:
  our-chips:
    dedicated: true
    values: [{value: "%x"}]
workloads:
  - name: ledger
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {eq: "%x"}
      chip_id: {in: our-chips}
    issue:
      - spiffe_id: "spiffe://{td}/ledger"
`, chip, measurement)
}
