package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// model is what tools know of a platform's claims beyond how to read them: how
// to make them. It is the inverse of the table of fields, and is used for tests
// of policies and for counterexamples, never for a decision.
type model struct {
	// blank are claims with nothing in them.
	blank func() attest.Claims
	// put sets a claim, or takes it away; false where claims cannot be so. Hubs
	// are put first.
	put func(c *attest.Claims, f *field, v value, ok bool) bool
	// hubs are claims that others depend on, and fits reports whether the value of
	// a claim can stand beside those of the hubs, in what a verifier makes.
	hubs []string
	fits func(hub func(name string) (value, bool), f *field, v value, ok bool) bool
	// always reports whether verified evidence always carries the claim.
	always func(name string) bool
	// tiers are the claims whose approval the tiers of an attestation result speak
	// of (docs/spec/attested-svid.md).
	tiers []string
	// spelled reports whether a text that the kind admits can be the claim's; nil
	// where all can.
	spelled func(name string, v value) bool
	// vary makes the n-th of many environments with the same claims, as far as what
	// names the environment is no claim that the caller holds on to; else it is
	// false.
	vary func(c *attest.Claims, n int, held func(name string) bool) bool
}

// ClaimsOf lists the claims of a platform, in the order of its table.
func ClaimsOf(p attest.Platform) []ModelClaim {
	t := teeFor(p)
	if t == nil {
		return nil
	}
	out := make([]ModelClaim, len(t.fields))
	for i, f := range t.fields {
		out[i] = ModelClaim{t, f}
	}
	return out
}

// Platforms lists the platforms whose workloads this version evaluates.
func Platforms() []attest.Platform {
	out := make([]attest.Platform, len(tees))
	for i, t := range tees {
		out[i] = t.platform
	}
	return out
}

// Put sets a claim, and reports whether claims can be so: whether it reads back.
func (c ModelClaim) Put(claims *attest.Claims, v Value) bool {
	if !c.tee.model.put(claims, c.f, v, true) {
		return false
	}
	got, ok := c.f.get(claims)
	return ok && got == v
}

// Drop takes a claim away, and reports whether claims can be so.
func (c ModelClaim) Drop(claims *attest.Claims) bool {
	if !c.tee.model.put(claims, c.f, "", false) {
		return false
	}
	_, ok := c.f.get(claims)
	return !ok
}

// Vary makes the n-th of many environments with the same claims, but for those
// that the caller does not hold on to; false where there is only one.
func Vary(c *attest.Claims, n int, held func(claim string) bool) bool {
	t := teeFor(c.Platform)
	return t != nil && t.model.vary(c, n, held)
}

// A Constraint is what is demanded of one claim: it passes all tests of Must, and
// none of Not. A claim that is not there passes none.
type Constraint struct {
	Claim     ModelClaim
	Must, Not []ModelTest
	Or        []Value // tried first, beside what the tests suggest
}

// maxTries bounds the combinations that Assemble tries.
const maxTries = 20_000

// Assemble makes claims of a platform that meet all constraints at a moment, such
// as a verifier can make. Claims that are not constrained are as few as can be. It
// fails where there are none; known is false where there may be some that it did
// not find.
func Assemble(p attest.Platform, constraints []Constraint, at time.Time) (c attest.Claims, ok, known bool) {
	t := teeFor(p)
	if t == nil {
		return c, false, true
	}
	a := &assembly{tee: t, at: at, by: make([]*Constraint, len(t.fields)), chosen: make([]*choice, len(t.fields)), known: true}
	for i := range constraints {
		f := constraints[i].Claim.f
		if a.by[f.index] != nil {
			return c, false, false // one constraint a claim
		}
		a.by[f.index] = &constraints[i]
	}
	ok = a.hub(0)
	return a.claims, ok, a.known
}

type choice struct {
	v  value
	ok bool
}

type assembly struct {
	tee    *tee
	at     time.Time
	by     []*Constraint
	chosen []*choice
	tries  int
	known  bool
	claims attest.Claims
}

// hub chooses the value of the n-th hub and those after it, and then all others.
func (a *assembly) hub(n int) bool {
	if n == len(a.tee.model.hubs) {
		return a.rest()
	}
	f := a.tee.byName[a.tee.model.hubs[n]]
	all := a.choices(f)
	const few = 8 // listed values of a hub are all alike to others, but for a handful
	for _, c := range all[:min(len(all), few)] {
		if a.tries++; a.tries > maxTries {
			a.known = false
			return false
		}
		if !a.fits(f, c) {
			continue
		}
		a.chosen[f.index] = &c
		if a.hub(n + 1) {
			return true
		}
		a.chosen[f.index] = nil
	}
	return false
}

func (a *assembly) fits(f *field, c choice) bool {
	return a.tee.model.fits(func(name string) (value, bool) {
		if h := a.chosen[a.tee.byName[name].index]; h != nil {
			return h.v, h.ok
		}
		return "", false
	}, f, c.v, c.ok)
}

// choices are the values that a claim's constraint admits, and its absence where
// that is admitted.
func (a *assembly) choices(f *field) []choice {
	k := a.by[f.index]
	if k == nil {
		k = &Constraint{Claim: ModelClaim{a.tee, f}}
	}
	vs, known := k.candidates(a.at)
	a.known = a.known && known
	out := make([]choice, 0, len(vs)+1)
	for _, v := range vs {
		out = append(out, choice{v, true})
	}
	if len(k.Must) == 0 && !a.tee.model.always(f.name) {
		out = append(out, choice{})
	}
	return out
}

// rest chooses the claims that are no hubs: they depend on hubs alone.
func (a *assembly) rest() bool {
	picked := make([]choice, len(a.tee.fields))
	for _, f := range a.tee.fields {
		if a.chosen[f.index] != nil {
			picked[f.index] = *a.chosen[f.index]
			continue
		}
		if a.by[f.index] == nil && !a.tee.model.always(f.name) && a.fits(f, choice{}) {
			continue
		}
		found := false
		for _, c := range a.choices(f) {
			if a.fits(f, c) {
				picked[f.index], found = c, true
				break
			}
		}
		if !found {
			return false
		}
	}
	out := a.tee.model.blank()
	put := func(f *field) bool {
		c := picked[f.index]
		return a.tee.model.put(&out, f, c.v, c.ok)
	}
	for _, name := range a.tee.model.hubs {
		if !put(a.tee.byName[name]) {
			return false
		}
	}
	for _, f := range a.tee.fields {
		if !slices.Contains(a.tee.model.hubs, f.name) && !put(f) {
			return false
		}
	}
	for _, f := range a.tee.fields { // what was put must read back
		if v, ok := f.get(&out); ok != picked[f.index].ok || ok && v != picked[f.index].v {
			return false
		}
	}
	a.claims = out
	return true
}

// Consistent reports whether a verifier can make such claims, as far as claims
// depend on each other.
func Consistent(c attest.Claims) bool {
	t := teeFor(c.Platform)
	if t == nil {
		return false
	}
	hub := func(name string) (value, bool) { return t.byName[name].get(&c) }
	for _, f := range t.fields {
		v, ok := f.get(&c)
		if !ok && t.model.always(f.name) || !t.model.fits(hub, f, v, ok) {
			return false
		}
	}
	return true
}

// CloneClaims copies claims with all that they hold.
func CloneClaims(c attest.Claims) attest.Claims {
	b, err := json.Marshal(c)
	if err != nil {
		return attest.Claims{} // claims hold nothing that JSON has no form for
	}
	var out attest.Claims
	if json.Unmarshal(b, &out) != nil {
		return attest.Claims{}
	}
	return out
}

// given is implemented by the kinds whose values are written otherwise in claims
// than in the matchers of a policy, or are not written there at all.
type given interface {
	given(d *strictyaml.Document, n *strictyaml.Node) (value, bool)
}

// ReadClaims reads claims as tests of policies write them: a mapping of the
// platform's claims by their names in policies, each with the value that evidence
// shows. Claims that are not named are not there, or false, or zero. over are
// claims to begin with, which the mapping changes; nil for none. An empty text
// takes a claim away. What is wrong is reported to the document.
func ReadClaims(d *strictyaml.Document, p attest.Platform, n *strictyaml.Node, over *attest.Claims) (attest.Claims, bool) {
	t := teeFor(p)
	if t == nil || !d.Want(n, strictyaml.Mapping) {
		return attest.Claims{}, false
	}
	c := t.model.blank()
	if over != nil {
		c = CloneClaims(*over)
	} else {
		for _, f := range t.fields {
			_ = t.model.put(&c, f, "", false) // as far as it can be away
		}
	}
	type one struct {
		f *field
		n *strictyaml.Node
	}
	var all []one
	ok := true
	for _, kv := range n.Fields {
		f := t.byName[kv.Key.Value]
		if f == nil {
			hint := t.suggest(kv.Key.Value, t.claims, nil)
			if why, exists := t.instead[kv.Key.Value]; exists {
				hint = why
			}
			d.Report(kv.Key, fmt.Sprintf("%s has no claim %q", t.platform, clip(kv.Key.Value)), hint)
			ok = false
			continue
		}
		all = append(all, one{f, kv.Value})
	}
	// Hubs first: what others mean depends on them.
	rank := func(o one) int {
		if i := slices.Index(t.model.hubs, o.f.name); i >= 0 {
			return i
		}
		return len(t.model.hubs)
	}
	slices.SortStableFunc(all, func(a, b one) int { return rank(a) - rank(b) })
	for _, o := range all {
		claim := ModelClaim{t, o.f}
		if o.n.Kind == strictyaml.Scalar && o.n.Quoted && o.n.Value == "" {
			if !claim.Drop(&c) {
				d.Report(o.n, o.f.name+" is always there: it cannot be taken away", "")
				ok = false
			}
			continue
		}
		v, good := claim.read(d, o.n, &c)
		if !good {
			ok = false
			continue
		}
		if !claim.Put(&c, v) {
			d.Report(o.n, fmt.Sprintf("%s cannot be %s beside the other claims", o.f.name, clip(o.f.kind.format(v))), "claims depend on each other: see docs/spec/policy-tests.md")
			ok = false
		}
	}
	return c, ok
}

// read reads one value.
func (c ModelClaim) read(d *strictyaml.Document, n *strictyaml.Node, claims *attest.Claims) (value, bool) {
	if k, ok := c.f.kind.(tcb); ok { // it is written without its product line, which is a claim of its own
		product, _ := c.tee.byName["product"].get(claims)
		return k.givenFor(d, n, string(product))
	}
	if k, ok := c.f.kind.(given); ok {
		return k.given(d, n)
	}
	return c.f.kind.parse(d, n)
}
