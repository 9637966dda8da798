package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// A Model lays a compiled bundle open to tools that reason about it: what two
// policies differ in (package diff), which changes nobody would notice (package
// mutate). It is read-only, and shares what it shows with the bundle.
//
// A workload matches where all of its rules hold, its expression is true, its
// ownership waiver has not expired and, in mode rollout, its draw lies below its
// share. A rule holds where the claim is there and passes the test, or where the
// claim is there and a waiver of the rule applies (see [ModelTest.Waived]).
type Model struct {
	Bundle    *Bundle
	Workloads []*ModelWorkload // in the order of the file
}

// ModelWorkload is one workload of a model.
type ModelWorkload struct {
	Name     string
	Platform attest.Platform
	Mode     string
	Rollout  uint64 // in hundredths of a percent, in mode Rollout
	Rules    []ModelRule
	Expr     *ModelExpr // nil without one
	// Expires is the end of the ownership waiver; zero without one.
	Expires    time.Time
	Identities []ModelIdentity // in the order of the file
	Publish    []string        // sorted
	// Pinned are the claims that the tiers of results rest on, sorted.
	Pinned    []string
	Ownership bool
}

// MayGrant reports whether the workload grants to any hardware.
func (w *ModelWorkload) MayGrant() bool { return w.Mode == Enforce || w.Mode == Rollout }

// ModelRule is one rule of a workload.
type ModelRule struct {
	ModelTest
	Op       string
	Implicit bool
	Position string // "file:line:col"
	Waivers  []ModelWaiver
}

// ModelWaiver lets a workload match although a rule does not hold, up to and
// including Expires, where all tests of When hold.
type ModelWaiver struct {
	Expires time.Time
	When    []ModelTest
}

// ModelClaim is a claim of a platform.
type ModelClaim struct {
	tee *tee
	f   *field
}

// Value is a claim's value in the canonical form that its kind has, for
// comparison; [ModelClaim.Format] writes it for people.
type Value = value

// Name is the claim's name in policies.
func (c ModelClaim) Name() string { return c.f.name }

// Index is the claim's place among those of its platform.
func (c ModelClaim) Index() int { return c.f.index }

// Format writes a value as decisions show it.
func (c ModelClaim) Format(v Value) string { return c.f.kind.format(v) }

// Get reads the claim.
func (c ModelClaim) Get(claims attest.Claims) (Value, bool) { return c.f.get(&claims) }

// Always reports whether verified evidence of the platform always carries the
// claim.
func (c ModelClaim) Always() bool { return c.tee.model.always(c.f.name) }

// ModelTest is a test over a claim, as it is at one moment once it is frozen.
type ModelTest struct {
	Claim ModelClaim
	test  test
}

// Holds reports whether a value that is there passes at a moment.
func (t ModelTest) Holds(v Value, at time.Time) bool {
	switch x := t.test.(type) {
	case nil:
		return true // demands that the claim is there, and nothing else
	case *set:
		ok, _ := x.holds(v, at)
		return ok
	case *every, *oneMore, *someOther, *otherProducts:
		return t.test.eval(v, "", at).holds
	case open:
		return x.admits(v)
	}
	return t.test.eval(v, "", at).holds
}

// Expected says what the test wants, for people.
func (t ModelTest) Expected() string {
	if t.test == nil {
		return "anything"
	}
	return t.test.expected()
}

// Waived is what a rule demands that a waiver applies to: that the claim is there,
// and of a TCB that the rule has a limit for its product line.
func (t ModelTest) Waived() ModelTest {
	limit, ok := t.test.(*tcbFloor)
	if !ok {
		return ModelTest{Claim: t.Claim}
	}
	any := &tcbFloor{floors: map[string]attest.TCB{}}
	for product := range limit.floors {
		var least attest.TCB
		if product == snpHasFMC {
			least.FMC = new(uint8)
		}
		any.floors[product] = least
	}
	return ModelTest{t.Claim, any}
}

// finite is the set that a test is about: its values, or those of each element.
func (t ModelTest) finite() *set {
	switch x := t.test.(type) {
	case *set:
		return x
	case *every:
		return x.of
	case *oneMore:
		return x.set
	case *someOther:
		return x.of
	}
	return nil
}

// Size is the number of values that a test lists; 0 for one that lists none.
func (t ModelTest) Size() int {
	if s := t.finite(); s != nil {
		return len(s.entries)
	}
	return 0
}

// ModelEntry is one value of a finite test.
type ModelEntry struct {
	Value               Value
	NotBefore, NotAfter time.Time
}

// Values are the values of a test that is a finite set, or nil.
func (t ModelTest) Values() []ModelEntry {
	s, ok := t.test.(*set)
	if !ok {
		return nil
	}
	out := make([]ModelEntry, len(s.entries))
	for i, e := range s.entries {
		out[i] = ModelEntry{e.value, e.notBefore, e.notAfter}
	}
	return out
}

// Breaks are the moments at which the outcome of a test can change: its outcome
// is the same from each of them up to the next, exclusive. They are not sorted.
func (t ModelTest) Breaks() []time.Time {
	s := t.finite()
	if s == nil {
		return nil
	}
	var out []time.Time
	for _, e := range s.entries {
		if !e.notBefore.IsZero() {
			out = append(out, e.notBefore)
		}
		if !e.notAfter.IsZero() {
			out = append(out, e.notAfter.Add(1))
		}
	}
	return out
}

// Frozen is the test as it is at a moment, without windows, and a key that is the
// same for all tests over the claim that are written as the same demand.
func (t ModelTest) Frozen(at time.Time) (ModelTest, string) {
	key := func(parts ...string) string { return t.Claim.f.name + "\x00" + strings.Join(parts, "\x00") }
	freeze := func(s *set) (*set, string) {
		var live []entry
		var all []string
		for _, e := range s.entries {
			if ok, _ := s.holds(e.value, at); ok {
				live = append(live, entry{value: e.value, text: e.text})
				all = append(all, string(e.value))
			}
		}
		slices.Sort(all)
		h := sha256.New()
		for _, v := range all {
			_, _ = fmt.Fprintf(h, "%d:%s", len(v), v)
		}
		return newSet("", false, live), hex.EncodeToString(h.Sum(nil))
	}
	switch x := t.test.(type) {
	case nil:
		return t, key("there")
	case *set:
		s, k := freeze(x)
		return ModelTest{t.Claim, s}, key("in", k)
	case *every:
		s, k := freeze(x.of)
		return ModelTest{t.Claim, &every{s}}, key("every", k)
	}
	return t, key(fmt.Sprintf("%T", t.test), t.test.expected())
}

// Key is the same for all tests that are written as the same demand, windows
// included, over the claim.
func (t ModelTest) Key() string {
	s := t.finite()
	if s == nil {
		_, k := t.Frozen(time.Time{})
		return k
	}
	all := make([]string, len(s.entries))
	for i, e := range s.entries {
		all[i] = fmt.Sprintf("%x %s %s", string(e.value), stamp(e.notBefore), stamp(e.notAfter))
	}
	slices.Sort(all)
	h := sha256.Sum256([]byte(strings.Join(all, "\n")))
	return fmt.Sprintf("%s\x00%T\x00%x", t.Claim.f.name, t.test, h)
}

// Only is the test that a claim has one value.
func Only(c ModelClaim, v Value) ModelTest {
	return ModelTest{c, newSet("", true, []entry{{value: v, text: c.f.kind.format(v)}})}
}

// Draw is an environment's draw for a workload in mode rollout, in hundredths of a
// percent, with the secret that the bundle has; false where nothing names the
// environment, or the bundle has none.
func (b *Bundle) Draw(workload string, c attest.Claims) (uint64, bool) {
	id, ok := hardware(&c)
	if !ok || b.rollout == nil || b.rollout.secret == nil {
		return 0, false
	}
	return share(b.rollout.value(b.name, workload, id)), true
}

// ModelExpr is an expression.
type ModelExpr struct {
	Source string
	Claims []ModelClaim // that it reads
	x      *expression
	tee    *tee
}

// Holds evaluates the expression over claims.
func (x *ModelExpr) Holds(c attest.Claims) bool {
	e := &evaluation{claims: &c, read: make([]reading, len(x.tee.fields))}
	return e.eval(x.x).holds
}

// ModelIdentity is one identity of a workload. ID is its template with all that
// does not depend on claims expanded, for comparison.
type ModelIdentity struct {
	ID       string
	Depends  []ModelClaim // claims that the ID depends on
	Identity Identity     // without SPIFFEID
	t        *template
}

// Expand is the SPIFFE ID for claims; empty where it cannot be formed.
func (i ModelIdentity) Expand(c attest.Claims) string {
	s, err := i.t.expand(&c)
	if err != nil {
		return ""
	}
	return s
}

// Model lays the bundle open.
func (b *Bundle) Model() *Model {
	m := &Model{Bundle: b}
	for _, w := range b.workloads {
		m.Workloads = append(m.Workloads, w.model())
	}
	return m
}

func (w *workload) model() *ModelWorkload {
	out := &ModelWorkload{
		Name: w.name, Platform: w.tee.platform, Mode: w.mode, Expires: w.expires(), Ownership: w.ownership,
		Publish: slices.Sorted(slices.Values(w.publish)), Pinned: w.pinned(),
	}
	if w.mode == Rollout {
		out.Rollout = w.rollout
	}
	claim := func(f *field) ModelClaim { return ModelClaim{w.tee, f} }
	for _, r := range w.rules {
		mr := ModelRule{ModelTest: ModelTest{claim(r.field), r.test}, Op: r.op, Implicit: r.implicit, Position: r.position}
		for _, x := range r.waivers {
			mw := ModelWaiver{Expires: x.expires}
			for _, c := range x.when {
				mw.When = append(mw.When, ModelTest{claim(c.field), c.test})
			}
			mr.Waivers = append(mr.Waivers, mw)
		}
		out.Rules = append(out.Rules, mr)
	}
	if w.expr != nil {
		x := &ModelExpr{Source: w.expr.source, x: w.expr.expression, tee: w.tee}
		for _, v := range w.expr.reads {
			if c := claim(v.field); !slices.Contains(x.Claims, c) {
				x.Claims = append(x.Claims, c)
			}
		}
		out.Expr = x
	}
	for _, id := range w.identities {
		mi := ModelIdentity{t: id.template, Identity: Identity{X509TTL: id.x509TTL, MaxEvidenceAge: id.maxEvidenceAge, JWT: id.jwt, Attributes: id.attributes, Selectors: id.selectors, KeysOnDisk: id.keysOnDisk, Hint: id.hint}}
		var b strings.Builder
		for _, p := range id.template.parts {
			if p.field == nil {
				b.WriteString(p.text)
				continue
			}
			fmt.Fprintf(&b, "{%s:%d}", p.field.name, p.n)
			if c := claim(p.field); !slices.Contains(mi.Depends, c) {
				mi.Depends = append(mi.Depends, c)
			}
		}
		mi.ID = b.String()
		out.Identities = append(out.Identities, mi)
	}
	return out
}

// pinned is what [Decision.Pinned] names, of the claims that tiers speak of.
func (w *workload) pinned() []string {
	out := []string{}
	for _, r := range w.rules {
		if r.implicit || r.op != "eq" && r.op != "in" && r.op != "gte" && r.op != "every" || !slices.Contains(w.tee.model.tiers, r.field.name) {
			continue
		}
		out = append(out, r.field.name)
	}
	slices.Sort(out)
	return out
}
