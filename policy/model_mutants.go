package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Mutant is a policy with one thing less strict than it was: for finding out
// whether its tests would notice. It evaluates, and never grants.
type Mutant struct {
	Workload string
	Platform attest.Platform
	Claim    string // whose rule was changed; "expr", "ownership", "mode"
	Change   string // in words: "dropped", "at least 3 became at least 2"
	Position string // "file:line:col" of what was changed
	bundle   *Bundle
	place    int
	workload *workload
}

// Bundle compiles the mutant. [Bundle.Authorize] of it refuses everybody.
func (m Mutant) Bundle() *Bundle {
	out := *m.bundle
	out.offline = true
	out.workloads = slices.Clone(out.workloads)
	out.workloads[m.place] = m.workload
	out.byTEE = maps.Clone(out.byTEE)
	of := slices.Clone(out.byTEE[m.Platform])
	of[slices.Index(of, m.bundle.workloads[m.place])] = m.workload
	out.byTEE[m.Platform] = of
	out.index = maps.Clone(out.index)
	out.index[m.Platform] = newIndex(of)
	return &out
}

// Touches reports whether the change can make a difference to a decision: whether
// other rules of the workload hold than before. It looks at that workload alone, so
// that most claims need not be put to the whole mutant.
func (m Mutant) Touches(c attest.Claims, at time.Time) bool {
	was := m.bundle.workloads[m.place]
	if c.Platform != m.Platform {
		return false
	}
	if was.mode != m.workload.mode {
		return true
	}
	e := m.bundle.evaluation(&c, at)
	before, _ := e.workload(was, nil)
	after, _ := e.workload(m.workload, nil)
	fails := func(w WorkloadResult) (out []string) {
		for _, r := range w.Rules {
			if !r.Holds {
				out = append(out, r.Rule)
			}
		}
		return out
	}
	return before.Matched != after.Matched || !slices.Equal(fails(before), fails(after))
}

// forever is after every waiver.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// Mutants lists what could be less strict in the bundle, in the order of the
// file: each rule dropped, each bound one step wider, each set with one value more,
// each window and waiver without end, each expression true, each rollout over. Of
// implicit rules too. Workloads that may grant nothing have none.
func (b *Bundle) Mutants() []Mutant {
	var out []Mutant
	for i, w := range b.workloads {
		if !w.mayGrant() {
			continue
		}
		add := func(claim, position, change string, edit func(w *workload)) {
			m := *w
			edit(&m)
			out = append(out, Mutant{w.name, w.tee.platform, claim, change, position, b, i, &m})
		}
		for j, r := range w.rules {
			replace := func(change string, t test) {
				add(r.field.name, r.position, change, func(w *workload) {
					one := *r
					one.test = t
					w.rules = slices.Clone(w.rules)
					w.rules[j] = &one
				})
			}
			add(r.field.name, r.position, "dropped", func(w *workload) {
				if len(w.rules) == 1 {
					w.rules = []*rule{{field: r.field, op: r.op, test: anything{}, position: r.position}}
					return
				}
				w.rules = slices.Delete(slices.Clone(w.rules), j, j+1)
			})
			for _, m := range wider(r.field, r.test) {
				replace(m.change, m.test)
			}
			for k, x := range r.waivers {
				waive := func(change string, edit func(*ruleWaiver)) {
					add(r.field.name, x.position, change, func(w *workload) {
						one, waived := *r, *x
						edit(&waived)
						one.waivers = slices.Clone(r.waivers)
						one.waivers[k] = &waived
						w.rules = slices.Clone(w.rules)
						w.rules[j] = &one
					})
				}
				waive("its waiver never expires", func(x *ruleWaiver) { x.expires = forever })
				for n, c := range x.when {
					waive("its waiver without the condition over "+c.field.name, func(x *ruleWaiver) { x.when = slices.Delete(slices.Clone(x.when), n, n+1) })
				}
			}
		}
		if w.waiver != nil {
			add("ownership", w.waiver.position, "its waiver never expires", func(w *workload) {
				one := *w.waiver
				one.expires = forever
				w.waiver = &one
			})
		}
		if w.expr != nil {
			add(exprRule, w.expr.position, "became true", func(w *workload) { w.expr = nil })
		}
		if w.mode == Rollout && w.rollout < rolloutScale {
			add("mode", w.rolloutAt, "the rollout admits everybody", func(w *workload) { w.mode = Enforce })
		}
	}
	return out
}

// widened is a less strict test.
type widened struct {
	change string
	test   test
}

// wider lists the tests that are one step less strict.
func wider(f *field, t test) []widened {
	switch t := t.(type) {
	case *set:
		return widerSet(t, func(s test) test { return s })
	case *every:
		return append(widerSet(t.of, func(s test) test {
			if s, ok := s.(*set); ok {
				return &every{s}
			}
			return nil
		}), widened{"one value more", &someOther{t}})
	case *bound:
		return widerBound(f, t)
	case *bits:
		return widerBits(t)
	case *tcbFloor:
		return widerTCB(t)
	}
	return nil // of a regular expression there is no next step
}

func widerSet(s *set, of func(test) test) []widened {
	var out []widened
	add := func(change string, t test) {
		if t = of(t); t != nil {
			out = append(out, widened{change, t})
		}
	}
	if !s.finiteKind() {
		add("one value more", &oneMore{s})
	}
	without := func(edit func(*entry) bool) (test, bool) {
		one, changed := *s, false
		one.entries = slices.Clone(s.entries)
		for i := range one.entries {
			changed = edit(&one.entries[i]) || changed
		}
		one.when = nil
		return &one, changed
	}
	if t, ok := without(func(e *entry) bool { was := e.notAfter; e.notAfter = time.Time{}; return !was.IsZero() }); ok {
		add("without not_after", t)
	}
	if t, ok := without(func(e *entry) bool { was := e.notBefore; e.notBefore = time.Time{}; return !was.IsZero() }); ok {
		add("without not_before", t)
	}
	return out
}

// finiteKind reports whether the set has truth values: one more is any at all,
// which is the rule dropped.
func (s *set) finiteKind() bool {
	return len(s.entries) > 0 && !slices.ContainsFunc(s.entries, func(e entry) bool { return e.value != yes && e.value != no && e.value != maskedVLEK })
}

func widerBound(f *field, b *bound) []widened {
	raw := []byte(b.value)
	step := func(up bool) bool {
		for i := len(raw) - 1; i >= 0; i-- {
			if up {
				raw[i]++
				if raw[i] != 0 {
					return true
				}
			} else {
				raw[i]--
				if raw[i] != 0xff {
					return true
				}
			}
		}
		return false // it was the last
	}
	if !step(b.upper) {
		return nil
	}
	one := &bound{upper: b.upper, value: value(raw), text: f.kind.format(value(raw))}
	return []widened{{b.expected() + " became " + one.expected(), one}}
}

func widerBits(b *bits) []widened {
	var out []widened
	for i := range 64 {
		m := uint64(1) << i
		if b.set&m != 0 {
			out = append(out, widened{fmt.Sprintf("without bit %d set", i), bitsOrAnything(b.set&^m, b.clear)})
		}
		if b.clear&m != 0 {
			out = append(out, widened{fmt.Sprintf("without bit %d clear", i), bitsOrAnything(b.set, b.clear&^m)})
		}
	}
	return out
}

func bitsOrAnything(set, clear uint64) test {
	if set|clear == 0 {
		return anything{}
	}
	return &bits{set, clear}
}

// widerTCB has each component of each product line's limit one step wider, and the
// product lines that have none admitted.
func widerTCB(t *tcbFloor) []widened {
	var out []widened
	for _, product := range snpProducts {
		limit, ok := t.floors[product]
		if !ok {
			continue
		}
		for i, n := range tcbParts(limit) {
			if product != snpHasFMC && i == 0 || !t.upper && n == 0 || t.upper && n == 255 {
				continue
			}
			next := n - 1
			if t.upper {
				next = n + 1
			}
			one := limit
			switch i {
			case 0:
				one.FMC = &next
			case 1:
				one.Bootloader = next
			case 2:
				one.TEE = next
			case 3:
				one.SNP = next
			case 4:
				one.Microcode = next
			}
			floors := maps.Clone(t.floors)
			floors[product] = one
			out = append(out, widened{fmt.Sprintf("%s: %s %d became %d", product, tcbNames[i], n, next), &tcbFloor{t.upper, floors}})
		}
	}
	if len(t.floors) < len(snpProducts) {
		var more []string
		for _, product := range snpProducts {
			if _, ok := t.floors[product]; !ok {
				more = append(more, product)
			}
		}
		out = append(out, widened{"no " + t.limit() + " for " + strings.Join(more, ", "), &otherProducts{t}})
	}
	return out
}

// The tests of mutants. None is a finite set, so that no index finds by them.

// anything admits every value that is there.
type anything struct{}

func (anything) expected() string   { return "anything" }
func (anything) values() *set       { return nil }
func (anything) admits(value) bool  { return true }
func (anything) excludes(open) bool { return false }
func (anything) eval(_ value, text string, _ time.Time) verdict {
	return verdict{holds: true, got: text}
}

// oneMore admits a value that the set does not list: whichever is shown.
type oneMore struct{ *set }

func (o *oneMore) values() *set       { return nil }
func (o *oneMore) excludes(open) bool { return false }
func (o *oneMore) admits(value) bool  { return true }
func (o *oneMore) eval(v value, text string, at time.Time) verdict {
	if o.lists(v) {
		return o.set.eval(v, text, at)
	}
	return verdict{holds: true, got: text}
}

// someOther is oneMore over the elements of a list.
type someOther struct{ *every }

func (o *someOther) eval(v value, text string, at time.Time) verdict {
	for _, element := range v.split() {
		if o.of.lists(element) {
			if one := o.of.eval(element, text, at); !one.holds {
				return one
			}
		}
	}
	return verdict{holds: v != "", got: text}
}

// otherProducts admits machines of product lines without a limit.
type otherProducts struct{ *tcbFloor }

func (o *otherProducts) eval(v value, text string, at time.Time) verdict {
	product, _ := tcbOf(v)
	if _, ok := o.floors[product]; !ok {
		return verdict{holds: true, got: text}
	}
	return o.tcbFloor.eval(v, text, at)
}

// Weaker yields the values of a claim that are worse than a given one, or other
// than it: of what is ordered one less, of bits one not set, of everything else
// another value, and zero where evidence shows zeros.
func (c ModelClaim) Weaker(v Value) []Value {
	k := Constraint{Claim: c}
	less := func(raw []byte) []Value {
		for i := len(raw) - 1; i >= 0; i-- {
			raw[i]--
			if raw[i] != 0xff {
				if one := value(raw); k.valid(one) {
					return []Value{one}
				}
				return nil
			}
		}
		return nil // there is nothing less
	}
	var out []Value
	switch c.f.kind.(type) {
	case number, firmware, tpmFirmware:
		return less([]byte(v))
	case tcb:
		product, t := tcbOf(v)
		for i, n := range tcbParts(t) {
			if n == 0 || i == 0 && product != snpHasFMC {
				continue
			}
			raw := []byte(v)
			at := len(product) + 1 + i
			if product != snpHasFMC {
				at--
			}
			raw[at]--
			out = append(out, value(raw))
		}
		return out
	case bitfield:
		for i := range 64 {
			if m := uint64(1) << i; v.flags()&m != 0 {
				out = append(out, flags(v.flags()&^m))
			}
		}
		return out
	}
	for _, o := range k.Candidates(time.Time{}) {
		if o != v {
			out = append(out, o)
		}
	}
	return out
}
