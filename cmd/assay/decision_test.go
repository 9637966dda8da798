package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

func TestADecisionSaysWhatItLeavesOut(t *testing.T) {
	d := policy.Decision{
		Bundle: "prod", Revision: 7, Outcome: policy.Refused, Reason: policy.ReasonNoMatch,
		Workloads: []policy.WorkloadResult{{Name: "payments", Mode: policy.Enforce, Rules: []policy.RuleResult{
			{Rule: "expr", Op: "expr", Expected: "snp.guest_svn >= 3", Got: "snp.guest_svn = 2", Position: "p.yaml:9:5", Hint: "the expression is false for these claims"},
		}}},
	}
	show := func() string {
		var out bytes.Buffer
		p := cli.NewPage(&out)
		printDecision(p, d)
		if err := p.Err(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if s := show(); strings.Contains(s, "not listed") || !strings.Contains(s, "FAILS  expr (p.yaml:9:5)") || !strings.Contains(s, "snp.guest_svn = 2") {
		t.Errorf("got:\n%s", s)
	}
	d.Omitted = 1
	if s := show(); !strings.Contains(s, "1 more workload of this platform not listed") {
		t.Errorf("got:\n%s", s)
	}
	d.Omitted = 99_968
	if s := show(); !strings.Contains(s, "99968 more workloads of this platform not listed") {
		t.Errorf("got:\n%s", s)
	}
}
