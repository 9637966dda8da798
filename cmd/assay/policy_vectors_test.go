package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// From evidence of real hardware a policy is written that passes the check, and
// that admits this evidence, or would once somebody says whose it is.
func TestAStarterFromRealEvidenceAdmitsIt(t *testing.T) {
	n := 0
	admits := func(t *testing.T, platform, file, at string, verify []string, owner ...string) {
		t.Helper()
		n++
		out := filepath.Join(t.TempDir(), "policy.yaml")
		args := append([]string{"policy", "init", file, "--tee", platform, "--trust-domain", "example.org", "--workload", "w", "--out", out, "--output", "json"}, verify...)
		got := assay(t, nil, append(args, owner...)...)
		if got.code != cli.OK {
			t.Errorf("%s: exit code %d\n%s", file, got.code, got.stderr)
			return
		}
		src, err := os.ReadFile(out)
		check(t, err)
		if _, err := policy.Parse("policy.yaml", src); err != nil {
			t.Errorf("%s: %v\n%s", file, err, src)
			return
		}
		got = assay(t, nil, append([]string{"policy", "explain", file, "--tee", platform, "--policy", out, "--at", at, "--output", "json"}, verify...)...)
		var e explanation
		got.decode(t, &e)
		if !e.Granted && e.Decision.Reason != policy.ReasonAuditOnly {
			t.Errorf("%s: %s %s\n%s", file, e.Decision.Reason, e.Decision.Detail, src)
		}
	}
	for _, r := range recordings(t) {
		if !r.Verifies || r.Kind != "enclave" || r.Debug {
			continue
		}
		for _, file := range r.documents() {
			admits(t, "aws-nitro", file, r.at(), []string{"--verify-at", r.at()})
		}
	}
	for _, r := range snpRecordings(t) {
		if r.want.Debug || r.want.MigrateMA {
			continue
		}
		at := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC).Format(time.RFC3339)
		admits(t, "amd-sev-snp", r.report, at, []string{"--unverified"}, "--no-owner", "a recording", "--owner", "ana@example.org", "--expires", "2099-01-01")
	}
	if n < 30 {
		t.Errorf("only %d recordings", n)
	}
}
