package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

// costly are n workloads of one image with an expression each, which costs about as
// much as one may.
func costly(n int, mode string) string {
	var b strings.Builder
	for i := range n {
		var parts []string
		for j := range 30 {
			parts = append(parts, fmt.Sprintf("nitro.pcr1.contains('%04x%04x')", i, j))
		}
		fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: %s\n    match:\n      pcr0: {in: images}\n      pcr3: {eq: \"$role$\"}\n    expr: \"%s\"\n    issue: [{spiffe_id: \"spiffe://{td}/w%d\"}]\n", i, mode, strings.Join(parts, " || "), i)
	}
	return b.String()
}

// What the expressions of one decision cost is bounded; and as what was not
// evaluated might match too, nothing is granted.
func TestExpressionsThatCostTooMuchTogetherDenyTheWhole(t *testing.T) {
	claims := nitroClaims(map[int]string{0: "42", 1: "kernel", 2: "app", 3: "role"})
	for _, c := range []struct {
		name, src, reason string
	}{
		{"enforced ones, behind one that grants", base + costly(600, "{rollout: 100%}"), policy.ReasonTooDear},
		{"few", base + costly(5, "{rollout: 100%}"), policy.ReasonGranted},
		{"audited ones, in front of one that grants", strings.Replace(base, "workloads:\n", "workloads:\n"+costly(600, "audit"), 1), policy.ReasonGranted},
	} {
		src := change(t, c.src, "workloads:\n", "silence: [both-match]\nworkloads:\n")
		b, err := policy.Parse("p.yaml", []byte(expand(src)))
		if err != nil {
			t.Fatalf("%s: %.300s", c.name, render(err))
		}
		b, err = b.WithSecret([]byte(strings.Repeat("s", policy.SecretSize)))
		if err != nil {
			t.Fatal(err)
		}
		d, whole := b.Evaluate(claims, noon), b.Explain(claims, noon)
		if d.Reason != c.reason || whole.Reason != c.reason || d.Detail != whole.Detail || (d.Outcome == policy.Granted) != (c.reason == policy.ReasonGranted) || d.Workload != whole.Workload {
			t.Errorf("%s: evaluated %s (%s), explained %s (%s), want %s", c.name, d.Reason, d.Detail, whole.Reason, whole.Detail, c.reason)
		}
		skipped := func(w policy.WorkloadResult) bool {
			return slices.ContainsFunc(w.Rules, func(r policy.RuleResult) bool {
				return r.Rule == "expr" && r.Got == "not evaluated" && !r.Holds && !w.Matched && r.Hint != ""
			})
		}
		if c.name != "few" && !slices.ContainsFunc(whole.Workloads, skipped) {
			t.Errorf("%s: nothing says that it was not evaluated", c.name)
		}
		if c.reason == policy.ReasonTooDear && !strings.Contains(d.Detail, "the first that was not evaluated is that of w") {
			t.Errorf("%s: %s", c.name, d.Detail)
		}
	}
}
