package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Bounds of one run.
const (
	maxAmbiguities = 20      // pairs that it reports
	maxEffort      = 1 << 25 // rules, values and windows that it compares: two seconds or so
	fewWorkloads   = 24      // whose pairs are compared without dividing them further
)

// ambiguities reports every pair of workloads of one platform that may both grant
// and that one piece of evidence could match: production would deny it as
// ambiguous.
//
// The test is exact over finite sets. Claims are independent of each other, so
// two workloads exclude each other exactly when, at every moment, some claim
// that both name has no value that both accept. Where claims do depend on each
// other (a TCB floor names its products), the platform says what follows from
// a rule. What is left open errs on the safe side: pairs that could never meet
// may be reported, and none that could is missed. Expressions are not looked at:
// they only narrow what the rules admit, and where one might keep two workloads
// apart, the pair is a warning instead of an error.
//
// Pairs are not all compared: see [pairing].
func (p *parser) ambiguities() {
	for _, t := range tees {
		var ws []*workload
		for _, w := range p.b.byTEE[t.platform] {
			if w.mayGrant() && w.whole {
				w.when = w.lifetime()
				ws = append(ws, w)
			}
		}
		g, before := &pairing{p: p, most: maxAmbiguities}, p.effort
		g.within(ws, nil)
		p.work += p.effort - before
		g.report(t.platform)
	}
}

// pairing finds the pairs of workloads that overlap. Workloads that pin a claim
// to different values exclude each other, so it divides them by the values of
// the claim that leaves the fewest pairs, each part again by the next claim,
// and compares only what is then left together. Its work grows with the number
// of workloads that share the values of all their claims, not with the square of
// all.
type pairing struct {
	p       *parser
	most    int           // pairs that it looks for
	found   []overlapping // nothing keeps these apart
	maybe   []overlapping // an expression may
	tooMany bool
}

type overlapping struct {
	a, b   *workload
	shared []string
	open   bool
}

// open reports whether something that is not looked at may keep the two apart: an
// expression that is not constant, or a rule that is only sometimes waived and that
// excludes the other workload where it is not. Nothing else can: two that certainly
// overlap stay an error.
func (g *pairing) open(o overlapping) bool {
	for _, w := range []*workload{o.a, o.b} {
		if w.expr != nil && w.expr.constant != "true" {
			return true
		}
	}
	if !slices.ContainsFunc(o.a.rules, (*rule).loose) && !slices.ContainsFunc(o.b.rules, (*rule).loose) {
		return false
	}
	_, possible := g.p.overlap(o.a, o.b, false)
	return !possible
}

// full reports whether enough was found, or tried.
func (g *pairing) full() bool { return len(g.found) >= g.most || g.tooMany }

// pair compares two workloads.
func (g *pairing) pair(a, b *workload) {
	if g.full() {
		return
	}
	if g.p.effort > g.p.most {
		g.tooMany = true
		return
	}
	if shared, possible := g.p.overlap(a, b, true); possible {
		o := overlapping{a: a, b: b, shared: shared}
		switch o.open = g.open(o); {
		case !o.open:
			g.found = append(g.found, o)
		case len(g.maybe) < g.most:
			g.maybe = append(g.maybe, o)
		}
	}
}

// within compares the workloads with each other, other than those that the
// claims of done have divided already.
func (g *pairing) within(ws []*workload, done []*field) {
	c := g.divide(ws, nil, done)
	if c == nil {
		for i, w := range ws {
			for _, before := range ws[:i] {
				g.pair(before, w)
			}
			if g.full() {
				return
			}
		}
		return
	}
	done = append(slices.Clip(done), c.field)
	for i, part := range c.parts {
		g.within(part.first, done)
		for _, j := range c.meeting[i] {
			g.across(part.first, c.parts[j].first, done)
		}
		if g.full() {
			return
		}
	}
	g.within(c.rest[0], done)
	g.across(c.rest[0], c.named[0], done)
}

// across compares each of some workloads with each of others.
func (g *pairing) across(as, bs []*workload, done []*field) {
	if len(as) == 0 || len(bs) == 0 || g.full() {
		return
	}
	c := g.divide(as, bs, done)
	if c == nil {
		for _, a := range as {
			for _, b := range bs {
				g.pair(a, b)
			}
			if g.full() {
				return
			}
		}
		return
	}
	done = append(slices.Clip(done), c.field)
	for i, part := range c.parts {
		g.across(part.first, part.second, done)
		for _, j := range c.meeting[i] {
			g.across(part.first, c.parts[j].second, done)
			g.across(c.parts[j].first, part.second, done)
		}
		if g.full() {
			return
		}
	}
	g.across(c.rest[0], bs, done)
	g.across(c.named[0], c.rest[1], done)
}

// report tells of every pair at the workload that comes later in the file.
func (g *pairing) report(platform attest.Platform) {
	for _, o := range slices.Concat(g.found, g.maybe) {
		if o.a.key.Line > o.b.key.Line || o.a.key.Line == o.b.key.Line && o.a.key.Col > o.b.key.Col {
			o.a, o.b = o.b, o.a
		}
		g.p.reportAmbiguity(platform, o)
	}
	if g.tooMany {
		g.p.doc.Report(nil, fmt.Sprintf("too many workloads of %s have the values of all their claims in common: that no two can match the same evidence cannot be shown", platform),
			"pin one claim in each with values that differ, such as the image")
	}
}

func (p *parser) reportAmbiguity(platform attest.Platform, o overlapping) {
	a, b, why := o.a, o.b, "they have no claim in common"
	if len(o.shared) > 0 {
		why = "both accept a common value of " + strings.Join(o.shared, ", ")
	}
	msg := fmt.Sprintf("workloads %q (line %d) and %q can match the same %s evidence, which would be denied as ambiguous: %s", a.name, a.key.Line, b.name, platform, why)
	hint := "pin one claim in both with values that differ, or set one of them to mode: audit"
	if o.open {
		p.warnAbout([]*workload{a, b}, b.key, CodeBothMatch, msg, hint+"; expressions and waived rules are not looked at")
		return
	}
	p.doc.Report(b.key, msg, hint)
}

// overlap reports whether one piece of evidence can match both workloads at
// one moment, and the claims that both name with common values; waived is whether
// waivers count, or each rule holds.
func (p *parser) overlap(a, b *workload, waived bool) (shared []string, possible bool) {
	p.effort += len(a.rules)*len(b.rules) + len(a.when) + len(b.when)
	when := both(a.when, b.when)
	for _, r := range a.rules {
		o := b.over(r.field)
		if o == nil || waived && (r.loose() || o.loose()) {
			continue
		}
		if when = both(when, p.meet(r.test, o.test)); len(when) == 0 {
			return nil, false
		}
		if !r.implicit || !o.implicit {
			shared = append(shared, r.field.name)
		}
	}
	if p.refuted(a.facts, b) || p.refuted(b.facts, a) {
		return nil, false
	}
	return shared, len(when) > 0
}

// refuted reports whether a rule, or what follows from a rule, of a workload
// has no value in common with one of the facts.
func (p *parser) refuted(facts []fact, w *workload) bool {
	for _, f := range facts {
		if r := w.strict(f.claim); r != nil && len(p.meet(f.test, r.test)) == 0 {
			return true
		}
		for _, g := range w.facts {
			if f.claim == g.claim && len(p.meet(f.test, g.test)) == 0 {
				return true
			}
		}
	}
	return false
}

// contradictions reports rules of one workload that exclude each other.
func (p *parser) contradictions(w *workload) {
	if w.tee.implies == nil {
		return
	}
	// Of a rule that is waived little follows.
	w.facts = slices.DeleteFunc(w.tee.implies(w), func(f fact) bool { return !f.firm && w.strict(f.because) == nil })
	report := func(a, b *field) {
		p.doc.Report(w.key, fmt.Sprintf("workload %q can never match: no report satisfies both its %s and its %s", w.name, a.name, b.name), "drop one of them, or make two workloads of it")
	}
	for i, f := range w.facts {
		if r := w.strict(f.claim); r != nil && len(p.meet(f.test, r.test)) == 0 {
			report(f.because, r.field)
			return
		}
		for _, g := range w.facts[:i] {
			if f.claim == g.claim && len(p.meet(f.test, g.test)) == 0 {
				report(g.because, f.because)
				return
			}
		}
	}
}

// Pairs of tests are remembered where one of them is a large set: one set may
// be shared by thousands of workloads.
const (
	largeSet    = 256
	maxMeetings = 1 << 18
)

// meet returns the moments at which some value passes both tests of one claim.
func (p *parser) meet(a, b test) []window {
	x, y := a.values(), b.values()
	cost := size(x) + size(y)
	if x != nil && y != nil {
		cost = min(size(x), size(y))
	}
	if n := max(size(x), size(y)); n < largeSet || len(p.meetings) >= maxMeetings {
		p.effort += 1 + cost
		return meet(a, b)
	}
	k := [2]test{a, b}
	when, ok := p.meetings[k]
	if !ok {
		p.effort += 1 + cost
		when = meet(a, b)
		p.meetings[k] = when
	}
	return when
}

func size(s *set) int {
	if s == nil {
		return 0
	}
	return len(s.entries)
}

func meet(a, b test) []window {
	x, y := a.values(), b.values()
	if x != nil && y != nil {
		return common(x, y)
	}
	always := []window{{}}
	if x == nil {
		x, a, b = y, b, a
	}
	ob, ok := b.(open)
	if !ok {
		return always
	}
	if x != nil {
		return x.passing(ob)
	}
	if oa, ok := a.(open); ok && (oa.excludes(ob) || ob.excludes(oa)) {
		return nil
	}
	return always
}

// lifetime returns the moments at which a workload can match anything at all.
func (w *workload) lifetime() []window {
	when := []window{{to: w.expires()}}
	for _, r := range w.rules {
		if s := r.test.values(); s != nil && !r.loose() {
			when = both(when, s.windows())
		}
	}
	return when
}

// expires is when the workload stops matching for lack of an ownership
// predicate; zero is never.
func (w *workload) expires() time.Time {
	if w.waiver == nil {
		return time.Time{}
	}
	return w.waiver.expires
}
