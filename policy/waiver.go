package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// maxWaivers bounds the waivers of one workload: more exceptions than that are
// another rule.
const maxWaivers = 16

// ruleWaiver lets a workload match although one of its rules does not hold,
// where its conditions hold, until it expires.
type ruleWaiver struct {
	waiver
	when []*rule
}

// waivable is implemented by the kinds of claims whose rules can be waived: the
// state of a platform, which its owner cannot always mend at once. Digests and
// text are no such kinds: they name what was started, who made it and where it
// runs, and a waiver would admit any other. What else is accepted for a while is
// listed, with its own not_after. Nor are words that name, see [field].
type waivable interface{ waivable() }

func (number) waivable()      {}
func (firmware) waivable()    {}
func (tpmFirmware) waivable() {}
func (tcb) waivable()         {}
func (bitfield) waivable()    {}
func (boolean) waivable()     {}
func (enum) waivable()        {}

// loose reports whether the workload may match although the rule does not hold.
func (r *rule) loose() bool { return len(r.waivers) > 0 }

// strict returns the rule over a claim that nothing waives, or nil: the one that
// tells what can match.
func (w *workload) strict(f *field) *rule {
	if r := w.over(f); r != nil && !r.loose() {
		return r
	}
	return nil
}

// waivers reads the waivers of single rules, after the rules.
func (p *parser) waivers(w *workload, n *strictyaml.Node) {
	if n == nil || !p.doc.Want(n, strictyaml.Sequence) {
		return
	}
	if len(n.Items) == 0 || len(n.Items) > maxWaivers {
		p.doc.Report(n, fmt.Sprintf("waivers has %d entries, want 1 to %d", len(n.Items), maxWaivers), "")
	}
	for _, item := range n.Items[:min(len(n.Items), maxWaivers)] {
		p.ruleWaiver(w, item)
	}
}

func (p *parser) ruleWaiver(w *workload, n *strictyaml.Node) {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return
	}
	p.only(n, waiverKeys)
	out := &ruleWaiver{waiver: waiver{position: p.position(n)}}
	var r *rule
	if v := p.need(n, "rule", "the claim whose rule is waived, such as reported_tcb"); v != nil {
		r = p.waivedRule(w, v)
	}
	if v := p.need(n, "reason", "why the rule need not hold"); v != nil {
		out.reason = p.prose(v)
	}
	if v := p.need(n, "owner", "who answers for it"); v != nil {
		out.owner = p.prose(v)
	}
	if v := p.need(n, "expires", "a date, such as 2027-06-30"); v != nil {
		if out.expires = p.date(v); !out.expires.IsZero() {
			p.ends(v, CodeExpiredWaiver, "the waiver expired", out.expires, "remove it, now that the rule holds again")
		}
	}
	if v := n.Get("when"); v != nil && p.doc.Want(v, strictyaml.Mapping) {
		if len(v.Fields) == 0 {
			p.doc.Report(v, "when is empty", "name the claims that narrow the waiver, or leave when out")
		}
		for _, f := range v.Fields {
			if c := p.rule(w.tee, f); c != nil {
				out.when = append(out.when, c)
			}
		}
	}
	if r != nil {
		r.waivers = append(r.waivers, out)
	}
}

// waivedRule finds the rule that a waiver names, or says why there is none.
func (p *parser) waivedRule(w *workload, n *strictyaml.Node) *rule {
	name, ok := p.doc.Text(n)
	if !ok {
		return nil
	}
	f := w.tee.byName[name]
	r := w.over(f)
	if f == nil || r == nil || r.implicit {
		var written []string
		for _, r := range w.rules {
			if !r.implicit {
				written = append(written, r.field.name)
			}
		}
		p.doc.Report(n, fmt.Sprintf("the workload has no rule over %q to waive", clip(name)), p.doc.Suggest(name, written))
		return nil
	}
	_, can := f.kind.(waivable)
	for _, i := range w.tee.implicit {
		if i.claim == name {
			p.doc.Report(n, name+" cannot be waived", "match it with what is accepted, or in a workload of its own; that is a warning")
			return nil
		}
	}
	switch {
	case f.owner != nil:
		p.doc.Report(n, name+" cannot be waived: it tells whose environment it is", "list the value for a while, with not_after; or say ownership: {none: REASON, owner: WHO, expires: DATE}")
	case !can || f.names:
		p.doc.Report(n, name+" cannot be waived: any other value would do", "list the value that is accepted for a while, with not_after")
	default:
		return r
	}
	return nil
}

// waived looks for a waiver of a rule that does not hold. Where there is one, the
// result says so instead: its operator is "waiver", so that nobody takes the
// claim for one that holds to what the policy wants.
func (e *evaluation) waived(r *rule, out RuleResult) (RuleResult, *time.Time) {
	var best *ruleWaiver
	var until time.Time
	var expired []string
	for _, w := range r.waivers {
		end, ok := e.conditions(w)
		switch {
		case !ok:
		case e.at.After(w.expires):
			expired = append(expired, fmt.Sprintf("the waiver of %s (%s) expired at %s", w.owner, w.reason, stamp(w.expires)))
		case best == nil || end.After(until):
			best, until = w, end
		}
	}
	if best == nil {
		if len(expired) > 0 {
			if out.Hint != "" {
				expired = append([]string{out.Hint}, expired...)
			}
			out.Hint = strings.Join(expired, "; ")
		}
		return out, nil
	}
	out.Op, out.Holds, out.Hint, out.Position = waiverOp, true, "", best.position
	out.Expected = fmt.Sprintf("%s: %s; or a waiver that has not expired (until %s)", r.op, out.Expected, stamp(best.expires))
	out.Got = fmt.Sprintf("%s: waived by %s: %s", out.Got, best.owner, best.reason)
	return out, &until
}

// conditions reports whether all conditions of a waiver hold, and the last
// moment at which the waiver does with the same claims.
func (e *evaluation) conditions(w *ruleWaiver) (until time.Time, ok bool) {
	until = w.expires
	for _, r := range w.when {
		c := e.claim(r.field)
		if !c.present {
			return until, false
		}
		v := r.test.eval(c.value, c.text, e.at)
		if !v.holds {
			return until, false
		}
		if v.until != nil && v.until.Before(until) {
			until = *v.until
		}
	}
	return until, true
}
