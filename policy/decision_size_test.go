package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

// noisy are n workloads of one image, whose rules have as long descriptions as a
// policy can give them.
func noisy(n int) string {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: noisy\nrevision: 1\ntrust_domain: simulated.example.org\nreferences:\n")
	for i := range 30 {
		fmt.Fprintf(&b, "  r%d:\n", i)
		for j := range 6 {
			fmt.Fprintf(&b, "    - {value: \"$%d$\", note: \"%s\"}\n", j, strings.Repeat("é", 128))
		}
	}
	b.WriteString("workloads:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: audit\n    silence: [shadowed]\n    match:\n", i)
		for pcr := range 30 {
			fmt.Fprintf(&b, "      pcr%d: {in: r%d}\n", pcr, pcr)
		}
		fmt.Fprintf(&b, "    expr: \"%s\"\n", strings.Repeat("nitro.debug || ", 250)+fmt.Sprintf("nitro.pcr1 != nitro.pcr2 || %d == %d", i, i))
	}
	return b.String()
}

func TestADecisionIsBoundedInBytesWhateverThePolicySays(t *testing.T) {
	pcrs := map[int]string{}
	for i := range 30 {
		pcrs[i] = "3"
	}
	enforced := change(t, strings.Replace(noisy(40), "    mode: audit\n    silence: [shadowed]", "    mode: enforce", 1), "    expr:", "    issue: [{spiffe_id: \"spiffe://{td}/a\"}]\n    expr:")
	pcrs[1] = "2"
	for name, c := range map[string]struct{ src, outcome string }{
		"denied":  {noisy(40), policy.Refused},
		"granted": {enforced, policy.Granted},
	} {
		b := parse(t, c.src)
		d, whole := b.Evaluate(nitroClaims(pcrs), noon), b.Explain(nitroClaims(pcrs), noon)
		if d.Outcome != c.outcome || d.Outcome != whole.Outcome || d.Reason != whole.Reason || d.Workload != whole.Workload {
			t.Errorf("%s: evaluated %s %s, explained %s %s", name, d.Reason, d.Detail, whole.Reason, whole.Detail)
		}
		small, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		large, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		if len(small) > 2*policy.MaxDecisionText || len(large) < 1<<20 {
			t.Errorf("%s: %d bytes evaluated, %d explained", name, len(small), len(large))
		}
		if len(d.Workloads)+d.Omitted != 40 || len(d.Workloads) == 0 {
			t.Errorf("%s: %d listed, %d omitted", name, len(d.Workloads), d.Omitted)
		}
		listed, text := false, 0
		for _, w := range d.Workloads {
			listed = listed || w.Name == d.Workload
			for _, r := range w.Rules {
				text += len(r.Expected) + len(r.Got) + len(r.Hint)
			}
		}
		if text > policy.MaxDecisionText || c.outcome == policy.Granted && !listed {
			t.Errorf("%s: %d bytes of text, the one that grants listed: %v", name, text, listed)
		}
		if r := d.Workloads[0].Rules[0]; !strings.Contains(r.Expected, "… (") || !strings.HasSuffix(r.Expected, " bytes more)") || strings.Contains(r.Expected, "\ufffd") {
			t.Errorf("%s: %q", name, r.Expected)
		}
	}
}
