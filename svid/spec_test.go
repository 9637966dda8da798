package svid

import (
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
	for _, name := range []string{"attested-svid.md", "verifier-keys.md"} {
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
