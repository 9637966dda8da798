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
// that both name has no value that both accept.
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
		shared, possible := overlap(a, b)
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
// one moment, and the claims that both name with common values. A test that is
// no finite set separates nothing.
func overlap(a, b *workload) (shared []string, possible bool) {
	when := both(a.when, b.when)
	for _, r := range a.rules {
		o := b.over(r.field)
		if o == nil {
			continue
		}
		x, y := r.test.values(), o.test.values()
		if x == nil || y == nil {
			continue
		}
		if when = both(when, common(x, y)); len(when) == 0 {
			return nil, false
		}
		if !r.implicit || !o.implicit {
			shared = append(shared, r.field.name)
		}
	}
	return shared, len(when) > 0
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
