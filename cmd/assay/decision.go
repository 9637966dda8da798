package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// printDecision explains a policy decision rule by rule, what was expected and
// what was found. Of workloads that do not match the nearest comes first: it
// is most likely the one that was meant. A server's decision leaves workloads out
// where they are many, and counts them.
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
	if d.Detail != "" {
		facts = append(facts, cli.Fact{Name: "detail", Value: d.Detail})
	}
	p.Facts(facts...)
	if len(d.Workloads) == 0 {
		p.Linef("  the policy has no workload for this platform")
	}
	for _, w := range d.NearestFirst() {
		state := "matches"
		if w.Failures() > 0 {
			state = "does not match: " + failures(w)
		} else if !w.Matched {
			state = "does not match"
		}
		p.Title("Workload %s (%s) %s", w.Name, w.Mode, state)
		for _, r := range sortedRules(w.Rules) {
			printRule(p, r)
		}
	}
	if d.Omitted > 0 {
		p.Title("%s of this platform not listed", cli.Count(d.Omitted, "more workload"))
		p.Linef("  they have nothing that would tell more; `assay policy explain` lists all of them")
	}
}

// printRule prints one rule over several lines: values are long, and those of
// one rule stand under each other to be compared.
func printRule(p *cli.Page, r policy.RuleResult) {
	state, where := "ok   ", r.Position
	if !r.Holds {
		state = "FAILS"
	}
	if r.Implicit {
		where = "implicit: every workload has it that does not name " + r.Rule
	}
	what := r.Rule
	if r.Op != r.Rule { // an expression and a rollout are their own operators
		what += " " + r.Op
	}
	p.Linef("  %s  %s (%s)", state, what, where)
	p.Linef("         expected  %s", orNone(r.Expected))
	p.Linef("         got       %s", orNone(r.Got))
	if !r.Holds && r.Hint != "" {
		p.Linef("         hint      %s", r.Hint)
	}
}

// failures says how many of a workload's rules fail.
func failures(w policy.WorkloadResult) string {
	verb := "fail"
	if w.Failures() == 1 {
		verb = "fails"
	}
	return fmt.Sprintf("%d of %s %s", w.Failures(), cli.Count(len(w.Rules), "rule"), verb)
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
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
	if d.Detail != "" {
		return fmt.Sprintf("policy %s@%d denies: %s: %s", d.Bundle, d.Revision, d.Reason, d.Detail)
	}
	if len(d.Workloads) == 0 {
		return fmt.Sprintf("policy %s@%d denies: %s", d.Bundle, d.Revision, d.Reason)
	}
	near := d.NearestFirst()[0]
	if near.Failures() > 0 {
		return fmt.Sprintf("policy %s@%d denies: %s; of the nearest workload, %s, %s", d.Bundle, d.Revision, d.Reason, near.Name, failures(near))
	}
	return fmt.Sprintf("policy %s@%d denies: %s", d.Bundle, d.Revision, d.Reason)
}

// failingRules names the rules of a workload that do not hold.
func failingRules(rs []policy.RuleResult) string {
	var out []string
	for _, r := range rs {
		if !r.Holds {
			out = append(out, r.Rule)
		}
	}
	return strings.Join(out, ", ")
}
