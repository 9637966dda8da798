package svid

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheSpecificationNamesEveryCheck reads this package's source: whoever adds
// a check to it adds it to docs/spec as well.
func TestTheSpecificationNamesEveryCheck(t *testing.T) {
	var spec strings.Builder
	for _, name := range []string{"attested-svid.md", "attested-jwt-svid.md", "verifier-keys.md", "deny-list.md"} {
		b, err := os.ReadFile(filepath.Join("..", "docs", "spec", name))
		if err != nil {
			t.Fatal(err)
		}
		spec.Write(b)
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`(?:fail|mismatch)\(attest\.(\w+), "(\w+)"`)
	found := 0
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			if m[1] == "Internal" {
				continue // the caller's mistake, not the peer's
			}
			found++
			if !strings.Contains(spec.String(), "`"+m[2]+"`") {
				t.Errorf("%s: check %s is in no specification", path, m[2])
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d checks found in the source: the pattern no longer fits", found)
	}
}

func TestTheSpecificationListsEveryVectorAndValue(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "docs", "spec", "attested-svid.md"))
	if err != nil {
		t.Fatal(err)
	}
	spec := string(b)
	for _, tc := range vectorCases() {
		outcome := tc.outcome
		if kind, check, found := strings.Cut(outcome, " "); found {
			outcome = kind + " `" + check + "`"
		}
		if !strings.Contains(spec, "| `"+tc.name+"` | "+outcome) {
			t.Errorf("the vector %s (%s) is not listed", tc.name, outcome)
		}
	}
	for claim, aspect := range map[Claim]string{
		claimIsolated: "runtime-opaque", claimSharedCores: "configuration", claimGrace: "hardware", claimSimulated: "hardware, runtime-opaque",
		claimNotChecked: "hardware", claimNoFloor: "hardware", claimProvisional: "hardware", claimVirtual: "hardware", claimApprovedStart: "executables", claimInventory: "hardware",
	} {
		if row := fmt.Sprintf("| %d | %s |", claim, aspect); !strings.Contains(spec, row) {
			t.Errorf("the specification has no row %s", row)
		}
	}
}
