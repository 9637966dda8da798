// Package checktest proves of each verifier what must hold of all of them: that
// its table of checks is whole and specified, that each check refuses for its own
// reason alone, and that no bit of evidence is without meaning. The cases are each
// verifier's own.
package checktest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// KindOf is the kind that the table gives to a check. It ends the test if there is
// no such check.
func KindOf[R check.Row](t testing.TB, table []R, name string) attest.Kind {
	t.Helper()
	for _, r := range table {
		if c := check.Check(r); c.Name == name {
			return c.Kind
		}
	}
	t.Fatalf("no check is named %q", name)
	return 0
}

// Whole fails unless the table holds each constant Check… of the package's file
// checks.go exactly once, and explains it.
func Whole[R check.Row](t *testing.T, table []R) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "checks.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := make(map[string]bool)
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(s.Names[0].Name, "Check") && len(s.Values) == 1 {
			name, err := strconv.Unquote(s.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			constants[name] = true
		}
		return true
	})
	listed := make(map[string]bool)
	for _, r := range table {
		c := check.Check(r)
		if listed[c.Name] {
			t.Errorf("%s is in the table twice", c.Name)
		}
		if c.Demands == "" || c.Source == "" {
			t.Errorf("%s is not explained", c.Name)
		}
		listed[c.Name] = true
	}
	if diff := cmp.Diff(constants, listed); diff != "" {
		t.Errorf("(-constants +table):\n%s", diff)
	}
}

// NameAndKind begins the row of a check in a specification.
func NameAndKind(c check.Check) string { return "| `" + c.Name + "` | " + c.Kind.String() + " |" }

// Specified fails unless the specification in docs/spec has a row for each check,
// and returns the specification.
func Specified[R check.Row](t *testing.T, table []R, file string, row func(check.Check) string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/spec/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table {
		if row := row(check.Check(r)); !strings.Contains(string(b), row) {
			t.Errorf("docs/spec/%s has no row %q", file, row)
		}
	}
	return string(b)
}
