package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// printDecision explains a policy decision rule by rule, what was expected and
// what was found. Of workloads that do not match the nearest comes first: the
// one with the fewest rules that fail is most likely the one that was meant.
func printDecision(p *cli.Page, d policy.Decision) {
	p.Title("Policy %s@%d: %s (%s)", d.Bundle, d.Revision, d.Outcome, d.Reason)
	facts := []cli.Fact{{Name: "decided at", Value: stamp(d.At)}, {Name: "policy digest", Value: d.Digest.String()}}
	if d.Workload != "" {
		facts = append(facts, cli.Fact{Name: "workload", Value: d.Workload},
			cli.Fact{Name: "ownership rule", Value: yesNo(d.Ownership)})
	}
	if d.ValidUntil != nil {
		facts = append(facts, cli.Fact{Name: "valid until", Value: stamp(*d.ValidUntil)})
	}
	p.Facts(facts...)
	if len(d.Workloads) == 0 {
		p.Linef("  the policy has no workload for this platform")
	}
	for _, w := range nearestFirst(d.Workloads) {
		state := "matches"
		if n := failing(w); n > 0 {
			state = fmt.Sprintf("does not match: %s of %d not hold", doPlural(n), len(w.Rules))
		} else if !w.Matched {
			state = "does not match"
		}
		p.Title("Workload %s (%s) %s", w.Name, w.Mode, state)
		var rows [][]string
		for _, r := range sortedRules(w.Rules) {
			state := "ok"
			if !r.Holds {
				state = "FAILS"
			}
			where := r.Position
			if r.Implicit {
				where = "implicit"
			}
			rows = append(rows, []string{state, r.Rule + " " + r.Op, "expected " + orNone(r.Expected)})
			rows = append(rows, []string{"", where, "got      " + orNone(r.Got)})
			if !r.Holds && r.Hint != "" {
				rows = append(rows, []string{"", "", "hint: " + r.Hint})
			}
		}
		p.Table(nil, rows)
	}
}

func doPlural(n int) string {
	if n == 1 {
		return "1 rule does"
	}
	return fmt.Sprintf("%d rules do", n)
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func failing(w policy.WorkloadResult) int {
	n := 0
	for _, r := range w.Rules {
		if !r.Holds {
			n++
		}
	}
	return n
}

// nearestFirst orders workloads by how few of their rules fail; equals keep the
// policy's order.
func nearestFirst(ws []policy.WorkloadResult) []policy.WorkloadResult {
	out := slices.Clone(ws)
	slices.SortStableFunc(out, func(a, b policy.WorkloadResult) int {
		return cmp.Or(boolFirst(a.Matched, b.Matched), cmp.Compare(failing(a), failing(b)))
	})
	return out
}

// sortedRules puts the rules that fail first: they are what is looked for.
func sortedRules(rs []policy.RuleResult) []policy.RuleResult {
	out := slices.Clone(rs)
	slices.SortStableFunc(out, func(a, b policy.RuleResult) int { return boolFirst(!a.Holds, !b.Holds) })
	return out
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// denial sums a decision up for the error line.
func denial(d policy.Decision) string {
	if len(d.Workloads) == 0 {
		return fmt.Sprintf("policy %s@%d denies: %s", d.Bundle, d.Revision, d.Reason)
	}
	near := nearestFirst(d.Workloads)[0]
	if n := failing(near); n > 0 {
		return fmt.Sprintf("policy %s@%d denies: %s; of the nearest workload, %s, %s not hold", d.Bundle, d.Revision, d.Reason, near.Name, doPlural(n))
	}
	return fmt.Sprintf("policy %s@%d denies: %s", d.Bundle, d.Revision, d.Reason)
}
