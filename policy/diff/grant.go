package diff

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// maxExpansions bounds the values for which identities are compared.
const maxExpansions = 2048

// both compares what two workloads grant for claims that both admit. It is asked
// once, from B's side.
func (p *part) both(boxes []*box, o *policy.ModelWorkload) error {
	if p.mine.name != "B" {
		return nil
	}
	if !p.same {
		boxes = p.waived(boxes, o, p.w)
	}
	for _, b := range boxes {
		what, expand := grants(o, p.w, b.rests(o, p.at), b.rests(p.w, p.at))
		var claims attest.Claims
		is := none
		var why string
		if expand {
			what, claims, is, why = p.expanded(b, o, what)
		} else if len(what) > 0 {
			claims, is, why = p.claims(p.w.Platform, b, p.at)
		}
		if is == unknown {
			p.undecided(why, what)
			continue
		}
		if len(what) > 0 && is == none {
			continue // no claims are in the box
		}
		if !p.same {
			end, at, ok := p.ends(b, o)
			if ok {
				what = append(what, end)
				if is == none {
					claims, is = at, some
				}
			}
		}
		if is == some {
			p.changed(o, what, claims)
		}
	}
	return nil
}

// pinning are the rules of a workload that a waiver may stand in for, and that a
// result rests on where they hold.
func pinning(w *policy.ModelWorkload) []policy.ModelRule {
	var out []policy.ModelRule
	for _, r := range w.Rules {
		if len(r.Waivers) > 0 && !r.Implicit && slices.Contains(w.Pinned, r.Claim.Name()) && slices.Contains([]string{"eq", "in", "gte", "every"}, r.Op) {
			out = append(out, r)
		}
	}
	return out
}

// waived divides boxes until each of these rules holds in all of a box, or a waiver
// admits all of it: results of the two rest on other claims.
func (p *part) waived(boxes []*box, of ...*policy.ModelWorkload) []*box {
	for _, w := range of {
		for _, r := range pinning(w) {
			test, key := r.Frozen(p.at)
			var next []*box
			for _, b := range boxes {
				for _, holds := range []bool{true, false} {
					if !p.work.spend() {
						return nil
					}
					if in, ok := b.narrow(literal{test: test, key: key}, holds, p.at); ok {
						next = append(next, in)
					}
				}
			}
			boxes = next
		}
	}
	return boxes
}

// rests names the claims that the workload's results rest on, in a box that is
// divided so.
func (b *box) rests(w *policy.ModelWorkload, at time.Time) []string {
	out := slices.Clone(w.Pinned)
	for _, r := range pinning(w) {
		_, key := r.Frozen(at)
		fails := slices.ContainsFunc(b.cons, func(c con) bool {
			return slices.ContainsFunc(c.not, func(l literal) bool { return l.key == key })
		})
		if i := slices.Index(out, r.Claim.Name()); fails && i >= 0 {
			out = slices.Delete(out, i, i+1)
		}
	}
	return out
}

// changed records a change, or that one goes on.
func (p *part) changed(o *policy.ModelWorkload, what []string, claims attest.Claims) {
	list := p.report.Changes
	for i := len(list) - 1; i >= 0; i-- {
		c := &list[i]
		if c.TEE == p.w.Platform && c.A == o.Name && c.B == p.w.Name && slices.Equal(c.What, what) {
			if c.Until == nil {
				return
			}
			if !c.Until.Before(p.at) {
				c.Until = p.until
				return
			}
			break // it ended, and is so again: another stretch
		}
	}
	p.report.Changes = append(list, Change{
		TEE: p.w.Platform, A: o.Name, B: p.w.Name, What: what, From: p.at, Until: p.until, At: p.at, Claims: claims,
	})
}

// grants says what two workloads grant differently. expand is set where IDs have
// to be expanded to tell. aRests and bRests are the claims that results rest on.
func grants(a, b *policy.ModelWorkload, aRests, bRests []string) (what []string, expand bool) {
	add := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	if !slices.Equal(a.Publish, b.Publish) {
		add("publish: %s, was %s", list(b.Publish), list(a.Publish))
	}
	if !slices.Equal(aRests, bRests) {
		add("results rest on %s, was %s", list(bRests), list(aRests))
	}
	if a.Ownership != b.Ownership {
		add("ownership: %t, was %t", b.Ownership, a.Ownership)
	}
	id := func(i policy.ModelIdentity) string { return i.ID }
	as, bs := names(a.Identities, id), names(b.Identities, id)
	if !slices.Equal(as, bs) {
		depends := slices.ContainsFunc(slices.Concat(a.Identities, b.Identities), func(i policy.ModelIdentity) bool { return len(i.Depends) > 0 })
		if depends && len(as) == len(bs) {
			return what, true
		}
		what = append(what, identities(as, bs, as, bs)...)
	}
	return append(what, each(a, b, as, bs)...), false
}

func names(of []policy.ModelIdentity, name func(policy.ModelIdentity) string) []string {
	out := make([]string, len(of))
	for i, id := range of {
		out[i] = name(id)
	}
	return out
}

// identities says which IDs come, go or change places, as they are written in the
// policies.
func identities(as, bs, asWritten, bsWritten []string) (what []string) {
	for i, s := range bs {
		if !slices.Contains(as, s) {
			what = append(what, "also grants "+bsWritten[i])
		}
	}
	for i, s := range as {
		if !slices.Contains(bs, s) {
			what = append(what, "no longer grants "+asWritten[i])
		}
	}
	if len(what) == 0 {
		what = append(what, "the identities have another order: "+strings.Join(bsWritten, ", ")+", was "+strings.Join(asWritten, ", "))
	}
	return what
}

// each compares the identities that have the same ID.
func each(a, b *policy.ModelWorkload, as, bs []string) (what []string) {
	for j, name := range bs {
		i := slices.Index(as, name)
		if i < 0 {
			continue
		}
		x, y := a.Identities[i].Identity, b.Identities[j].Identity
		add := func(format string, args ...any) { what = append(what, name+": "+fmt.Sprintf(format, args...)) }
		if x.X509TTL != y.X509TTL {
			add("x509_ttl %s, was %s", y.X509TTL, x.X509TTL)
		}
		// An age beyond the TTL ends nothing earlier.
		if xe, ye := min(x.MaxEvidenceAge, x.X509TTL), min(y.MaxEvidenceAge, y.X509TTL); xe != ye && (xe != x.X509TTL || ye != y.X509TTL) {
			add("max_evidence_age %s, was %s", y.MaxEvidenceAge, x.MaxEvidenceAge)
		}
		if s, t := jwt(x.JWT), jwt(y.JWT); s != t {
			add("jwt %s, was %s", t, s)
		}
		if !maps.Equal(x.Attributes, y.Attributes) {
			add("attributes %s, was %s", attributes(y.Attributes), attributes(x.Attributes))
		}
		if s, t := selectors(x.Selectors), selectors(y.Selectors); s != t {
			add("selectors %s, was %s", t, s)
		}
		if x.KeysOnDisk != y.KeysOnDisk {
			add("key_residency %s, was %s", policy.KeyResidency(y.KeysOnDisk), policy.KeyResidency(x.KeysOnDisk))
		}
		if x.Hint != y.Hint {
			add("hint %s, was %s", cmp.Or(y.Hint, "none"), cmp.Or(x.Hint, "none"))
		}
	}
	return what
}

func jwt(j *policy.JWT) string {
	if j == nil {
		return "none"
	}
	s := fmt.Sprintf("for %s, %s", list(slices.Sorted(slices.Values(j.Audiences))), j.TTL)
	if len(j.AWSTags) > 0 {
		s += ", AWS tags " + list(slices.Sorted(slices.Values(j.AWSTags)))
	}
	return s
}

func attributes(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return list(out)
}

func selectors(of []policy.Selector) string {
	var out []string
	for _, s := range of {
		out = append(out, s.Type+"="+s.Value)
	}
	slices.Sort(out)
	return list(out)
}

func list(of []string) string {
	if len(of) == 0 {
		return "none"
	}
	return strings.Join(of, ", ")
}

// expanded compares IDs that depend on claims, for each value of these: they are
// pinned, so that there are finitely many.
func (p *part) expanded(b *box, o *policy.ModelWorkload, already []string) (what []string, claims attest.Claims, is found, why string) {
	type axis struct {
		claim  policy.ModelClaim
		values []policy.Value
	}
	var axes []axis
	total := 1
	for _, id := range slices.Concat(o.Identities, p.w.Identities) {
		for _, claim := range id.Depends {
			if slices.ContainsFunc(axes, func(a axis) bool { return a.claim == claim }) {
				continue
			}
			i := slices.IndexFunc(b.cons, func(c con) bool { return c.claim == claim })
			if i < 0 {
				return already, claims, unknown, "an identity depends on a claim that is not pinned"
			}
			k := b.cons[i].constraint()
			a := axis{claim, k.Candidates(p.at)}
			if total *= len(a.values); total > maxExpansions {
				return already, claims, unknown, "too large: identities depend on too many values"
			}
			axes = append(axes, a)
		}
	}
	first, any := attest.Claims{}, false
	written := func(i policy.ModelIdentity) string { return i.ID }
	as0, bs0 := names(o.Identities, written), names(p.w.Identities, written)
	for n := range total {
		with := b
		ok := true
		rest := n
		for _, a := range axes {
			v := a.values[rest%len(a.values)]
			rest /= len(a.values)
			t, key := policy.Only(a.claim, v).Frozen(p.at)
			if with, ok = with.narrow(literal{test: t, key: key}, true, p.at); !ok {
				break
			}
		}
		if !ok {
			continue
		}
		got, is, reason := p.claims(p.w.Platform, with, p.at)
		if is == unknown {
			return already, claims, unknown, reason
		}
		if is == none {
			continue
		}
		if !any {
			first, any = got, true
		}
		expand := func(i policy.ModelIdentity) string { return i.Expand(got) }
		as, bs := names(o.Identities, expand), names(p.w.Identities, expand)
		if !slices.Equal(as, bs) {
			what = append(slices.Clone(already), identities(as, bs, as0, bs0)...)
			return append(what, each(o, p.w, as, bs)...), got, some, ""
		}
	}
	if !any {
		return already, claims, none, ""
	}
	// The same IDs in the same places.
	expand := func(i policy.ModelIdentity) string { return i.Expand(first) }
	what = append(slices.Clone(already), each(o, p.w, names(o.Identities, expand), names(p.w.Identities, expand))...)
	if len(what) == 0 {
		return nil, claims, none, ""
	}
	return what, first, some, ""
}

// ends finds claims whose grant ends at another moment.
func (p *part) ends(b *box, o *policy.ModelWorkload) (string, attest.Claims, bool) {
	rule := func(w *policy.ModelWorkload, c policy.ModelClaim) []policy.ModelEntry {
		for _, r := range w.Rules {
			if r.Claim == c {
				return r.Values()
			}
		}
		return nil
	}
	tried := 0
	try := func(with *box) (string, attest.Claims, bool) {
		if tried++; tried > 16 {
			return "", attest.Claims{}, false
		}
		claims, is, _ := p.claims(p.w.Platform, with, p.at)
		if is != some {
			return "", claims, false
		}
		x, y := p.other.bundle.Evaluate(claims, p.at).ValidUntil, p.mine.bundle.Evaluate(claims, p.at).ValidUntil
		if s, t := end(x), end(y); s != t {
			return fmt.Sprintf("valid until %s, was %s", t, s), claims, true
		}
		return "", claims, false
	}
	if !p.w.Expires.Equal(o.Expires) {
		if s, claims, ok := try(b); ok {
			return s, claims, true
		}
	}
	for _, c := range b.cons {
		x, y := rule(o, c.claim), rule(p.w, c.claim)
		ends := map[policy.Value]time.Time{}
		for _, e := range x {
			ends[e.Value] = e.NotAfter
		}
		for _, e := range y {
			was, both := ends[e.Value]
			if both && was.Equal(e.NotAfter) || !both && (x != nil || e.NotAfter.IsZero()) {
				continue
			}
			k := c.constraint()
			if !k.Admits(e.Value, p.at) {
				continue
			}
			t, key := policy.Only(c.claim, e.Value).Frozen(p.at)
			with, ok := b.narrow(literal{test: t, key: key}, true, p.at)
			if !ok {
				continue
			}
			if s, claims, ok := try(with); ok {
				return s, claims, true
			}
		}
		if y == nil && slices.ContainsFunc(x, func(e policy.ModelEntry) bool { return !e.NotAfter.IsZero() }) {
			if s, claims, ok := try(b); ok {
				return s, claims, true
			}
		}
	}
	return "", attest.Claims{}, false
}

func end(t *time.Time) string {
	if t == nil {
		return "ever"
	}
	return t.UTC().Format(time.RFC3339)
}
