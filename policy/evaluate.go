package policy

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Evaluate decides what the policy says about claims at a time. It is pure: the
// same bundle, claims and time give the same decision. What a request asks for
// is left to [Bundle.Authorize].
//
// Its cost does not grow with the number of workloads, but with that of the
// workloads that have their most telling value in common. The decision lists
// those, and in a denial two dozen others that come near, [MaxExplained] in all;
// it counts the rest as omitted. [Bundle.Explain] comes to the same outcome, and leaves
// nothing out.
func (b *Bundle) Evaluate(c attest.Claims, at time.Time) Decision {
	d, _ := b.evaluate(&c, at)
	return d
}

// evaluate also returns the workload that grants, or nil.
func (b *Bundle) evaluate(c *attest.Claims, at time.Time) (Decision, *workload) {
	d, ws := b.open(c, at)
	if len(ws) == 0 {
		return d, nil
	}
	ix := b.index[c.Platform]
	if ix == nil { // not indexed: slower, and the same
		ix = newIndex(ws)
	}
	e := b.evaluation(c, at)
	e.bounded = true
	some := ix.candidates(e)
	v := &verdicts{}
	var matching, others []int32
	for i, matches := range e.judge(ws, some, v) {
		if matches {
			matching = append(matching, i)
		} else {
			others = append(others, i)
		}
	}
	slices.Sort(matching)
	slices.Sort(others)
	winner := v.conclude(&d)
	// What is listed: all that match first, for they are the decision; then what
	// the index found beside them; then, for who is denied, what comes near.
	list := matching
	if winner != nil { // at the limit the one that grants stays
		at := slices.IndexFunc(matching, func(i int32) bool { return ws[i] == winner })
		list = append([]int32{matching[at]}, slices.Delete(slices.Clone(matching), at, at+1)...)
	}
	list = list[:min(len(list), MaxExplained)]
	list = append(list, e.closest(ws, others, MaxExplained-len(list))...)
	if d.Outcome == Refused && len(list) < MaxExplained {
		slices.Sort(list)
		n := min(MaxExplained-len(list), maxNear)
		list = append(list, e.closest(ws, ix.near(e, len(ws), n, list), n)...)
	}
	slices.Sort(list)
	room := 0
	for _, i := range list {
		room += ws[i].results()
	}
	results := make([]RuleResult, 0, room)
	d.Workloads = make([]WorkloadResult, len(list))
	for n, i := range list {
		d.Workloads[n], results = e.workload(ws[i], results)
	}
	d.Omitted = len(ws) - len(list)
	d.explain()
	d.shorten()
	return d, winner
}

// judge finds which of some workloads match, and adds them to the verdicts: first
// those that might grant, so that what audited ones cost is no part of what is
// granted.
func (e *evaluation) judge(ws []*workload, some []int32, v *verdicts) iter.Seq2[int32, bool] {
	return func(yield func(int32, bool) bool) {
		for _, grants := range []bool{true, false} {
			for _, i := range some {
				if ws[i].mayGrant() == grants && !yield(i, e.matches(ws[i], v)) {
					return
				}
			}
		}
	}
}

// open begins a decision, and returns the workloads that it is about. Without
// any it is made.
func (b *Bundle) open(c *attest.Claims, at time.Time) (Decision, []*workload) {
	digest := b.digest
	d := Decision{
		Bundle: b.name, Revision: b.revision, Digest: digest[:], At: at.UTC(),
		Outcome: Refused, Workloads: []WorkloadResult{},
	}
	ws := b.byTEE[c.Platform]
	if len(ws) == 0 {
		d.Reason = ReasonNoWorkload
		d.Detail = fmt.Sprintf("the bundle has no workload for %.40q", string(c.Platform))
	}
	return d, ws
}

// verdicts collects which workloads match, in the order of the file.
type verdicts struct {
	granting  []*workload // would grant
	until     *time.Time  // of the last of them
	audited   []*workload // match in mode audit
	outside   []*workload // match but for their rollout
	undecided []*workload // match, and whether their rollout admits is not known
	tooDear   *workload   // might grant, and what expressions may cost was spent before
}

// conclude writes outcome and reason, and returns the workload that grants. A
// workload whose rollout is not known might grant, so that another one beside it
// cannot: both might.
func (v *verdicts) conclude(d *Decision) *workload {
	switch {
	case v.tooDear != nil:
		d.Reason, d.Detail = ReasonTooDear, "the expressions of the workloads that match otherwise cost too much together: the first that was not evaluated is that of "+v.tooDear.name
	case len(v.granting) == 1 && len(v.undecided) == 0:
		w := v.granting[0]
		d.Outcome, d.Reason = Granted, ReasonGranted
		d.Workload, d.ValidUntil, d.Ownership = w.name, v.until, w.ownership
		return w
	case len(v.granting) > 0:
		d.Reason, d.Detail = ReasonAmbiguous, "several workloads match: "+names(slices.Concat(v.granting, v.undecided))
	case len(v.undecided) > 0:
		d.Reason, d.Detail = ReasonUndecided, "only the server's secret tells whether the rollout admits this environment: "+names(v.undecided)
	case len(v.outside) > 0:
		d.Reason, d.Detail = ReasonNotInRollout, "the rollout does not admit this environment yet: "+names(v.outside)
	case len(v.audited) > 0:
		d.Reason, d.Detail = ReasonAuditOnly, "only workloads in mode audit match: "+names(v.audited)
	default:
		d.Reason = ReasonNoMatch
	}
	return nil
}

// names lists workloads, and counts those beyond a few.
func names(ws []*workload) string {
	var out []string
	for _, w := range ws[:min(len(ws), MaxExplained)] {
		out = append(out, w.name)
	}
	if more := len(ws) - len(out); more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}

// evaluation reads each claim once, whatever the number of workloads.
type evaluation struct {
	claims  *attest.Claims
	at      time.Time
	read    []reading // by field index
	rollout *rollout
	bundle  string
	exprs   map[*expression]exprResult
	spent   uint64 // on expressions, for the decision
	shown   uint64 // likewise, to show them
	bounded bool   // so that no more than maxExprsCost is
}

type reading struct {
	done, present, formatted, hinted bool

	value value
	text  string // see words
	hint  string // see hint
}

func (b *Bundle) evaluation(c *attest.Claims, at time.Time) *evaluation {
	return &evaluation{
		claims: c, at: at, read: make([]reading, len(b.byTEE[c.Platform][0].tee.fields)),
		rollout: b.rollout, bundle: b.name,
	}
}

func (e *evaluation) claim(f *field) *reading {
	r := &e.read[f.index]
	if !r.done {
		r.done = true
		if r.value, r.present = f.get(e.claims); !r.present {
			r.value = ""
		}
	}
	return r
}

// words is a claim as decisions show it.
func (e *evaluation) words(f *field) string {
	r := e.claim(f)
	if !r.formatted {
		r.formatted, r.text = true, "missing"
		if r.present {
			r.text = f.kind.format(r.value)
		}
	}
	return r.text
}

// holds is rule without words. Sets have a short cut; whatever else is evaluated
// as it is explained, so that the two cannot differ.
func (e *evaluation) holds(r *rule) (bool, *time.Time) {
	c := e.claim(r.field)
	if s, ok := r.test.(*set); ok && !r.loose() {
		if !c.present {
			return false, nil
		}
		return s.holds(c.value, e.at)
	}
	out, until := e.rule(r)
	return out.Holds, until
}

// matches finds whether a workload matches, without explaining it, and adds it to
// the verdicts.
func (e *evaluation) matches(w *workload, v *verdicts) bool {
	var until *time.Time
	end := func(t *time.Time) {
		if t != nil && (until == nil || t.Before(*until)) {
			until = t
		}
	}
	for _, r := range w.rules {
		ok, t := e.holds(r)
		if !ok {
			return false
		}
		end(t)
	}
	if w.waiver != nil {
		if e.at.After(w.waiver.expires) {
			return false
		}
		end(&w.waiver.expires)
	}
	if len(w.rules) == 0 {
		return false // no rule, no match: Parse refuses this, and so do we
	}
	if w.expr != nil { // what costs most comes last
		holds, spent := e.spend(w.expr.expression)
		if !spent && w.mayGrant() && v.tooDear == nil {
			v.tooDear = w
		}
		if !holds {
			return false
		}
	}
	return v.add(w, e.draw(w), until)
}

// add files a workload all of whose other rules hold by its mode, and reports
// whether it matches.
func (v *verdicts) add(w *workload, d draw, until *time.Time) bool {
	switch {
	case w.mode == Enforce, w.mode == Rollout && d == drawnIn:
		v.granting, v.until = append(v.granting, w), until
		return true
	case w.mode == Rollout && d == drawUnknown:
		v.undecided = append(v.undecided, w)
		return false
	case w.mode == Rollout:
		v.outside = append(v.outside, w)
		return false
	}
	v.audited = append(v.audited, w)
	return true
}
