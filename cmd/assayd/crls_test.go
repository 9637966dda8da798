package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/policy"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// snpPolicy has one workload, a guest, in the given mode.
func snpPolicy(t *testing.T, mode string) *policy.Bundle {
	t.Helper()
	b, err := policy.Parse("policy.yaml", []byte(`version: 1
bundle: prod
revision: 1
trust_domain: simulated.example.org
workloads:
  - name: vault
    tee: amd-sev-snp
    mode: `+mode+`
    ownership: {none: "a test", owner: tests, expires: 2036-01-01}
    match:
      measurement: {eq: "`+strings.Repeat("ab", 48)+`"}
    issue: [{spiffe_id: "spiffe://{td}/vault", x509_ttl: 1h}]
`))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAServerThatAsksForCRLsAndHoldsNoneIsWarnedOf(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	server := func(change func(*config.Config)) *config.Config {
		cfg := config.Default()
		cfg.TrustDomain, cfg.SEVSNP.SimulatedRoots = "simulated.example.org", "roots.pem"
		change(&cfg)
		return &cfg
	}
	same := func(*config.Config) {}
	until := func(end time.Duration) map[string]collateral.CRLInfo {
		return map[string]collateral.CRLInfo{"genoa vcek": {ThisUpdate: now.Add(-48 * time.Hour), NextUpdate: now.Add(end)}}
	}
	for name, c := range map[string]struct {
		change func(*config.Config)
		mode   string
		held   map[string]collateral.CRLInfo
		warns  bool
	}{
		"none":                      {same, policy.Enforce, nil, true},
		"an expired one":            {same, policy.Enforce, until(-time.Hour), true},
		"a current one":             {same, policy.Enforce, until(time.Hour), false},
		"an expired one, in grace":  {func(c *config.Config) { c.SEVSNP.CRLGrace = 2 * time.Hour }, policy.Enforce, until(-time.Hour), false},
		"none is asked for":         {func(c *config.Config) { c.SEVSNP.RequireCRL = false }, policy.Enforce, nil, false},
		"nobody is admitted":        {same, policy.Audit, nil, false},
		"no guests are served":      {func(c *config.Config) { c.SEVSNP.SimulatedRoots = "" }, policy.Enforce, nil, false},
		"hardware, and none":        {func(c *config.Config) { c.TrustDomain, c.SEVSNP.SimulatedRoots = "example.org", "" }, policy.Enforce, nil, true},
		"hardware, and current one": {func(c *config.Config) { c.TrustDomain, c.SEVSNP.SimulatedRoots = "example.org", "" }, policy.Enforce, until(time.Hour), false},
	} {
		got := crlWarnings(server(c.change), snpPolicy(t, c.mode), c.held, now)
		if (len(got) > 0) != c.warns {
			t.Errorf("%s: warnings %q", name, got)
		}
	}
}

func TestTheCRLsOfTheCacheAreFoundWhereTheServerKeepsThem(t *testing.T) {
	a, err := simsnp.NewAuthority(simsnp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := config.Default()
	cfg.TrustDomain, cfg.DataDir, cfg.SEVSNP.SimulatedRoots = "simulated.example.org", dir, filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(cfg.SEVSNP.SimulatedRoots, a.RootsPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	held, err := heldCRLs(&cfg, log)
	if err != nil || len(held) != 0 {
		t.Errorf("before there is a cache: %v, %v", held, err)
	}
	if _, err := os.Lstat(collateralDir(&cfg)); !os.IsNotExist(err) {
		t.Errorf("looking made the directory: %v", err)
	}

	answer := httptest.NewRecorder()
	a.KDS(simsnp.KDSOptions{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/vcek/v1/Genoa/crl", nil))
	der, err := io.ReadAll(answer.Result().Body)
	if err != nil || answer.Code != http.StatusOK {
		t.Fatalf("the simulated KDS: %d, %v", answer.Code, err)
	}
	roots, err := snpRoots(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := collateral.OpenCache(collateral.CacheConfig{Dir: collateralDir(&cfg), Roots: roots, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, stored, err := cache.PutCRL("genoa", "vcek", der); err != nil || !stored {
		t.Fatalf("stored: %t, %v", stored, err)
	}
	if err := cache.Close(); err != nil {
		t.Fatal(err)
	}
	held, err = heldCRLs(&cfg, log)
	if err != nil || !time.Now().Before(held["genoa vcek"].NextUpdate) {
		t.Errorf("got %v, %v", held, err)
	}
	if got := crlWarnings(&cfg, snpPolicy(t, policy.Enforce), held, time.Now()); len(got) != 0 {
		t.Errorf("a CRL is held, and it warns: %q", got)
	}
}
