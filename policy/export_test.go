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

// DescribedForTest has the descriptions of all claims by platform; a claim
// without one, or a description without a claim, is there with an empty text.
func DescribedForTest() map[attest.Platform]map[string]string {
	out := map[attest.Platform]map[string]string{}
	for _, t := range tees {
		out[t.platform] = map[string]string{}
		for name := range t.describe {
			if t.byName[name] == nil {
				out[t.platform][name] = ""
			}
		}
		for _, f := range t.fields {
			out[t.platform][f.name] = t.describe[f.name]
		}
	}
	return out
}
