package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Evaluate decides what the policy says about claims at a time. It is pure: the
// same bundle, claims and time give the same decision. What a request asks for
// is left to [Bundle.Authorize].
func (b *Bundle) Evaluate(c attest.Claims, at time.Time) Decision {
	d, _ := b.evaluate(&c, at)
	return d
}

// evaluate also returns the workload that grants, or nil.
func (b *Bundle) evaluate(c *attest.Claims, at time.Time) (Decision, *workload) {
	digest := b.digest
	d := Decision{
		Bundle: b.name, Revision: b.revision, Digest: digest[:], At: at.UTC(),
		Outcome: Refused, Workloads: []WorkloadResult{},
	}
	ws := b.byTEE[c.Platform]
	if len(ws) == 0 {
		d.Reason = ReasonNoWorkload
		d.Detail = fmt.Sprintf("the bundle has no workload for %.40q", string(c.Platform))
		return d, nil
	}
	e := evaluation{claims: c, at: at, read: make([]reading, len(ws[0].tee.fields))}
	d.Workloads = make([]WorkloadResult, len(ws))
	var enforced, audited []string
	var winner *workload
	var until *time.Time
	for i, w := range ws {
		var end *time.Time
		d.Workloads[i], end = e.workload(w)
		switch {
		case !d.Workloads[i].Matched:
		case w.mode == Enforce:
			enforced, winner, until = append(enforced, w.name), w, end
		default:
			audited = append(audited, w.name)
		}
	}
	switch {
	case len(enforced) == 1:
		d.Outcome, d.Reason = Granted, ReasonGranted
		d.Workload, d.ValidUntil, d.Ownership = winner.name, until, winner.ownership
		return d, winner
	case len(enforced) > 1:
		d.Reason, d.Detail = ReasonAmbiguous, "several workloads match: "+strings.Join(enforced, ", ")
	case len(audited) > 0:
		d.Reason, d.Detail = ReasonAuditOnly, "only workloads in mode audit match: "+strings.Join(audited, ", ")
	default:
		d.Reason, d.Detail = ReasonNoMatch, nearest(d)
	}
	return d, nil
}

// nearest names the workload that came nearest to a match, and its rules that
// do not hold.
func nearest(d Decision) string {
	best := d.NearestFirst()[0]
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
	return fmt.Sprintf("nearest is workload %s: %s %s not hold", best.Name, strings.Join(failed, ", "), verb)
}

// evaluation reads each claim once, whatever the number of workloads.
type evaluation struct {
	claims *attest.Claims
	at     time.Time
	read   []reading // by field index
}

type reading struct {
	done, present bool
	value         value
	text          string
}

func (e *evaluation) claim(f *field) *reading {
	r := &e.read[f.index]
	if !r.done {
		r.done = true
		if r.value, r.present = f.get(e.claims); r.present {
			r.text = f.kind.format(r.value)
		} else {
			r.text = "missing"
		}
	}
	return r
}

// workload evaluates every rule, and returns the end of the earliest window
// among those that hold.
func (e *evaluation) workload(w *workload) (WorkloadResult, *time.Time) {
	out := WorkloadResult{Name: w.name, Mode: w.mode, Matched: true, Rules: make([]RuleResult, 0, len(w.rules)+1)}
	var until *time.Time
	add := func(r RuleResult, end *time.Time) {
		out.Rules = append(out.Rules, r)
		out.Matched = out.Matched && r.Holds
		if end != nil && (until == nil || end.Before(*until)) {
			until = end
		}
	}
	for _, r := range w.rules {
		add(e.rule(r))
	}
	if w.waiver != nil {
		add(e.waiver(w.waiver))
	}
	if len(out.Rules) == 0 {
		out.Matched = false // no rule, no match: Parse refuses this, and so do we
	}
	return out, until
}

func (e *evaluation) rule(r *rule) (RuleResult, *time.Time) {
	out := RuleResult{Rule: r.field.name, Op: r.op, Expected: r.test.expected(), Implicit: r.implicit, Position: r.position}
	c := e.claim(r.field)
	if !c.present {
		out.Got, out.Hint = c.text, r.field.hint("", false)
		return out, nil
	}
	v := r.test.eval(c.value, c.text, e.at)
	out.Got, out.Holds = v.got, v.holds
	if !v.holds {
		if out.Hint = v.hint; out.Hint == "" {
			out.Hint = r.field.hint(c.value, true)
		}
		return out, nil
	}
	return out, v.until
}

// waiver shows an ownership waiver as a rule: it holds up to and including the
// moment at which it expires.
func (e *evaluation) waiver(w *waiver) (RuleResult, *time.Time) {
	out := RuleResult{
		Rule: waiverRule, Op: waiverOp, Position: w.position, Holds: true,
		Expected: "a waiver that has not expired (until " + stamp(w.expires) + ")",
		Got:      fmt.Sprintf("waived by %s: %s", w.owner, w.reason),
	}
	if e.at.After(w.expires) {
		out.Holds = false
		out.Got = "expired: " + out.Got
		out.Hint = "match an ownership predicate, or have " + w.owner + " extend the waiver"
		return out, nil
	}
	until := w.expires
	return out, &until
}
