package policy

import (
	"slices"
	"sync"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
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

// VariablesForTest names what expressions of a platform can read.
func VariablesForTest(t testing.TB, p attest.Platform) []string {
	t.Helper()
	x, err := newExprs(teeFor(p))
	if err != nil {
		t.Fatal(err)
	}
	return x.names()
}

// ExpressionProblem is what is wrong with an expression.
type ExpressionProblem struct {
	Offset int
	Msg    string
}

// exprsForTest are made once: fuzzing makes none by itself.
var exprsForTest = sync.OnceValue(func() map[attest.Platform]*exprs {
	out := map[attest.Platform]*exprs{}
	for _, t := range tees {
		x, err := newExprs(t)
		if err != nil {
			panic(err)
		}
		out[t.platform] = x
	}
	return out
})

// ExpressionForTest compiles and evaluates an expression.
func ExpressionForTest(t testing.TB, p attest.Platform, source string, c attest.Claims) (bool, []ExpressionProblem) {
	t.Helper()
	x, found := exprsForTest()[p].compile(source)
	var out []ExpressionProblem
	for _, f := range found {
		out = append(out, ExpressionProblem{f.offset, f.msg})
	}
	if x == nil {
		if len(out) == 0 {
			t.Fatal("neither an expression nor a problem")
		}
		return false, out
	}
	e := &evaluation{claims: &c, read: make([]reading, len(teeFor(p).fields))}
	r := e.exprRule(&placed{x, "p.yaml:1:1"})
	return r.Holds, nil
}

// DrawForTest is the draw of claims for a workload.
func DrawForTest(t testing.TB, secret []byte, bundle, workload string, c attest.Claims) string {
	t.Helper()
	id, ok := hardware(&c)
	if !ok {
		return "missing"
	}
	return percent(share((&rollout{secret: secret}).value(bundle, workload, id)))
}

// MatchersForTest has the matchers of every claim of a platform.
func MatchersForTest(p attest.Platform) map[string][]string {
	out := map[string][]string{}
	for _, f := range teeFor(p).fields {
		out[f.name] = f.kind.ops()
	}
	return out
}

// ParseEffortForTest is Parse with another bound on the work of telling workloads
// apart; it returns what was spent.
func ParseEffortForTest(src []byte, most int) (int, error) {
	p := newParser("p.yaml", src, MaxSize)
	p.most = most
	p.bundle(p.doc.Root())
	return p.effort, p.doc.Err()
}

// WorkForTest compiles a file, and counts the steps of loops whose length is the
// file's.
func WorkForTest(src []byte) int {
	p := newParser("p.yaml", src, 64<<20)
	if root := p.doc.Root(); root != nil && p.doc.Want(root, strictyaml.Mapping) {
		p.bundle(root)
	}
	return p.work
}

// OpenRulesForTest drops all rules over finite sets, which Parse never leaves out:
// those that the compiler adds are such.
func OpenRulesForTest(b *Bundle) *Bundle {
	for _, w := range b.workloads {
		w.rules = slices.DeleteFunc(w.rules, func(r *rule) bool { return indexable(r) != nil })
	}
	b.indexed()
	return b
}

// OverlapsForTest lists the pairs of workloads that overlap: found by dividing
// them, and by comparing all.
func OverlapsForTest(t testing.TB, src string) (divided, all []string) {
	t.Helper()
	p := newParser("p.yaml", []byte(src), MaxSize)
	p.bundle(p.doc.Root())
	for _, ws := range p.b.byTEE {
		ws = slices.DeleteFunc(slices.Clone(ws), func(w *workload) bool { return !w.mayGrant() || !w.whole })
		g := &pairing{p: p, most: 1 << 30}
		g.within(ws, nil)
		for _, o := range append(g.found, g.maybe...) {
			divided = append(divided, min(o.a.name, o.b.name)+" "+max(o.a.name, o.b.name))
		}
		for i, a := range ws {
			for _, b := range ws[:i] {
				if _, possible := p.overlap(a, b, true); possible {
					all = append(all, min(a.name, b.name)+" "+max(a.name, b.name))
				}
			}
		}
	}
	slices.Sort(divided)
	slices.Sort(all)
	return divided, all
}
