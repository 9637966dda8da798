package layout

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Rows of docs/spec/conformance.md begin with an identifier: W of the Workload API,
// E of its endpoint, X of X.509-SVIDs, J of JWT-SVIDs.
var requirement = regexp.MustCompile(`^\| ([WEXJ][0-9]+) \|`)

func TestEverySPIFFERequirementNamesATestThatExists(t *testing.T) {
	exists := testsOfTheRepository(t)
	b, err := os.ReadFile(filepath.Join(root, "docs/spec/conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, rest, _ := strings.Cut(string(b), "## What callers hear")
	_, deviations, ok := strings.Cut(rest, "## Where we deviate")
	if !ok {
		t.Fatal("conformance.md lacks a section")
	}
	rows := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		m := requirement.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| # |") {
				t.Errorf("conformance.md:%d: a row without an identifier: %s", i+1, line)
			}
			continue
		}
		if rows[m[1]] {
			t.Errorf("conformance.md:%d: %s is there twice", i+1, m[1])
		}
		rows[m[1]] = true
		if !strings.Contains(line, "MUST") && !strings.Contains(line, "SHOULD") {
			t.Errorf("conformance.md:%d: %s is neither a MUST nor a SHOULD", i+1, m[1])
		}
		names := testName.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("conformance.md:%d names no test: %s", i+1, line)
		}
		for _, n := range names {
			if !exists[n[1]] {
				t.Errorf("conformance.md:%d names %s, which does not exist", i+1, n[1])
			}
		}
	}
	if len(rows) < 60 {
		t.Errorf("only %d rows were found: did the tables change their shape?", len(rows))
	}
	deviating := 0
	for _, line := range strings.Split(deviations, "\n") {
		if m := requirement.FindStringSubmatch(line); m != nil {
			deviating++
			if !rows[m[1]] {
				t.Errorf("the deviation from %s is from no requirement above", m[1])
			}
		}
	}
	if deviating == 0 {
		t.Error("no deviation was found: did the table change its shape?")
	}
}
