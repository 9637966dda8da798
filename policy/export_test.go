package policy

import (
	"testing"

	"github.com/assay-project/assay/attest"
)

// UncheckedForTest compiles a bundle as Parse does, without refusing what it
// reports: evaluation must deny what lint should have found.
func UncheckedForTest(t testing.TB, src string) *Bundle {
	t.Helper()
	p := newParser("p.yaml", []byte(src), MaxSize)
	p.bundle(p.doc.Root())
	if p.doc.Err() == nil {
		t.Fatal("Parse accepts this bundle: use Parse")
	}
	p.b.indexed()
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

// ParseLimitForTest is Parse with another limit than MaxSize.
func ParseLimitForTest(file string, src []byte, limit int) (*Bundle, error) {
	return parseLimit(file, src, limit)
}
