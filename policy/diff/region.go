package diff

import (
	"slices"
	"time"

	"github.com/assay-project/assay/policy"
)

// maxAlternatives bounds the ways in which waivers let one workload match.
const maxAlternatives = 64

// side is one of the two policies.
type side struct {
	name   string // "A" or "B"
	bundle *policy.Bundle
	model  *policy.Model
	find   map[*policy.ModelWorkload]int
	by     map[policy.ModelClaim]*values // of workloads that may grant
	all    []*policy.ModelWorkload       // that may grant
}

// values are the workloads that name a claim with a finite set and nothing that
// waives it, by its values, and the others.
type values struct {
	of      map[policy.Value][]*policy.ModelWorkload
	without map[*policy.ModelWorkload]bool
}

func newSide(name string, b *policy.Bundle) *side {
	s := &side{name: name, bundle: b, model: b.Model(), by: map[policy.ModelClaim]*values{}}
	for _, w := range s.model.Workloads {
		if w.MayGrant() {
			s.all = append(s.all, w)
		}
	}
	for _, w := range s.all {
		for _, r := range w.Rules {
			if vs := strict(r); vs != nil {
				v := s.by[r.Claim]
				if v == nil {
					v = &values{of: map[policy.Value][]*policy.ModelWorkload{}}
					s.by[r.Claim] = v
				}
				for _, e := range vs {
					v.of[e.Value] = append(v.of[e.Value], w)
				}
			}
		}
	}
	return s
}

// strict are the values of a rule that nothing waives; nil where it is no such.
func strict(r policy.ModelRule) []policy.ModelEntry {
	if len(r.Waivers) > 0 {
		return nil
	}
	return r.Values()
}

// candidates are the workloads that can match what w matches, found by the claim
// that leaves the fewest, and then compared claim by claim.
func (s *side) candidates(w *policy.ModelWorkload) []*policy.ModelWorkload {
	some := s.all
	for _, r := range w.Rules {
		vs, by := strict(r), s.by[r.Claim]
		if vs == nil || r.Implicit || by == nil || len(vs) > maxLookups {
			continue
		}
		if by.without == nil {
			by.without = map[*policy.ModelWorkload]bool{}
			for _, o := range s.all {
				if o.Platform == w.Platform && !slices.ContainsFunc(o.Rules, func(x policy.ModelRule) bool { return x.Claim == r.Claim && strict(x) != nil }) {
					by.without[o] = true
				}
			}
		}
		n := len(by.without)
		for _, e := range vs {
			n += len(by.of[e.Value])
		}
		if n >= len(some) {
			continue
		}
		some = nil
		for o := range by.without {
			some = append(some, o)
		}
		for _, e := range vs {
			some = append(some, by.of[e.Value]...)
		}
	}
	in := map[*policy.ModelWorkload]bool{}
	for _, o := range some {
		if o != w && o.Platform == w.Platform && meet(w, o) {
			in[o] = true
		}
	}
	out := make([]*policy.ModelWorkload, 0, len(in))
	for o := range in {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *policy.ModelWorkload) int { return s.place(a) - s.place(b) })
	return out
}

const maxLookups = 4096

func (s *side) place(w *policy.ModelWorkload) int {
	if s.find == nil {
		s.find = make(map[*policy.ModelWorkload]int, len(s.model.Workloads))
		for i, o := range s.model.Workloads {
			s.find[o] = i
		}
	}
	return s.find[w]
}

// meet reports whether no claim alone keeps two workloads apart at all times.
func meet(a, b *policy.ModelWorkload) bool {
	for _, x := range a.Rules {
		if len(x.Waivers) > 0 {
			continue
		}
		for _, y := range b.Rules {
			if x.Claim != y.Claim || len(y.Waivers) > 0 {
				continue
			}
			vs, ws := x.Values(), y.Values()
			if vs == nil || ws == nil {
				continue
			}
			some := make(map[policy.Value]bool, len(vs))
			for _, e := range vs {
				some[e.Value] = true
			}
			if !slices.ContainsFunc(ws, func(e policy.ModelEntry) bool { return some[e.Value] }) {
				return false
			}
		}
	}
	return true
}

// breaks are the moments at which what a workload admits can change.
func breaks(w *policy.ModelWorkload) []time.Time {
	var out []time.Time
	if !w.Expires.IsZero() {
		out = append(out, w.Expires.Add(1))
	}
	for _, r := range w.Rules {
		out = append(out, r.Breaks()...)
		for _, x := range r.Waivers {
			out = append(out, x.Expires.Add(1))
			for _, c := range x.When {
				out = append(out, c.Breaks()...)
			}
		}
	}
	return out
}

// freezer remembers tests as they are at one moment.
type freezer struct {
	at   time.Time
	done map[policy.ModelTest]literal
}

func (f *freezer) freeze(t policy.ModelTest) literal {
	l, ok := f.done[t]
	if !ok {
		l.test, l.key = t.Frozen(f.at)
		f.done[t] = l
	}
	return l
}

// region is what the workload admits at the freezer's moment; false where waivers
// let it match in too many ways.
func (s *side) region(w *policy.ModelWorkload, f *freezer) (region, bool) {
	if !w.Expires.IsZero() && f.at.After(w.Expires) || w.Mode == policy.Rollout && w.Rollout == 0 {
		return nil, true
	}
	out := region{nil}
	add := func(ways ...[]literal) bool {
		var next region
		for _, all := range out {
			for _, way := range ways {
				next = append(next, slices.Concat(all, way))
			}
		}
		out = next
		return len(out) <= maxAlternatives
	}
	for _, r := range w.Rules {
		ways := [][]literal{{f.freeze(r.ModelTest)}}
		for _, x := range r.Waivers {
			if f.at.After(x.Expires) {
				continue
			}
			way := []literal{f.freeze(r.Waived())}
			for _, c := range x.When {
				way = append(way, f.freeze(c))
			}
			ways = append(ways, way)
		}
		if !add(ways...) {
			return nil, false
		}
	}
	var last []literal
	if w.Mode == policy.Rollout { // one for all admits whatever has a name
		last = append(last, literal{draw: s.bundle.Name() + "/" + w.Name, most: w.Rollout})
	}
	if w.Expr != nil {
		last = append(last, literal{expr: w.Expr})
	}
	add(last)
	return out, true
}
