package policy

import (
	"slices"

	"github.com/assay-project/assay/attest"
)

// MaxExplained bounds the workloads that the decision of [Bundle.Evaluate]
// lists: beyond them it says how many it leaves out.
const MaxExplained = 32

// Bounds of the index.
const (
	// sharing is how many workloads may have a value in common before another
	// claim is looked for to find them by.
	sharing = 16
	// maxNear bounds those that a denial lists for coming near alone.
	maxNear = 20
	// considered bounds the workloads that these are chosen from.
	considered = 4 * MaxExplained
)

// index finds the workloads of one platform that claims can match, without
// looking at the others.
//
// A workload is found by one of its rules over a finite set: it can match only
// where the claim is a value of that set. Of its rules it is the first, in the
// order of the platform's most telling claims, whose values few workloads have in
// common; so an audit workload is found by the same claim as the enforced one
// beside it. Windows are left to the evaluation: a value that has expired still
// finds its workload, which then says so. Workloads without such a rule are
// always looked at.
//
// Values are indexed once for each set, not once for each workload that uses it:
// memory grows with the size of the file, however many workloads share a set.
type index struct {
	claims []*claimIndex // in the order of the platform's claims
	always []int32       // workloads, by place in byTEE, without a rule to find them by
}

// claimIndex is the part of an index over one claim.
type claimIndex struct {
	field  *field
	values map[value]*found   // of rules that admit one value
	sets   map[value][]*found // of rules that admit several, one for each set
}

// found are the workloads behind one value or one set, in the order of the file.
type found struct {
	primary []int32 // are found by it
	near    []int32 // name it beside the rule that they are found by: at most maxNear
}

// indexable is the finite set by which a workload can be found, or nil.
func indexable(r *rule) *set {
	s, ok := r.test.(*set)
	if !ok || len(s.entries) == 0 || r.loose() {
		return nil
	}
	return s
}

// indexed completes a bundle whose workloads are compiled.
func (b *Bundle) indexed() {
	b.chips = b.chipsNamed()
	b.index = make(map[attest.Platform]*index, len(b.byTEE))
	for t, ws := range b.byTEE {
		b.index[t] = newIndex(ws)
	}
}

// forget drops what only lint needed, the tree of the file above all: it is a third
// of what a large bundle takes.
func (b *Bundle) forget() {
	for _, w := range b.workloads {
		w.key, w.when, w.facts = nil, nil, nil
		for _, r := range w.rules {
			r.at = nil
		}
		for _, id := range w.identities {
			id.at = nil
		}
	}
}

// newIndex indexes the workloads of one platform.
func newIndex(ws []*workload) *index {
	ix := &index{}
	if len(ws) == 0 {
		return ix
	}
	t := ws[0].tee
	popular := popularity(ws)
	byField := make([]*claimIndex, len(t.fields))
	bySet := map[use]*found{}
	for i, w := range ws {
		at := int32(i) // a file of MaxSize holds far fewer
		best := w.foundBy(popular)
		if best == nil {
			ix.always = append(ix.always, at)
		}
		for _, r := range w.rules {
			s := indexable(r)
			if s == nil || r.implicit && r != best {
				continue
			}
			c := byField[r.field.index]
			if c == nil {
				c = &claimIndex{field: r.field, values: map[value]*found{}, sets: map[value][]*found{}}
				byField[r.field.index] = c
			}
			f := c.place(s, bySet)
			switch {
			case r == best:
				f.primary = append(f.primary, at)
			case len(f.near) < maxNear:
				f.near = append(f.near, at)
			}
		}
	}
	for _, c := range byField {
		if c != nil {
			ix.claims = append(ix.claims, c)
		}
	}
	return ix
}

// use is a set as the operand of rules over one claim: a reference set may serve
// several claims of a kind.
type use struct {
	field *field
	set   *set
}

// place returns where the workloads of a set are kept.
func (c *claimIndex) place(s *set, bySet map[use]*found) *found {
	if len(s.entries) == 1 {
		f := c.values[s.entries[0].value]
		if f == nil {
			f = &found{}
			c.values[s.entries[0].value] = f
		}
		return f
	}
	k := use{c.field, s}
	f := bySet[k]
	if f != nil {
		return f
	}
	f = &found{}
	bySet[k] = f
	for _, e := range s.entries {
		c.sets[e.value] = append(c.sets[e.value], f)
	}
	return f
}

// popularity says, for each finite set of the rules, how many workloads have the
// most common of its values in common.
func popularity(ws []*workload) map[*rule]int {
	type seen struct {
		field *field
		value value
	}
	users := map[use]int{}
	count := map[seen]int{}
	for _, w := range ws {
		for _, r := range w.rules {
			if s := indexable(r); s != nil {
				if len(s.entries) == 1 {
					count[seen{r.field, s.entries[0].value}]++
				} else {
					users[use{r.field, s}]++
				}
			}
		}
	}
	for k, n := range users {
		for _, e := range k.set.entries {
			count[seen{k.field, e.value}] += n
		}
	}
	most := make(map[use]int, len(users))
	for k := range users {
		for _, e := range k.set.entries {
			most[k] = max(most[k], count[seen{k.field, e.value}])
		}
	}
	out := map[*rule]int{}
	for _, w := range ws {
		for _, r := range w.rules {
			if s := indexable(r); s != nil && len(s.entries) == 1 {
				out[r] = count[seen{r.field, s.entries[0].value}]
			} else if s != nil {
				out[r] = most[use{r.field, s}]
			}
		}
	}
	return out
}

// foundBy chooses the rule by which a workload is found, or nil.
func (w *workload) foundBy(popular map[*rule]int) *rule {
	var best *rule
	least := 0
	try := func(r *rule) bool {
		n, ok := popular[r]
		if !ok {
			return false
		}
		if best == nil || n < least {
			best, least = r, n
		}
		return n <= sharing
	}
	for _, name := range w.tee.index {
		if r := w.find(name); r != nil && try(r) {
			return r
		}
	}
	for _, implicit := range []bool{false, true} {
		for _, r := range w.rules {
			if r.implicit == implicit && try(r) {
				return r
			}
		}
	}
	return best
}

// candidates returns the workloads that may match, in the order of the file.
// Every workload that does match is among them.
func (ix *index) candidates(e *evaluation) []int32 {
	out := slices.Clone(ix.always)
	for _, c := range ix.claims {
		claim := e.claim(c.field)
		if !claim.present {
			continue
		}
		if f := c.values[claim.value]; f != nil {
			out = append(out, f.primary...)
		}
		for _, f := range c.sets[claim.value] {
			out = append(out, f.primary...)
		}
	}
	slices.Sort(out)
	return out
}

// near returns workloads, beside those given, that have something in common with
// the claims; where they are fewer than want, those that stand first in the file
// as well. They are in the order of the file, and at most considered.
func (ix *index) near(e *evaluation, all, want int, but []int32) []int32 {
	var out []int32
	for _, c := range ix.claims {
		claim := e.claim(c.field)
		if !claim.present {
			continue
		}
		if f := c.values[claim.value]; f != nil {
			out = append(out, f.near...)
		}
		for _, f := range c.sets[claim.value] {
			if len(out) < considered {
				out = append(out, f.near...)
			}
		}
	}
	out = without(out, but)
	if len(out) < want {
		first := make([]int32, 0, want+len(but)+len(out))
		for i := range min(all, cap(first)) {
			first = append(first, int32(i))
		}
		first = without(without(first, but), out)
		out = append(out, first[:min(len(first), want-len(out))]...)
		slices.Sort(out)
	}
	return out[:min(len(out), considered)]
}

// without sorts places, and drops repeated ones and those of a sorted list.
func without(places, but []int32) []int32 {
	slices.Sort(places)
	places = slices.Compact(places)
	return slices.DeleteFunc(places, func(i int32) bool {
		_, given := slices.BinarySearch(but, i)
		return given
	})
}
