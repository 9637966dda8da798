package policy_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

func decide(t testing.TB, src string, c attest.Claims, at time.Time) policy.Decision {
	t.Helper()
	return parse(t, src).Evaluate(c, at)
}

// only returns the single rule result of a claim in a workload.
func only(t *testing.T, d policy.Decision, workload, rule string) policy.RuleResult {
	t.Helper()
	for _, w := range d.Workloads {
		if w.Name != workload {
			continue
		}
		for _, r := range w.Rules {
			if r.Rule == rule {
				return r
			}
		}
	}
	t.Fatalf("no rule %s in workload %s of %+v", rule, workload, d)
	return policy.RuleResult{}
}

func TestTheDecisionAsJSON(t *testing.T) {
	src, err := os.ReadFile("testdata/good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse("good.yaml", src)
	if err != nil {
		t.Fatal(render(err))
	}
	if w := b.Warnings(); len(w) > 0 {
		t.Errorf("the example has warnings:\n%s", w.Render())
	}
	for name, c := range map[string]attest.Claims{
		"granted":    nitroClaims(map[int]string{0: "42", 3: "role", 4: "i-1", 8: "signer"}),
		"waived":     nitroClaims(map[int]string{0: "batch"}),
		"other-role": nitroClaims(map[int]string{0: "42", 3: "another role", 8: "signer"}),
		"audit-only": nitroClaims(map[int]string{0: "42", 3: "another role", 4: "i-2"}),
		"snp":        {Platform: attest.AMDSEVSNP},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := json.MarshalIndent(b.Explain(c, noon), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "decision-"+name+".json", string(out)+"\n")
			var back policy.Decision
			if err := json.Unmarshal(out, &back); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(b.Explain(c, noon), back); d != "" {
				t.Errorf("the JSON does not read back (-want +got):\n%s", d)
			}
		})
	}
}

func TestEveryRuleOfEveryWorkloadIsEvaluated(t *testing.T) {
	src := change(t, base, "workloads:\n", `workloads:
  - name: other
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "$other$"}
      pcr1: {eq: "$kernel$"}
      pcr3: {eq: "$role$"}
      pcr4: {eq: "$host$"}
    issue: [{spiffe_id: "spiffe://{td}/other"}]
`)
	d := decide(t, src, nitroClaims(map[int]string{0: "none", 3: "nobody"}), noon)
	var got []string
	for _, w := range d.Workloads {
		for _, r := range w.Rules {
			got = append(got, w.Name+"."+r.Rule+"."+r.Op)
		}
	}
	want := []string{"other.pcr0.eq", "other.pcr1.eq", "other.pcr3.eq", "other.pcr4.eq", "other.debug.eq", "payments.pcr0.in", "payments.pcr3.eq", "payments.debug.eq"}
	if !slices.Equal(got, want) {
		t.Errorf("evaluated %v, want %v", got, want)
	}
}

func TestReasons(t *testing.T) {
	two := change(t, base, "    mode: enforce", "    mode: audit") // payments only audits
	waived := change(t, base, `      pcr3: {eq: "$role$"}
`, "", "    match:\n", "    ownership: {none: \"a trial\", owner: ana, expires: 2027-01-25}\n    match:\n")
	for _, c := range []struct {
		name, src      string
		claims         attest.Claims
		at             time.Time
		reason, detail string
	}{
		{"granted", base, nitroClaims(good), noon, policy.ReasonGranted, ""},
		{"a claim differs", base, nitroClaims(map[int]string{0: "42", 3: "x"}), noon, policy.ReasonNoMatch, "nearest is workload payments: pcr3 does not hold"},
		{"a claim is missing", base, nitroClaims(map[int]string{0: "42"}), noon, policy.ReasonNoMatch, "nearest is workload payments: pcr3 does not hold"},
		{"two differ", base, nitroClaims(map[int]string{0: "x", 3: "x"}), noon, policy.ReasonNoMatch, "nearest is workload payments: pcr0, pcr3 do not hold"},
		{"audit never grants", two, nitroClaims(good), noon, policy.ReasonAuditOnly, "only workloads in mode audit match: payments"},
		{"another platform", base, attest.Claims{Platform: attest.TPM2}, noon, policy.ReasonNoWorkload, `the bundle has no workload for "tpm2"`},
		{"no platform", base, attest.Claims{}, noon, policy.ReasonNoWorkload, `the bundle has no workload for ""`},
		{"claims without a platform's part", base, attest.Claims{Platform: attest.AWSNitro}, noon, policy.ReasonNoMatch, "nearest is workload payments: pcr0, pcr3, debug do not hold"},
		{"a waiver holds", waived, nitroClaims(good), noon, policy.ReasonGranted, ""},
		{"a waiver holds at its last moment", waived, nitroClaims(good), time.Date(2027, 1, 25, 0, 0, 0, 0, time.UTC), policy.ReasonGranted, ""},
		{"a waiver has expired", waived, nitroClaims(good), time.Date(2027, 1, 25, 0, 0, 0, 1, time.UTC), policy.ReasonNoMatch, "nearest is workload payments: ownership does not hold"},
		{"no workloads", change(t, base, base[strings.Index(base, "workloads:"):], "workloads: []\n"), nitroClaims(good), noon, policy.ReasonNoWorkload, `the bundle has no workload for "aws-nitro"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decide(t, c.src, c.claims, c.at)
			if d.Reason != c.reason || d.Detail != c.detail {
				t.Errorf("got %s %q, want %s %q", d.Reason, d.Detail, c.reason, c.detail)
			}
			granted := c.reason == policy.ReasonGranted
			if (d.Outcome == policy.Granted) != granted || (d.Workload != "") != granted {
				t.Errorf("outcome %s, workload %q", d.Outcome, d.Workload)
			}
		})
	}
}

func TestOwnershipIsToldOfTheGrantingWorkloadOnly(t *testing.T) {
	if d := decide(t, base, nitroClaims(good), noon); !d.Ownership {
		t.Error("pcr3 is an ownership predicate")
	}
	waived := change(t, base, `      pcr3: {eq: "$role$"}
`, "", "    match:\n", "    ownership: {none: \"a trial\", owner: ana, expires: 2027-01-25}\n    match:\n")
	if d := decide(t, waived, nitroClaims(good), noon); d.Ownership || d.Outcome != policy.Granted {
		t.Errorf("a waiver is no ownership predicate: %+v", d)
	}
}

func TestPinnedClaimsAreThoseOfTheGrantingWorkload(t *testing.T) {
	if got := decide(t, base, nitroClaims(good), noon).Pinned(); !slices.Equal(got, []string{"pcr0", "pcr3"}) {
		t.Errorf("got %v", got)
	}
	if got := decide(t, base, nitroClaims(map[int]string{0: "42"}), noon).Pinned(); got != nil {
		t.Errorf("a denial pins %v", got)
	}
}

func TestWindowsAreInclusive(t *testing.T) {
	from := time.Date(2027, 1, 15, 0, 0, 0, 0, time.UTC) // release 42
	to := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)   // release 41
	for _, c := range []struct {
		name, image string
		at          time.Time
		holds       bool
		got, hint   string
	}{
		{"before the first moment", "42", from.Add(-1), false, `, entry 2 of images ("release 42", from 2027-01-15T00:00:00Z): not valid yet`, "the value is listed, and is accepted from 2027-01-15T00:00:00Z on"},
		{"at the first moment", "42", from, true, `, entry 2 of images ("release 42", from 2027-01-15T00:00:00Z)`, ""},
		{"long after", "42", from.AddDate(9, 0, 0), true, `, entry 2 of images ("release 42", from 2027-01-15T00:00:00Z)`, ""},
		{"at the last moment", "41", to, true, `, entry 1 of images ("release 41", until 2027-01-31T00:00:00Z)`, ""},
		{"after the last moment", "41", to.Add(1), false, `, entry 1 of images ("release 41", until 2027-01-31T00:00:00Z): no longer valid`, "the value is listed, and was accepted until 2027-01-31T00:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decide(t, base, nitroClaims(map[int]string{0: c.image, 3: "role"}), c.at)
			r := only(t, d, "payments", "pcr0")
			if r.Holds != c.holds || r.Got != hexOf(c.image)+c.got || r.Hint != c.hint {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestValidUntilIsTheEarliestEndThatCarriedTheDecision(t *testing.T) {
	src := change(t, base,
		`pcr3: {eq: "$role$"}`, `pcr3: {in: [{value: "$role$", not_after: 2027-01-25T00:00:00Z}, "$role2$"]}`)
	for _, c := range []struct {
		image, role, want string
	}{
		{"41", "role", "2027-01-25T00:00:00Z"},
		{"41", "role2", "2027-01-31T00:00:00Z"},
		{"42", "role", "2027-01-25T00:00:00Z"},
		{"42", "role2", ""},
	} {
		d := decide(t, src, nitroClaims(map[int]string{0: c.image, 3: c.role}), noon)
		got := ""
		if d.ValidUntil != nil {
			got = d.ValidUntil.Format(time.RFC3339)
		}
		if d.Outcome != policy.Granted || got != c.want {
			t.Errorf("%s/%s: %s, valid until %q, want %q", c.image, c.role, d.Outcome, got, c.want)
		}
	}
}

func TestImplicitRulesAreShownAndHold(t *testing.T) {
	debug := nitroClaims(good)
	debug.Nitro.Debug = true
	d := decide(t, base, debug, noon)
	r := only(t, d, "payments", "debug")
	if d.Outcome != policy.Refused || r.Holds || !r.Implicit || r.Expected != "false" || r.Got != "true" || !strings.Contains(r.Hint, "--debug-mode") {
		t.Errorf("%s, %+v", d.Outcome, r)
	}
	// Named, it is no longer implicit, and means what it says.
	explicit := change(t, base, "      pcr0: {in: images}\n", "      debug: {eq: true}\n")
	d = decide(t, explicit, debug, noon)
	if r := only(t, d, "payments", "debug"); d.Outcome != policy.Granted || r.Implicit || r.Position != "p.yaml:14:7" {
		t.Errorf("%s, %+v", d.Outcome, r)
	}
	if d = decide(t, explicit, nitroClaims(good), noon); d.Outcome != policy.Refused {
		t.Error("debug: {eq: true} admits an enclave that is not in debug mode")
	}
}

func TestAMissingOrShortClaimNeverMatches(t *testing.T) {
	for name, b := range map[string]attest.Bytes{"empty": {}, "nil": nil, "short": sum("role")[:47], "long": append(slices.Clone(sum("role")), 0), "prefix": sum("role")[:32]} {
		c := nitroClaims(good)
		c.Nitro.PCRs[3] = b
		if d := decide(t, base, c, noon); d.Outcome != policy.Refused {
			t.Errorf("%s: a PCR3 of %d bytes matched", name, len(b))
		}
	}
	c := nitroClaims(map[int]string{0: "42"})
	d := decide(t, base, c, noon)
	if r := only(t, d, "payments", "pcr3"); r.Holds || r.Got != "missing" || !strings.Contains(r.Hint, "never matches") {
		t.Errorf("%+v", r)
	}
}

// A register is compared as a whole: any bit makes the difference.
func TestAnyFlippedBitOfAPinnedRegisterIsADenial(t *testing.T) {
	b := parse(t, base)
	for _, pcr := range []int{0, 3} {
		for bit := range 48 * 8 {
			c := nitroClaims(good)
			c.Nitro.PCRs[pcr][bit/8] ^= 1 << (bit % 8)
			if d := b.Evaluate(c, noon); d.Outcome != policy.Refused {
				t.Fatalf("PCR%d with bit %d flipped is granted", pcr, bit)
			}
		}
	}
}

func TestHintsSayWhatAFailureMeans(t *testing.T) {
	src := change(t, base, "    match:\n", `    match:
      pcr1: {eq: "$kernel$"}
      pcr2: {eq: "$app$"}
      pcr4: {eq: "$host$"}
      pcr5: {eq: "$five$"}
      pcr8: {eq: "$signer$"}
`)
	zero := decide(t, src, nitroClaims(map[int]string{0: "", 1: "", 2: "", 3: "", 4: "", 5: "", 8: ""}), noon)
	other := decide(t, src, nitroClaims(map[int]string{0: "x", 1: "x", 2: "x", 3: "x", 4: "x", 5: "x", 8: "x"}), noon)
	for _, c := range []struct{ rule, zero, other string }{
		{"pcr0", "debug mode", "another image"},
		{"pcr1", "debug mode", "another kernel"},
		{"pcr2", "debug mode", "another application"},
		{"pcr3", "no IAM role", "another IAM role"},
		{"pcr4", "another instance", "another instance"},
		{"pcr5", "never extended", ""},
		{"pcr8", "not signed", "signed with another certificate"},
	} {
		if r := only(t, zero, "payments", c.rule); r.Holds || !strings.Contains(r.Hint, c.zero) {
			t.Errorf("zero %s: hint %q, want %q", c.rule, r.Hint, c.zero)
		}
		r := only(t, other, "payments", c.rule)
		if r.Holds || !strings.Contains(r.Hint, c.other) || c.other == "" && r.Hint != "" {
			t.Errorf("other %s: hint %q, want %q", c.rule, r.Hint, c.other)
		}
	}
}

func TestAmbiguityDenies(t *testing.T) {
	// Lint refuses such a bundle; evaluation does not rely on that.
	b := policy.UncheckedForTest(t, expand(change(t, base, "workloads:\n", `workloads:
  - name: twin
    tee: aws-nitro
    mode: enforce
    match:
      pcr3: {eq: "$role$"}
    issue: [{spiffe_id: "spiffe://{td}/twin"}]
`)))
	d := b.Evaluate(nitroClaims(good), noon)
	if d.Outcome != policy.Refused || d.Reason != policy.ReasonAmbiguous || d.Detail != "several workloads match: twin, payments" || d.Workload != "" {
		t.Errorf("%+v", d)
	}
	for _, w := range d.Workloads {
		if !w.Matched {
			t.Errorf("%s does not match", w.Name)
		}
	}
	if d := b.Evaluate(nitroClaims(map[int]string{0: "else", 3: "role"}), noon); d.Workload != "twin" {
		t.Errorf("one match is not ambiguous: %+v", d)
	}
}

func TestAnAuditedTwinIsNotAmbiguous(t *testing.T) {
	src := change(t, base, "workloads:\n", `workloads:
  - name: stricter
    tee: aws-nitro
    mode: audit
    match:
      pcr0: {in: images}
      pcr3: {eq: "$role$"}
      pcr8: {eq: "$signer$"}
`)
	d := decide(t, src, nitroClaims(good), noon)
	if d.Outcome != policy.Granted || d.Workload != "payments" || !d.Workloads[0].Matched || d.Workloads[0].Mode != policy.Audit {
		t.Errorf("%+v", d)
	}
}

func TestTheNearestMissComesFirst(t *testing.T) {
	src := change(t, base, "workloads:\n", `workloads:
  - name: far
    tee: aws-nitro
    mode: enforce
    match:
      pcr3: {eq: "$far$"}
    issue: [{spiffe_id: "spiffe://{td}/far"}]
`)
	d := decide(t, src, nitroClaims(map[int]string{0: "x", 3: "role"}), noon)
	near := d.NearestFirst()
	if near[0].Name != "payments" || near[1].Name != "far" || d.Workloads[0].Name != "far" {
		t.Errorf("order %s, %s", near[0].Name, near[1].Name)
	}
}

func TestTheSameQuestionHasTheSameAnswerFromManyGoroutines(t *testing.T) {
	b := parse(t, base)
	want := b.Evaluate(nitroClaims(good), noon)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if d := cmp.Diff(want, b.Evaluate(nitroClaims(good), noon)); d != "" {
					t.Errorf("(-want +got):\n%s", d)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestADecisionSharesNothingWithTheBundle(t *testing.T) {
	b := parse(t, base)
	d := b.Evaluate(nitroClaims(good), noon)
	d.Digest[0] ^= 1
	d.Workloads[0].Rules[0].Holds = false
	if e := b.Evaluate(nitroClaims(good), noon); e.Digest[0] == d.Digest[0] || !e.Workloads[0].Rules[0].Holds {
		t.Error("a change to one decision is seen in the next")
	}
}

// What an evaluation allocates is its result: it must not grow with the values
// that a rule lists.
func TestEvaluationAllocatesItsResultOnly(t *testing.T) {
	small := parse(t, base)
	var many strings.Builder
	for i := range 3000 {
		many.WriteString("    - {value: \"$v" + string(rune('a'+i%26)) + strings.Repeat("x", i/26) + "$\"}\n")
	}
	large := parse(t, change(t, base, "references:\n  images:\n", "references:\n  images:\n"+many.String()))
	c := nitroClaims(good)
	n := testing.AllocsPerRun(100, func() { small.Evaluate(c, noon) })
	m := testing.AllocsPerRun(100, func() { large.Evaluate(c, noon) })
	t.Logf("%.0f allocations with 2 values, %.0f with 3002", n, m)
	if m > n+2 || n > 30 { // the entry's number in the text may cost one
		t.Errorf("%.0f allocations with 2 values, %.0f with 3002; want the same, at most 30", n, m)
	}
}
