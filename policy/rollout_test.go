package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

var secret = []byte("a secret of thirty-two bytes....")

// rolling is base with the workload in mode rollout.
func rolling(t testing.TB, share string) string {
	return change(t, base, "mode: enforce", "mode: {rollout: "+share+"}")
}

func withSecret(t testing.TB, b *policy.Bundle) *policy.Bundle {
	t.Helper()
	out, err := b.WithSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// machine is an enclave that base grants, by name.
func machine(i int) attest.Claims {
	c := nitroClaims(good)
	c.Nitro.ModuleID = fmt.Sprintf("i-%04d-enc", i)
	return c
}

func TestARolloutGrantsToItsShareOfTheHardware(t *testing.T) {
	const n = 4000
	for share, want := range map[string]float64{"0%": 0, "0.5%": 0.005, "10%": 0.1, "33.33%": 0.3333, "99.99%": 0.9999, "100%": 1} {
		b := withSecret(t, parse(t, rolling(t, share)))
		got := 0
		for i := range n {
			switch d := b.Evaluate(machine(i), noon); d.Reason {
			case policy.ReasonGranted:
				got++
			case policy.ReasonNotInRollout:
			default:
				t.Fatalf("%s: %s", d.Reason, d.Detail)
			}
		}
		// Four standard deviations, and exact at both ends.
		if off := float64(got)/n - want; want == 0 && got != 0 || want == 1 && got != n || off*off > 16*want*(1-want)/n+1e-6 {
			t.Errorf("%s: %d of %d", share, got, n)
		}
	}
}

func TestAGrowingRolloutKeepsWhomItAdmitted(t *testing.T) {
	small, large := withSecret(t, parse(t, rolling(t, "7%"))), withSecret(t, parse(t, rolling(t, "7.01%")))
	admitted := 0
	for i := range 2000 {
		if small.Evaluate(machine(i), noon).Outcome != policy.Granted {
			continue
		}
		admitted++
		if large.Evaluate(machine(i), noon).Outcome != policy.Granted {
			t.Errorf("machine %d is admitted at 7%% and not at 7.01%%", i)
		}
	}
	if admitted == 0 {
		t.Fatal("nobody was admitted: the test shows nothing")
	}
}

func TestADrawHoldsOnToTheHardwareAndNotToWhatChanges(t *testing.T) {
	b := withSecret(t, parse(t, rolling(t, "50%")))
	for i := range 50 {
		c := machine(i)
		want := b.Evaluate(c, noon).Outcome
		c.Nitro.PublicKey, c.Nitro.Nonce, c.Nitro.UserData, c.Nitro.Timestamp = sum("key"), sum("nonce"), sum("data"), noon.AddDate(0, 0, 3)
		if got := b.Evaluate(c, noon.AddDate(0, 0, 3)).Outcome; got != want {
			t.Fatalf("machine %d: %s, and after a renewal %s", i, want, got)
		}
	}
}

// The draw of each platform is by what names its hardware: to pin the bytes that
// are hashed, and what they are made of.
func TestTheDrawOfEachPlatform(t *testing.T) {
	for _, c := range []struct {
		name   string
		claims attest.Claims
		want   string
	}{
		{"nitro: the module", machine(1), "69.63%"},
		{"nitro: no module", machine2(""), "missing"},
		{"snp: chip and report", snpClaims(), ""},
		{"snp: another report", snpClaims(func(s *attest.SNP) { s.ReportID = sized("other", 32) }), ""},
		{"snp: another chip", snpClaims(func(s *attest.SNP) { s.ChipID = sized("turin", 64) }), ""},
		{"tpm: the endorsement key", attest.Claims{Platform: attest.TPM2, TPM: &attest.TPM{EK: sized("ek", 32), AK: sized("ak", 34)}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := policy.DrawForTest(t, secret, "prod", "payments", c.claims)
			if c.want == "" {
				if got == "missing" {
					t.Error("no draw")
				}
				return
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	one := policy.DrawForTest(t, secret, "prod", "payments", snpClaims())
	for name, other := range map[string]string{
		"another report":   policy.DrawForTest(t, secret, "prod", "payments", snpClaims(func(s *attest.SNP) { s.ReportID = sized("other", 32) })),
		"another chip":     policy.DrawForTest(t, secret, "prod", "payments", snpClaims(func(s *attest.SNP) { s.ChipID = sized("other", 64) })),
		"another workload": policy.DrawForTest(t, secret, "prod", "ledger", snpClaims()),
		"another bundle":   policy.DrawForTest(t, secret, "test", "payments", snpClaims()),
		"another secret":   policy.DrawForTest(t, []byte(strings.Repeat("x", 32)), "prod", "payments", snpClaims()),
		"lengths moved":    policy.DrawForTest(t, secret, "prodp", "ayments", snpClaims()),
	} {
		if one == other {
			t.Errorf("%s draws the same: %s", name, one)
		}
	}
	tpm := func(ak string) attest.Claims {
		return attest.Claims{Platform: attest.TPM2, TPM: &attest.TPM{EK: sized("ek", 32), AK: sized(ak, 34)}}
	}
	if policy.DrawForTest(t, secret, "b", "w", tpm("1")) != policy.DrawForTest(t, secret, "b", "w", tpm("2")) {
		t.Error("a new attestation key changes the draw of a TPM")
	}
}

func machine2(module string) attest.Claims {
	c := nitroClaims(good)
	c.Nitro.ModuleID = module
	return c
}

func TestWithoutTheSecretNothingIsGrantedByARollout(t *testing.T) {
	b := parse(t, rolling(t, "100%"))
	for _, d := range []policy.Decision{b.Evaluate(machine(1), noon), b.Explain(machine(1), noon)} {
		if d.Outcome != policy.Refused || d.Reason != policy.ReasonUndecided || d.Detail != "only the server's secret tells whether the rollout admits this environment: payments" {
			t.Errorf("%s: %s", d.Reason, d.Detail)
		}
		r := only(t, d, "payments", "rollout")
		if r.Holds || r.Expected != "among 100% of all" || r.Got != "undecided without the server's secret" || r.Position != "p.yaml:12:12" {
			t.Errorf("%+v", r)
		}
	}
	// What does not match is no rollout's affair.
	if d := b.Evaluate(nitroClaims(nil), noon); d.Reason != policy.ReasonNoMatch {
		t.Errorf("%s", d.Reason)
	}
}

func TestARolloutCanBeAssumedAndThenGrantsNothing(t *testing.T) {
	b := parse(t, rolling(t, "1%"))
	for admits, want := range map[bool]string{true: policy.ReasonGranted, false: policy.ReasonNotInRollout} {
		assumed := b.AssumeRollout(admits)
		if d := assumed.Evaluate(machine(1), noon); d.Reason != want {
			t.Errorf("%t: %s", admits, d.Reason)
		}
		l := newLab(t)
		_, err := assumed.Authorize(l.verify(t, attestation{pcrs: good}), noon)
		if d := denied(t, err); d.Reason != policy.ReasonOffline || d.Outcome != policy.Refused || d.Workload != "" {
			t.Errorf("%t: %+v", admits, d)
		}
	}
	if d := b.Evaluate(machine(1), noon); d.Reason != policy.ReasonUndecided {
		t.Errorf("the bundle itself has changed: %s", d.Reason)
	}
}

func TestARolloutAuthorizesWithTheSecretAlone(t *testing.T) {
	l := newLab(t)
	b := parse(t, rolling(t, "100%"))
	if _, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon); denied(t, err).Reason != policy.ReasonUndecided {
		t.Errorf("got %v", err)
	}
	if _, err := withSecret(t, parse(t, rolling(t, "0%"))).Authorize(l.verify(t, attestation{pcrs: good}), noon); denied(t, err).Reason != policy.ReasonNotInRollout {
		t.Errorf("got %v", err)
	}
	g, err := withSecret(t, b).Authorize(l.verify(t, attestation{pcrs: good}), noon)
	if err != nil {
		t.Fatal(err)
	}
	if d := g.Decision(); d.Workload != "payments" || !slices.Equal(d.Pinned(), []string{"pcr0", "pcr3"}) || !d.Ownership {
		t.Errorf("%+v", d)
	}
}

func TestTheSecretHasItsLength(t *testing.T) {
	b := parse(t, base)
	for _, bad := range [][]byte{nil, {}, []byte("short"), make([]byte, policy.SecretSize), []byte(strings.Repeat("x", policy.SecretSize+1))} {
		if _, err := b.WithSecret(bad); err == nil {
			t.Errorf("%d bytes are accepted", len(bad))
		}
	}
}

func TestOnlyARolloutThatAdmitsIsAmbiguous(t *testing.T) {
	src := rolling(t, "10%") + strings.NewReplacer("name: payments", "name: legacy", "td}/payments", "td}/legacy").Replace(base[strings.Index(base, "  - name: payments"):])
	_, err := policy.Parse("p.yaml", []byte(expand(src)))
	if err == nil || !strings.Contains(err.Error(), `workloads "payments" (line 10) and "legacy" can match the same aws-nitro evidence`) {
		t.Errorf("lint lets it pass: %v", err)
	}
	b := policy.UncheckedForTest(t, expand(src))
	seen := map[string]int{}
	bs := withSecret(t, b)
	for i := range 400 {
		d := bs.Evaluate(machine(i), noon)
		seen[d.Reason]++
		if in := d.Reason == policy.ReasonAmbiguous; in != only(t, bs.Explain(machine(i), noon), "payments", "rollout").Holds {
			t.Fatalf("machine %d: %s", i, d.Reason)
		}
	}
	if seen[policy.ReasonAmbiguous] == 0 || seen[policy.ReasonGranted] == 0 || len(seen) != 2 {
		t.Errorf("%v", seen)
	}
	// Who cannot tell grants nothing.
	if d := b.Evaluate(machine(1), noon); d.Reason != policy.ReasonAmbiguous {
		t.Errorf("%s", d.Reason)
	}
}

func TestAStricterWorkloadIsTriedInAudit(t *testing.T) {
	stricter := strings.NewReplacer("name: payments", "name: payments-next", "mode: enforce", "mode: audit", "      pcr3:", "      pcr8: {eq: \"$signer$\"}\n      pcr3:").Replace(base[strings.Index(base, "  - name: payments"):])
	b := parse(t, base+stricter)
	for _, signer := range []string{"signer", "another"} {
		d := b.Evaluate(nitroClaims(map[int]string{0: "42", 3: "role", 8: signer}), noon)
		if d.Outcome != policy.Granted || d.Workload != "payments" {
			t.Fatalf("%s: %s", d.Reason, d.Detail)
		}
		if r := only(t, d, "payments-next", "pcr8"); r.Holds != (signer == "signer") {
			t.Errorf("%+v", r)
		}
	}
}

func TestEachMistakeInAModeHasItsOwnError(t *testing.T) {
	for mode, want := range map[string]string{
		"{rollout: 10}":           "12:21: want text, got a number",
		"{rollout: ten%}":         `12:21: not a share: "ten%"`,
		"{rollout: 101%}":         `12:21: not a share: "101%"`,
		"{rollout: 100.01%}":      `12:21: not a share: "100.01%"`,
		"{rollout: 0.125%}":       `12:21: not a share: "0.125%"`,
		"{rollout: -1%}":          `12:21: not a share: "-1%"`,
		"{rollout: 010%}":         `12:21: not a share: "010%"`,
		"{rollout: .5%}":          `12:21: not a share: ".5%"`,
		"{rollout: \"10 %\"}":     `12:21: not a share: "10 %"`,
		"{}":                      `12:11: the key "rollout" is missing`,
		"{roll: 10%}":             `12:12: unknown key "roll"`,
		"rollout":                 `12:11: mode "rollout" lacks its share`,
		"\"rollout: 10%\"":        `12:11: mode "rollout: 10%" lacks its share`,
		"enforced":                `12:11: unknown mode "enforced"`,
		"[rollout]":               "12:11: want text, got a list",
		"{rollout: {share: 10%}}": "12:21: want text, got a mapping",
	} {
		_, err := policy.Parse("p.yaml", []byte(expand(change(t, base, "mode: enforce", "mode: "+mode))))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", mode, err, want)
		}
	}
}

func TestARolloutNeedsWhatEnforcingNeeds(t *testing.T) {
	src := change(t, rolling(t, "1%"), "      pcr3: {eq: \"$role$\"}\n", "")
	if _, err := policy.Parse("p.yaml", []byte(expand(src))); err == nil || !strings.Contains(err.Error(), "no ownership predicate") {
		t.Errorf("got %v", err)
	}
	b := parse(t, rolling(t, "0.5%"))
	if w := b.Workloads()[0]; w.Mode != policy.Rollout || w.Rollout != "0.5%" || !b.HasRollout() || parse(t, base).HasRollout() {
		t.Errorf("%+v", w)
	}
}

// denied is the decision of a denial.
func denied(t testing.TB, err error) policy.Decision {
	t.Helper()
	var d *policy.Denied
	if !errors.As(err, &d) {
		t.Fatalf("want a denial, got %v", err)
	}
	return d.Decision
}

func TestTheShareIsABoundThatTheDrawLiesBelow(t *testing.T) {
	for i := range 20 {
		draw := policy.DrawForTest(t, secret, "prod", "payments", machine(i))
		if b := withSecret(t, parse(t, rolling(t, draw))); b.Evaluate(machine(i), noon).Reason != policy.ReasonNotInRollout {
			t.Errorf("a draw of %s is admitted to %s", draw, draw)
		}
		n, err := strconv.ParseFloat(strings.TrimSuffix(draw, "%"), 64)
		if err != nil {
			t.Fatal(err)
		}
		more := strconv.FormatFloat(n+0.01, 'f', 2, 64) + "%"
		if b := withSecret(t, parse(t, rolling(t, more))); b.Evaluate(machine(i), noon).Outcome != policy.Granted {
			t.Errorf("a draw of %s is not admitted to %s", draw, more)
		}
	}
}
