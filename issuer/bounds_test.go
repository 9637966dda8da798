package issuer_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/federation"
)

// constantOf reads an integer constant of a package that keeps it to itself.
func constantOf(t *testing.T, dir, name string) (value int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	must(t, err)
	found := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		must(t, err)
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, n := range v.Names {
					if n.Name != name || i >= len(v.Values) {
						continue
					}
					lit, ok := v.Values[i].(*ast.BasicLit)
					if !ok {
						t.Fatalf("%s: %s is no number", f, name)
					}
					value, err = strconv.Atoi(lit.Value)
					must(t, err)
					found++
				}
			}
		}
	}
	if found != 1 {
		t.Fatalf("%s has %d constants %s, want one", dir, found, name)
	}
	return value
}

// Agents and other trust domains refuse a bundle of too many authorities, whole; and
// who follows verifier keys, a document of too many. The CA counts on their numbers.
func TestNobodyTakesFewerAuthoritiesThanTheCAMakes(t *testing.T) {
	for who, takes := range map[string]int{
		"an agent":                    constantOf(t, "../enclave-agent", "maxAuthorities"),
		"another trust domain":        federation.MaxAuthorities,
		"who follows signed key sets": constantOf(t, "../svid", "maxVerifierKeys"),
	} {
		if takes != ca.MaxAuthorities {
			t.Errorf("%s takes %d authorities, and the CA makes up to %d", who, takes, ca.MaxAuthorities)
		}
	}
}
