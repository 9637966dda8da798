package policy

import (
	"crypto/sha256"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// UncheckedForTest compiles a bundle as Parse does, without refusing what it
// reports: evaluation must deny what lint should have found.
func UncheckedForTest(t testing.TB, src string) *Bundle {
	t.Helper()
	p := &parser{
		doc:        strictyaml.Open("p.yaml", []byte(src)),
		b:          &Bundle{digest: sha256.Sum256([]byte(src)), byTEE: map[attest.Platform][]*workload{}},
		references: map[string]*reference{},
		meetings:   map[[2]test][]window{},
	}
	p.bundle(p.doc.Root())
	if p.doc.Err() == nil {
		t.Fatal("Parse accepts this bundle: use Parse")
	}
	return p.b
}

// ClaimsForTest names the claims of a platform.
func ClaimsForTest(p attest.Platform) []string {
	var out []string
	for _, f := range teeFor(p).fields {
		out = append(out, f.name)
	}
	return out
}

// PublishedForTest is what results of a workload show.
func PublishedForTest(b *Bundle, name string) []string {
	for _, w := range b.workloads {
		if w.name == name {
			return w.publish
		}
	}
	return nil
}
