package policy

import (
	"fmt"
	"slices"
	"strings"
)

// lint warns of what is allowed in one workload and probably not meant. What
// only its platform knows is in the platform's own lint.
func (p *parser) lint(w *workload) {
	if !w.whole {
		return // half of it would only be told what follows from the mistakes
	}
	w.tee.lint(w, p)
	p.lintSelectors(w)
	p.lintAnyUser(w)
	p.lintHints(w)
	p.lintLauncher(w)
	p.lintLifetime(w)
}

// lintSelectors: a process that can ask the hardware for evidence attests for
// itself, and gets every identity of the workload, whatever the agent hands to
// whom.
func (p *parser) lintSelectors(w *workload) {
	i := slices.IndexFunc(w.identities, func(id *identity) bool { return len(id.selectors) > 0 })
	if i < 0 || !w.mayGrant() {
		return
	}
	p.warn(w.identities[i].at, CodeEvidenceOracle, fmt.Sprintf("workload %s tells processes apart: one that can ask for evidence itself gets all of its identities", w.name),
		fmt.Sprintf("see that nobody but the agent can open %s in the image, then say silence: [%s]", w.tee.device, CodeEvidenceOracle))
}

// lintAnyUser: a path or a digest tells which program a process runs, and everybody
// may run that: with an interpreter, a preloaded library or a debugger it does what
// its user wants. What separates processes is their user, group, unit or container;
// path and digest narrow that down.
func (p *parser) lintAnyUser(w *workload) {
	if !w.mayGrant() {
		return
	}
	for _, id := range w.identities {
		if len(id.selectors) > 0 && !slices.ContainsFunc(id.selectors, Selector.separates) {
			p.warn(id.at, CodeAnyUser, fmt.Sprintf("workload %s: any user of the environment can run the program that gets this identity, and make it do what he likes", w.name),
				"add whose process it must be: unix: {uid: 1000}, a group, a systemd unit, a container or a pod")
		}
	}
}

// separates reports whether not everybody can start a process that shows it.
func (s Selector) separates() bool { return s.Type != SelectorPath && s.Type != SelectorSHA256 }

// lintLauncher: a workload without an ownership predicate that matches what its
// launcher chose.
func (p *parser) lintLauncher(w *workload) {
	if w.ownership || !w.mayGrant() {
		return
	}
	for _, r := range w.rules {
		if why, ok := w.tee.launcher[r.field.name]; ok && !r.implicit {
			p.warn(r.at, CodeLauncherData, fmt.Sprintf("workload %s has no ownership predicate, and %s is none: %s", w.name, r.field.name, why), "whoever launches the same inputs gets the identities: match "+w.tee.owners)
		}
	}
}

// lintLifetime: a workload whose values are never, or no longer, accepted at one
// moment.
func (p *parser) lintLifetime(w *workload) {
	when := w.lifetime()
	if len(when) == 0 {
		p.warn(w.key, CodeUnreachable, fmt.Sprintf("workload %s can never match: at no moment is a value of each of its rules accepted", w.name), "compare not_before and not_after of its values, and when its waivers expire")
		return
	}
	if end := when[len(when)-1].to; !end.IsZero() {
		p.ends(w.key, CodeUnreachable, fmt.Sprintf("workload %s can no longer match: what it accepts ended", w.name), end, "remove the workload, or add current values")
	}
}

// shadowed warns of audited workloads that say nothing new: they have the rules
// of another one. Workloads that may grant and overlap are ambiguous, which is
// another matter.
func (p *parser) shadowed() {
	for _, t := range tees {
		if !slices.ContainsFunc(p.b.byTEE[t.platform], func(w *workload) bool { return w.mode == Audit }) {
			continue
		}
		first := map[string]*workload{}
		for _, audited := range []bool{false, true} {
			for _, w := range p.b.byTEE[t.platform] {
				if !w.whole || (w.mode == Audit) != audited {
					continue
				}
				p.work++
				s := w.signature()
				o := first[s]
				switch {
				case o == nil:
					first[s] = w
				case audited:
					p.warnAbout([]*workload{w, o}, w.key, CodeShadowed, fmt.Sprintf("the audited workload %s has the rules of workload %s (line %d): it records nothing new", w.name, o.name, o.key.Line), "change a rule, or remove it")
				}
			}
		}
	}
}

// signature is the same for two workloads of one platform that have the same
// rules. Shared sets are told by their address.
func (w *workload) signature() string {
	parts := make([]string, 0, len(w.rules)+1)
	if w.expr != nil {
		parts = append(parts, "expr "+w.expr.source)
	}
	for _, r := range w.rules {
		var b strings.Builder
		fmt.Fprintf(&b, "%d %s ", r.field.index, r.op)
		switch s := r.test.values(); {
		case s == nil:
			b.WriteString(r.test.expected())
		case s.name != "":
			fmt.Fprintf(&b, "%p", s)
		default:
			b.Reset() // eq and in with one value are the same
			fmt.Fprintf(&b, "%d ", r.field.index)
			var entries []string
			for _, e := range s.entries {
				entries = append(entries, fmt.Sprintf("%q %s %s", e.value, stamp(e.notBefore), stamp(e.notAfter)))
			}
			slices.Sort(entries)
			b.WriteString(strings.Join(entries, ","))
		}
		for _, v := range r.waivers {
			fmt.Fprintf(&b, " waived %s", v.position)
		}
		parts = append(parts, b.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}
