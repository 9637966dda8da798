package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// maxAmbiguities bounds the pairs that one run reports.
const maxAmbiguities = 20

// ambiguities reports every pair of enforced workloads of one platform that one
// piece of evidence could match: production would deny it as ambiguous.
//
// The test is exact over finite sets. Claims are independent of each other, so
// two workloads exclude each other exactly when, at every moment, some claim
// that both name has no value that both accept. Where claims do depend on each
// other (a TCB floor names its products), the platform says what follows from
// a rule. What is left open errs on the safe side: pairs that could never meet
// may be reported, and none that could is missed.
//
// Pairs are not all compared: the workloads are grouped by the claim that tells
// most of them apart, and only those that share a value of it, or do not name
// it, are looked at.
func (p *parser) ambiguities() {
	for _, t := range tees {
		var ws []*workload
		for _, w := range p.b.byTEE[t.platform] {
			if w.mode == Enforce && w.whole {
				w.when = w.lifetime()
				ws = append(ws, w)
			}
		}
		p.ambiguous(t.platform, ws)
	}
}

func (p *parser) ambiguous(platform attest.Platform, ws []*workload) {
	pivot := bestPivot(ws)
	byValue := map[value][]int{}
	var wild []int
	reported := 0
	full := func(a, b *workload) bool {
		shared, possible := p.overlap(a, b)
		if possible {
			p.reportAmbiguity(platform, a, b, shared)
			reported++
		}
		return reported == maxAmbiguities
	}
	for i, w := range ws {
		r := pivotRule(w, pivot)
		if r == nil {
			for _, before := range ws[:i] {
				if full(before, w) {
					return
				}
			}
			wild = append(wild, i)
			continue
		}
		for _, j := range wild {
			if full(ws[j], w) {
				return
			}
		}
		seen := map[int]bool{}
		for _, e := range r.test.values().entries {
			for _, j := range byValue[e.value] {
				if !seen[j] && full(ws[j], w) {
					return
				}
				seen[j] = true
			}
			byValue[e.value] = append(byValue[e.value], i)
		}
	}
}

func (p *parser) reportAmbiguity(platform attest.Platform, a, b *workload, shared []string) {
	why := "they have no claim in common"
	if len(shared) > 0 {
		why = "both accept a common value of " + strings.Join(shared, ", ")
	}
	p.doc.Report(b.key, fmt.Sprintf("workloads %q (line %d) and %q can match the same %s evidence, which would be denied as ambiguous: %s", a.name, a.key.Line, b.name, platform, why),
		"pin one claim in both with values that differ, or set one of them to mode: audit")
}

// bestPivot chooses the claim for which the fewest pairs remain to be compared.
func bestPivot(ws []*workload) *field {
	type tally struct {
		values map[value]int
		named  int
	}
	count := map[*field]*tally{}
	for _, w := range ws {
		for _, r := range w.rules {
			s := r.test.values()
			if s == nil {
				continue
			}
			t := count[r.field]
			if t == nil {
				t = &tally{values: map[value]int{}}
				count[r.field] = t
			}
			t.named++
			for _, e := range s.entries {
				t.values[e.value]++
			}
		}
	}
	var best *field
	bestCost := 0
	for f, t := range count {
		cost := (len(ws) - t.named) * len(ws)
		for _, n := range t.values {
			cost += n * n
		}
		if best == nil || cost < bestCost || cost == bestCost && f.index < best.index {
			best, bestCost = f, cost
		}
	}
	return best
}

func pivotRule(w *workload, pivot *field) *rule {
	if pivot == nil {
		return nil
	}
	if r := w.over(pivot); r != nil && r.test.values() != nil {
		return r
	}
	return nil
}

// overlap reports whether one piece of evidence can match both workloads at
// one moment, and the claims that both name with common values.
func (p *parser) overlap(a, b *workload) (shared []string, possible bool) {
	when := both(a.when, b.when)
	for _, r := range a.rules {
		o := b.over(r.field)
		if o == nil {
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
		if r := w.over(f.claim); r != nil && len(p.meet(f.test, r.test)) == 0 {
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
	w.facts = w.tee.implies(w)
	report := func(a, b *field) {
		p.doc.Report(w.key, fmt.Sprintf("workload %q can never match: no report satisfies both its %s and its %s", w.name, a.name, b.name), "drop one of them, or make two workloads of it")
	}
	for i, f := range w.facts {
		if r := w.over(f.claim); r != nil && len(p.meet(f.test, r.test)) == 0 {
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
	if n := max(size(x), size(y)); n < largeSet || len(p.meetings) >= maxMeetings {
		return meet(a, b)
	}
	k := [2]test{a, b}
	when, ok := p.meetings[k]
	if !ok {
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
		if s := r.test.values(); s != nil {
			when = both(when, common(s, s))
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
