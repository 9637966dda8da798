package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Explain is [Bundle.Evaluate] over every workload of the platform: the same
// outcome, with nothing omitted. Its cost grows with the number of workloads.
func (b *Bundle) Explain(c attest.Claims, at time.Time) Decision {
	d, ws := b.open(&c, at)
	if len(ws) == 0 {
		return d
	}
	e := b.evaluation(&c, at)
	v := &verdicts{}
	all := make([]int32, len(ws))
	for i := range all {
		all[i] = int32(i)
	}
	for range e.judge(ws, all, v) { // the verdicts are what counts
	}
	v.conclude(&d)
	d.Workloads = make([]WorkloadResult, len(ws))
	for i, w := range ws {
		d.Workloads[i], _ = e.workload(w, make([]RuleResult, 0, w.results()))
	}
	d.explain()
	return d
}

// explain adds to a denial which workload came nearest.
func (d *Decision) explain() {
	if d.Reason != ReasonNoMatch || len(d.Workloads) == 0 {
		return
	}
	best := &d.Workloads[0]
	for i, least := 1, best.nearness(); i < len(d.Workloads); i++ {
		if n := d.Workloads[i].nearness(); n.compare(least) < 0 {
			best, least = &d.Workloads[i], n
		}
	}
	var failed []string
	for _, r := range best.Rules {
		if !r.Holds {
			failed = append(failed, r.Rule)
		}
	}
	verb := "do"
	if len(failed) == 1 {
		verb = "does"
	}
	d.Detail = fmt.Sprintf("nearest is workload %s: %s %s not hold", best.Name, strings.Join(failed, ", "), verb)
}

// closest returns at most n of the workloads: those first of whose written claims
// the largest share holds, as [Decision.NearestFirst] orders them.
func (e *evaluation) closest(ws []*workload, some []int32, n int) []int32 {
	if len(some) <= n {
		return some
	}
	if n <= 0 {
		return nil
	}
	some = some[:min(len(some), considered)]
	type scored struct {
		at int32
		nearness
	}
	all := make([]scored, len(some))
	for i, at := range some {
		all[i] = scored{at, e.nearness(ws[at])}
	}
	slices.SortStableFunc(all, func(a, b scored) int { return a.compare(b.nearness) })
	out := make([]int32, n)
	for i := range out {
		out[i] = all[i].at
	}
	return out
}

// nearness counts without words what [WorkloadResult.nearness] counts in results;
// an expression, which costs more than all else, is left out.
func (e *evaluation) nearness(w *workload) (n nearness) {
	for _, r := range w.rules {
		if !r.loose() {
			ok, _ := e.holds(r)
			n.count(ok, !r.implicit)
			continue
		}
		out, _ := e.rule(r)
		n.count(out.Holds, out.Op != waiverOp)
	}
	if w.waiver != nil {
		n.count(!e.at.After(w.waiver.expires), false)
	}
	return n
}

// results is the number of rules that a workload shows.
func (w *workload) results() int {
	n := len(w.rules)
	for _, more := range []bool{w.expr != nil, w.waiver != nil, w.mode == Rollout} {
		if more {
			n++
		}
	}
	return n
}

// workload evaluates every rule of a workload, none short-circuited, into the
// room behind results.
func (e *evaluation) workload(w *workload, results []RuleResult) (WorkloadResult, []RuleResult) {
	out := WorkloadResult{Name: w.name, Mode: w.mode, Matched: true}
	first := len(results)
	add := func(r RuleResult) {
		results = append(results, r)
		out.Matched = out.Matched && r.Holds
	}
	results = slices.Grow(results, len(w.rules))
	for _, r := range w.rules {
		results = results[:len(results)+1] // filled where it stays: there are many
		one := &results[len(results)-1]
		e.fill(one, r)
		out.Matched = out.Matched && one.Holds
	}
	if w.expr != nil {
		add(e.exprRule(w.expr))
	}
	if w.waiver != nil {
		add(e.waiver(w.waiver))
	}
	if w.mode == Rollout {
		add(e.rolloutRule(w))
	}
	if len(w.rules) == 0 {
		out.Matched = false
	}
	out.Rules = results[first:len(results):len(results)]
	return out, results
}

// rule evaluates one rule, and returns the last moment at which it still holds.
func (e *evaluation) rule(r *rule) (RuleResult, *time.Time) {
	var out RuleResult
	until := e.fill(&out, r)
	return out, until
}

func (e *evaluation) fill(out *RuleResult, r *rule) *time.Time {
	out.Rule, out.Op, out.Expected = r.field.name, r.op, r.test.expected()
	out.Implicit, out.Position = r.implicit, r.position
	c := e.claim(r.field)
	out.Got = e.words(r.field)
	if !c.present {
		out.Hint = e.hint(r.field)
		return nil
	}
	v := r.test.eval(c.value, out.Got, e.at)
	out.Got, out.Holds = v.got, v.holds
	if v.holds {
		return v.until
	}
	if out.Hint = v.hint; out.Hint == "" {
		out.Hint = e.hint(r.field)
	}
	if !r.loose() || v.strict {
		return nil
	}
	waived, until := e.waived(r, *out)
	*out = waived
	return until
}

// hint is what the claim's failure usually means: it depends on the claim alone,
// and is asked for once.
func (e *evaluation) hint(f *field) string {
	r := e.claim(f)
	if !r.hinted {
		r.hinted, r.hint = true, f.hint(r.value, r.present)
	}
	return r.hint
}

// waiver shows an ownership waiver as a rule: it holds up to and including the
// moment at which it expires.
func (e *evaluation) waiver(w *waiver) RuleResult {
	out := RuleResult{
		Rule: waiverRule, Op: waiverOp, Position: w.position, Holds: true,
		Expected: "a waiver that has not expired (until " + stamp(w.expires) + ")",
		Got:      fmt.Sprintf("waived by %s: %s", w.owner, w.reason),
	}
	if e.at.After(w.expires) {
		out.Holds = false
		out.Got = "expired: " + out.Got
		out.Hint = "match an ownership predicate, or have " + w.owner + " extend the waiver"
	}
	return out
}
