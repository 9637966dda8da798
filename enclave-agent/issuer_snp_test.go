package agent_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/issuer/ca"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/svid"
)

// SEV-SNP guests against the real server, as in issuer_test.go.

const vaultID = "spiffe://" + realDomain + "/vault"

var amd = sync.OnceValue(func() *simsnp.Authority { return must(simsnp.NewAuthority(simsnp.Options{})) })

func vaultChip() *simsnp.Chip { return must(amd().Chip(simsnp.Turin, "ours")) }

func vaultImage() []byte { return simsnp.MeasurementFromSeed("vault") }

// vaultPolicy grants the image an identity on our own chip.
func vaultPolicy() string {
	return fmt.Sprintf(`version: 1
bundle: vaults
revision: 1
trust_domain: %s
references:
  our-chips:
    dedicated: true
    values: [{value: %q}]
workloads:
  - name: vault
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {eq: %q}
      chip_id: {in: our-chips}
    issue:
      - {spiffe_id: %q, x509_ttl: 1h}
`, realDomain, hex.EncodeToString(vaultChip().ID()), hex.EncodeToString(vaultImage()), vaultID)
}

// guest is an agent's configuration in a simulated guest.
func (s *realServer) guest(chip *simsnp.Chip, l simsnp.Launch, o agent.SNPOptions, faults ...simsnp.Fault) agent.Config {
	s.t.Helper()
	g := must(chip.Launch(l, faults...))
	dir := short(s.t)
	amdsp := must(simsnp.Listen(filepath.Join(dir, "guest.sock")))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, amdsp) }()
	s.t.Cleanup(func() { cancel(); <-done })
	o.Log = slog.New(slog.NewTextHandler(&testLines{t: s.t}, nil))
	return s.config(dir, agent.NewSNPSocket(filepath.Join(dir, "guest.sock"), o))
}

func snpFault(name string) simsnp.Fault {
	f, ok := simsnp.FaultByName(name)
	if !ok {
		panic("there is no fault " + name)
	}
	return f
}

func TestASimulatedGuestGetsAnSVIDFromTheRealServerAndRenewsIt(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, vaultPolicy())
	cfg := s.guest(vaultChip(), simsnp.Launch{Measurement: vaultImage(), CRL: true}, agent.SNPOptions{})
	start(t, cfg)
	x := names(t, cfg, vaultID)
	b, ok := x.Bundles.Get(spiffeid.RequireTrustDomainFromString(realDomain))
	if !ok {
		t.Fatal("no bundle")
	}
	block, _ := pem.Decode(must(ca.VerifierRootPEM(s.cfg.DataDir)))
	verifierKeys := must(svid.ParseVerifierKeys(s.ca.VerifierKeysDocument(), must(x509.ParsePKIXPublicKey(block.Bytes)), time.Now()))
	if _, err := svid.Verify(x.SVIDs[0].Certificates, svid.NewSource(x509bundle.NewSet(b), verifierKeys), time.Now(),
		svid.Simulated(), svid.Tee(attest.AMDSEVSNP), svid.Measurement("measurement", vaultImage()), svid.Owned()); err != nil {
		t.Fatal(err)
	}

	before := serialOf(x)
	s.reattest(t)
	waitFor(t, "a renewal", func() bool { x, err := x509Context(cfg); return err == nil && serialOf(x) != before })
	var purposes []string
	for i, err := range s.ledger.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		purposes = append(purposes, string(i.Entry.Purpose))
	}
	if diff := cmp.Diff([]string{"boot", "renew"}, purposes); diff != "" {
		t.Errorf("the ledger's purposes: %s", diff)
	}
}

// Policy writes neither debug nor VMPL: the compiler adds both.
func TestAGuestThatTheHostCanLookIntoGetsNothingFromTheRealServer(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, vaultPolicy())
	for name, c := range map[string]struct {
		chip   *simsnp.Chip
		launch simsnp.Launch
	}{
		"debug":              {vaultChip(), simsnp.Launch{Measurement: vaultImage(), Policy: simsnp.DefaultPolicy | simsnp.PolicyDebug}},
		"a migration agent":  {vaultChip(), simsnp.Launch{Measurement: vaultImage(), Policy: simsnp.DefaultPolicy | simsnp.PolicyMigrateMA}},
		"VMPL 3":             {vaultChip(), simsnp.Launch{Measurement: vaultImage(), VMPL: 3}},
		"another image":      {vaultChip(), simsnp.Launch{Measurement: simsnp.MeasurementFromSeed("other")}},
		"somebody's machine": {must(amd().Chip(simsnp.Turin, "theirs")), simsnp.Launch{Measurement: vaultImage()}},
	} {
		cfg := s.guest(c.chip, c.launch, agent.SNPOptions{})
		lines := &safeBuffer{}
		cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
		start(t, cfg)
		waitFor(t, "a denial in the log of "+name, func() bool { return strings.Contains(lines.String(), "denied by policy") })
		if got := lines.String(); !strings.Contains(got, "kind=denied check=policy") || !strings.Contains(got, "assay ledger show as-") {
			t.Errorf("%s: the log says %s", name, got)
		}
		if _, err := x509Context(cfg); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %v, want PermissionDenied", name, err)
		}
	}
}

// A server without the chip's certificate needs it from the guest, which needs
// it from its host or from the KDS.
func TestAGuestWithoutCertificatesIsRefusedUntilItFetchesItsOwn(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, vaultPolicy())
	launch, none := simsnp.Launch{Measurement: vaultImage()}, snpFault("endorsement-missing")

	cfg := s.guest(vaultChip(), launch, agent.SNPOptions{}, none)
	lines := &safeBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	start(t, cfg)
	waitFor(t, "a refusal in the log", func() bool { return strings.Contains(lines.String(), "kind=untrusted check=endorsement_missing") })

	sim := amd().KDS(simsnp.KDSOptions{Chips: []*simsnp.Chip{vaultChip()}})
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	cfg = s.guest(vaultChip(), launch, agent.SNPOptions{KDS: must(agent.NewKDS(srv.URL))}, none)
	start(t, cfg)
	before := serialOf(names(t, cfg, vaultID))
	s.reattest(t)
	waitFor(t, "a renewal", func() bool { x, err := x509Context(cfg); return err == nil && serialOf(x) != before })
	if n := sim.RequestCount(); n != 1 {
		t.Errorf("%d requests: %v", n, sim.Requests())
	}
}

// What the simulated hardware does wrong reaches the log by the check's name,
// and never an identity. Every fault has its test beside the verifier.
func TestWhatTheVerifierRefusesTheAgentNames(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, vaultPolicy())
	for _, name := range []string{"version-6", "leaf-expired", "foreign-root", "leaf-forged"} {
		f := snpFault(name)
		cfg := s.guest(vaultChip(), simsnp.Launch{Measurement: vaultImage()}, agent.SNPOptions{}, f)
		lines := &safeBuffer{}
		cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
		start(t, cfg)
		waitFor(t, "a refusal by "+f.Check, func() bool { return strings.Contains(lines.String(), "kind="+f.Kind+" check="+f.Check) })
	}
}
