package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// lateFirmware is snpBase with a waiver of its floor.
func lateFirmware(t testing.TB, when string) string {
	t.Helper()
	return change(t, snpBase, "    match:\n", `    waivers:
      - {rule: reported_tcb, `+when+`reason: "the vendor's firmware is late", owner: "ana@example.org", expires: 2027-03-01}
    match:
`)
}

func old(s *attest.SNP) { s.ReportedTCB.SNP = 1 }

func TestAWaivedRuleLetsTheWorkloadMatchAndSaysSo(t *testing.T) {
	b := parse(t, lateFirmware(t, ""))
	expiry := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)

	d := b.Evaluate(snpClaims(old), noon)
	if d.Outcome != policy.Granted || d.ValidUntil == nil || !d.ValidUntil.Equal(expiry) {
		t.Fatalf("%s %s, until %v", d.Reason, d.Detail, d.ValidUntil)
	}
	r := ruleOf(t, d, "ledger", "reported_tcb")
	if r.Op != "waiver" || !r.Holds || r.Position != "p.yaml:12:9" || r.Hint != "" ||
		!strings.HasPrefix(r.Expected, "gte: at least genoa: bl 9, tee 0, snp 23, ucode 72; turin: ") || !strings.HasSuffix(r.Expected, "; or a waiver that has not expired (until 2027-03-01T00:00:00Z)") ||
		!strings.HasPrefix(r.Got, "genoa: ") || !strings.HasSuffix(r.Got, ": waived by ana@example.org: the vendor's firmware is late") {
		t.Errorf("%+v", r)
	}
	// Nobody is told that the floor was held to.
	if slices.Contains(d.Pinned(), "reported_tcb") {
		t.Errorf("pinned %v", d.Pinned())
	}

	// Where the rule holds, the waiver is no part of the decision.
	d = b.Evaluate(snpClaims(), noon)
	if r := ruleOf(t, d, "ledger", "reported_tcb"); d.Outcome != policy.Granted || d.ValidUntil != nil || r.Op != "gte" || strings.Contains(r.Got, "waived") {
		t.Errorf("%s, until %v, %+v", d.Reason, d.ValidUntil, r)
	}
	if !slices.Contains(d.Pinned(), "reported_tcb") {
		t.Errorf("pinned %v", d.Pinned())
	}

	// The last moment, and the one after it.
	if d := b.Evaluate(snpClaims(old), expiry); d.Outcome != policy.Granted {
		t.Errorf("at its end: %s %s", d.Reason, d.Detail)
	}
	d = b.Evaluate(snpClaims(old), expiry.Add(1))
	r = ruleOf(t, d, "ledger", "reported_tcb")
	if d.Outcome != policy.Refused || r.Holds || r.Op != "gte" || !strings.Contains(r.Hint, "snp 1 is below 23") || !strings.Contains(r.Hint, "the waiver of ana@example.org (the vendor's firmware is late) expired at 2027-03-01T00:00:00Z") {
		t.Errorf("after its end: %s, %+v", d.Reason, r)
	}
}

// ruleOf is one rule of a workload in a decision.
func ruleOf(t testing.TB, d policy.Decision, workload, claim string) policy.RuleResult {
	t.Helper()
	for _, w := range d.Workloads {
		for _, r := range w.Rules {
			if w.Name == workload && r.Rule == claim {
				return r
			}
		}
	}
	t.Fatalf("no rule over %s of workload %s", claim, workload)
	return policy.RuleResult{}
}

func TestAConditionNarrowsAWaiver(t *testing.T) {
	b := parse(t, lateFirmware(t, "when: {product: {eq: turin}, vmpl: {eq: 0}}, "))
	for _, c := range []struct {
		name  string
		guest []func(*attest.SNP)
		want  string
	}{
		{"another product", []func(*attest.SNP){old}, policy.Refused},
		{"the product, old as well", []func(*attest.SNP){turin, old}, policy.Granted},
		{"good firmware of another product", nil, policy.Granted},
	} {
		if d := b.Evaluate(snpClaims(c.guest...), noon); d.Outcome != c.want {
			t.Errorf("%s: %s %s", c.name, d.Reason, d.Detail)
		}
	}
}

// That firmware may be too old for a while says nothing of machines whose firmware
// nobody has ever set a floor for.
func TestAWaivedFloorAdmitsNoProductLineWithoutAFloor(t *testing.T) {
	milan := func(s *attest.SNP) { s.Product = "milan" }
	unpatched := func(s *attest.SNP) { s.Product, s.ReportedTCB = "milan", attest.TCB{} }
	for _, when := range []string{"", "when: {product: {eq: milan}}, "} {
		b := parse(t, lateFirmware(t, when))
		for name, guest := range map[string]attest.Claims{"another line": snpClaims(milan), "another line, of any age": snpClaims(unpatched)} {
			for _, d := range []policy.Decision{b.Evaluate(guest, noon), b.Explain(guest, noon)} {
				r := ruleOf(t, d, "ledger", "reported_tcb")
				if d.Outcome != policy.Refused || r.Holds || r.Op != "gte" || !strings.Contains(r.Hint, "the rule has no floor for milan") {
					t.Errorf("%s: %s, %+v", name, d.Reason, r)
				}
			}
		}
	}
	// Hence it still tells the lines apart.
	src := lateFirmware(t, "")
	other := strings.NewReplacer("ledger", "second", "{genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}", "{milan: {bl: 4, tee: 0, snp: 24, ucode: 219}}").Replace(src[strings.Index(src, "  - name"):])
	if w := parse(t, src+other).Warnings(); len(w) > 0 {
		t.Errorf("workloads of other product lines:\n%s", w.Render())
	}
	if _, err := policy.Parse("p.yaml", []byte(expand(change(t, src, "    match:\n", "    match:\n      product: {eq: milan}\n")))); err == nil || !strings.Contains(err.Error(), "can never match: no report satisfies both its reported_tcb and its product") {
		t.Errorf("a line without a floor: got %v", err)
	}
}

// A condition's values have windows of their own, and end the waiver with them.
func TestAWaiverEndsWithItsCondition(t *testing.T) {
	b := parse(t, lateFirmware(t, `when: {family_id: {in: [{value: "$family/16$", not_after: 2027-02-01T00:00:00Z}]}}, `))
	guest := snpClaims(old, func(s *attest.SNP) { s.FamilyID = sized("family", 16) })
	end := time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	if d := b.Evaluate(guest, noon); d.Outcome != policy.Granted || d.ValidUntil == nil || !d.ValidUntil.Equal(end) {
		t.Errorf("%s until %v", d.Reason, d.ValidUntil)
	}
	if d := b.Evaluate(guest, end.Add(1)); d.Outcome != policy.Refused {
		t.Errorf("%s", d.Reason)
	}
}

// Of several waivers the one that lasts longest is shown.
func TestTheWaiverThatLastsLongestIsShown(t *testing.T) {
	b := parse(t, change(t, lateFirmware(t, ""), "    match:\n", `      - {rule: reported_tcb, reason: "later", owner: bob, expires: 2027-06-01}
      - {rule: reported_tcb, when: {product: {eq: turin}}, reason: "not this one", owner: eve, expires: 2029-06-01}
    match:
`))
	d := b.Evaluate(snpClaims(old), noon)
	if r := ruleOf(t, d, "ledger", "reported_tcb"); !strings.Contains(r.Got, "waived by bob: later") {
		t.Errorf("%+v", r)
	}
	if d.ValidUntil == nil || !d.ValidUntil.Equal(time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("until %v", d.ValidUntil)
	}
}

// A claim that is not there is not waived: nothing matches because something is
// missing.
func TestAMissingClaimIsNotWaived(t *testing.T) {
	b := parse(t, change(t, snpBase, "    match:\n", `    waivers:
      - {rule: current_mitigations, reason: a, owner: b, expires: 2027-03-01}
    match:
      current_mitigations: {bits: {set: [3]}}
`))
	five := func(m uint64) func(*attest.SNP) {
		return func(s *attest.SNP) { s.Version, s.CurrentMitigations, s.LaunchMitigations = 5, u64(m), u64(m) }
	}
	if d := b.Evaluate(snpClaims(five(0)), noon); d.Outcome != policy.Granted {
		t.Errorf("waived: %s %s", d.Reason, d.Detail)
	}
	d := b.Evaluate(snpClaims(func(s *attest.SNP) { s.Version, s.CurrentMitigations, s.LaunchMitigations = 2, nil, nil }), noon)
	if r := ruleOf(t, d, "ledger", "current_mitigations"); d.Outcome != policy.Refused || r.Got != "missing" {
		t.Errorf("missing: %s, %+v", d.Reason, r)
	}
}

// A boolean's rule is a set, which decisions look up without words: it is waived
// all the same.
func TestAWaivedSetIsNotLookedUpAsIfItWereStrict(t *testing.T) {
	src := change(t, tpmBase, "    match:\n", `    waivers:
      - {rule: secure_boot, reason: a, owner: b, expires: 2027-03-01}
    match:
      secure_boot: {eq: true}
`)
	b := parse(t, src)
	c := tpmClaims(func(c *attest.TPM) {
		off := false
		c.Boot = &attest.MeasuredBoot{SecureBoot: &off}
	})
	for name, d := range map[string]policy.Decision{"evaluated": b.Evaluate(c, noon), "explained": b.Explain(c, noon)} {
		if d.Outcome != policy.Granted {
			t.Errorf("%s: %s %s", name, d.Reason, d.Detail)
		}
	}
	if d := b.Evaluate(c, noon.AddDate(1, 0, 0)); d.Outcome != policy.Refused {
		t.Errorf("after its end: %s", d.Reason)
	}
}

// A rule that may be waived does not keep two workloads apart.
func TestAWaivedRuleDoesNotExcludeAnotherWorkload(t *testing.T) {
	waiver := "    waivers: [{rule: product, reason: a, owner: b, expires: 2028-01-01}]\n    match:\n      product: {eq: genoa}\n"
	src := change(t, snpBase, "    match:\n", waiver) + strings.Replace(strings.Replace(snpBase[strings.Index(snpBase, "  - name"):], "ledger", "second", 2), "    match:\n", "    match:\n      product: {eq: turin}\n", 1)
	b, err := policy.Parse("p.yaml", []byte(expand(src)))
	found := err != nil && strings.Contains(err.Error(), "can match the same amd-sev-snp evidence")
	if err == nil {
		found = slices.ContainsFunc(b.Warnings(), func(e *strictyaml.Error) bool { return e.Code == string(policy.CodeBothMatch) })
	}
	if !found {
		t.Errorf("the overlap is not found: %v", err)
	}
	if _, err := policy.Parse("p.yaml", []byte(expand(strings.Replace(src, waiver, "    match:\n      product: {eq: genoa}\n", 1)))); err != nil {
		t.Errorf("without a waiver they exclude each other:\n%s", render(err))
	}
}

func TestMistakesInWaiversAreErrors(t *testing.T) {
	for _, c := range []struct{ name, waiver, want string }{
		{"no rule", `{reason: a, owner: b, expires: 2027-03-01}`, `12:9: the key "rule" is missing`},
		{"no reason", `{rule: reported_tcb, owner: b, expires: 2027-03-01}`, `12:9: the key "reason" is missing`},
		{"no owner", `{rule: reported_tcb, reason: a, expires: 2027-03-01}`, `12:9: the key "owner" is missing`},
		{"no end", `{rule: reported_tcb, reason: a, owner: b}`, `12:9: the key "expires" is missing`},
		{"an end that is no date", `{rule: reported_tcb, reason: a, owner: b, expires: soon}`, `want a moment (RFC 3339), got "soon"`},
		{"unknown key", `{rule: reported_tcb, reason: a, owner: b, expires: 2027-03-01, until: x}`, `unknown key "until"`},
		{"no mapping", `reported_tcb`, `12:9: want a mapping, got "reported_tcb"`},
		{"empty condition", `{rule: reported_tcb, when: {}, reason: a, owner: b, expires: 2027-03-01}`, "12:36: when is empty"},
		{"unknown claim in the condition", `{rule: reported_tcb, when: {prodct: {eq: milan}}, reason: a, owner: b, expires: 2027-03-01}`, `amd-sev-snp has no claim "prodct"`},
		{"a rule that is not there", `{rule: committed_tcb, reason: a, owner: b, expires: 2027-03-01}`, `12:16: the workload has no rule over "committed_tcb" to waive`},
		{"no claim", `{rule: tcb, reason: a, owner: b, expires: 2027-03-01}`, `the workload has no rule over "tcb" to waive`},
		{"the image", `{rule: measurement, reason: a, owner: b, expires: 2027-03-01}`, "12:16: measurement cannot be waived: any other value would do"},
		{"the owner", `{rule: chip_id, reason: a, owner: b, expires: 2027-03-01}`, "12:16: chip_id cannot be waived: it tells whose environment it is"},
		{"an implicit rule", `{rule: policy.debug, reason: a, owner: b, expires: 2027-03-01}`, `the workload has no rule over "policy.debug" to waive`},
	} {
		src := expand(change(t, snpBase, "    match:\n", "    waivers:\n      - "+c.waiver+"\n    match:\n"))
		if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	for name, c := range map[string][2]string{
		"a written rule against debug": {"    waivers: [{rule: policy.debug, reason: a, owner: b, expires: 2027-03-01}]\n    match:\n      policy.debug: {eq: false}\n", "11:22: policy.debug cannot be waived"},
		"none":                         {"    waivers: []\n    match:\n", "waivers has 0 entries, want 1 to 16"},
		"no list":                      {"    waivers: x\n    match:\n", `want a list, got "x"`},
		"too many":                     {"    waivers:\n" + strings.Repeat("      - {rule: reported_tcb, reason: a, owner: b, expires: 2027-03-01}\n", 17) + "    match:\n", "waivers has 17 entries, want 1 to 16"},
	} {
		src := expand(change(t, snpBase, "    match:\n", c[0]))
		if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: got %v, want %q", name, err, c[1])
		}
	}
}

// A command line, a maker or a place is a name: a waiver of it would admit any
// other, such as init=/bin/sh.
func TestNoTextAndNoNameCanBeWaived(t *testing.T) {
	waived := func(t *testing.T, src, claim, rule string) error {
		t.Helper()
		_, err := policy.Parse("p.yaml", []byte(expand(change(t, src, "    match:\n", "    waivers: [{rule: "+claim+", reason: a, owner: b, expires: 2027-03-01}]\n    match:\n      "+claim+": "+rule+"\n"))))
		return err
	}
	for _, claim := range []string{"boot.command_line", "boot.firmware", "cloud.zone", "cloud.instance_id", "cloud.instance_name", "manufacturer", "model", "version"} {
		for _, rule := range []string{"{eq: x}", "{regex: 'x+y'}"} {
			if err := waived(t, tpmBase, claim, rule); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), claim+" cannot be waived: any other value would do") {
				t.Errorf("%s: got %v", claim, err)
			}
		}
	}
	if err := waived(t, tpmBase, "cloud.provider", "{eq: gce}"); err == nil || !strings.Contains(err.Error(), "cloud.provider cannot be waived: any other value would do") {
		t.Errorf("cloud.provider: got %v", err)
	}
	if err := waived(t, snpBase, "csp_id", "{eq: x}"); err == nil || !strings.Contains(err.Error(), "csp_id cannot be waived: any other value would do") {
		t.Errorf("csp_id: got %v", err)
	}
	for claim, rule := range map[string]string{"secure_boot": "{eq: true}", "clock.firmware": `{gte: "7.85.0.0"}`, "clock.reset_count": "{lte: 3}", "key_residency": "{eq: tpm}", "safe": "{eq: true}"} {
		if err := waived(t, tpmBase, claim, rule); err != nil {
			t.Errorf("%s, which is state: %v", claim, err)
		}
	}
}
