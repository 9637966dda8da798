package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// withCSP is a workload that matches the cloud provider's name with a regular
// expression.
func withCSP(t testing.TB, re string) string {
	t.Helper()
	return change(t, expand(snpBase), "    match:\n", fmt.Sprintf("    match:\n      csp_id: {regex: '%s'}\n", re))
}

// verbatim is parse for a source without the tests' own abbreviations, which
// begin with a dollar sign.
func verbatim(t testing.TB, src string) *policy.Bundle {
	t.Helper()
	b, err := policy.Parse("p.yaml", []byte(src))
	if err != nil {
		t.Fatalf("the policy does not parse:\n%s", render(err))
	}
	return b
}

func TestARegularExpressionMatchesTheWholeText(t *testing.T) {
	for _, c := range []struct {
		re, text string
		want     bool
	}{
		{`CN=cc-[a-z0-9-]+\.amazonaws\.com`, "CN=cc-us-east-2.amazonaws.com", true},
		{`CN=cc-[a-z0-9-]+\.amazonaws\.com`, "CN=cc-us-east-2.amazonaws.com.evil.example", false},
		{`CN=cc-[a-z0-9-]+\.amazonaws\.com`, "x CN=cc-us-east-2.amazonaws.com", false},
		{`amazonaws`, "CN=cc-us-east-2.amazonaws.com", false},
		{`a|b`, "a", true},
		{`a|b`, "b", true},
		{`a|b`, "ab", false},
		{`a|b`, "xb", false},
		{`^a$`, "a", true},
		{`(?i)AWS`, "aws", true},
		{`a.c`, "a\nc", false},
		{`a(?m:$)(?s:.*)`, "a\nevil", true},
		{`(?m)^a$`, "a\nevil", false},
		{`a`, "a\n", false},
	} {
		b := verbatim(t, withCSP(t, c.re))
		d := b.Evaluate(snpClaims(func(s *attest.SNP) { s.SigningKey, s.CSPID = "vlek", c.text }), noon)
		r := ruleOf(t, d, "ledger", "csp_id")
		if r.Holds != c.want || r.Op != "regex" || r.Got != c.text || r.Expected != fmt.Sprintf("all of it matching the regular expression %q", c.re) {
			t.Errorf("%s over %q: %+v", c.re, c.text, r)
		}
	}
	// Text that is not there matches nothing, not even anything.
	b := verbatim(t, withCSP(t, `.*`))
	if r := ruleOf(t, b.Evaluate(snpClaims(), noon), "ledger", "csp_id"); r.Holds {
		t.Errorf("missing: %+v", r)
	}
}

func TestMistakesInRegularExpressionsAreErrors(t *testing.T) {
	for _, c := range []struct{ name, re, want string }{
		{"unbalanced", `a(`, "not a regular expression: missing closing )"},
		{"out of the anchors", `a)|(b`, "not a regular expression: unexpected )"},
		{"backreference", `(a)\1`, "not a regular expression: invalid escape sequence"},
		{"lookahead", `a(?=b)`, "not a regular expression: invalid or unsupported Perl syntax"},
		{"repeated too often", `a{1001}`, "not a regular expression: invalid repeat count"},
		{"too large", `(abcdefghij){200}`, "the regular expression is too large: at most 1000 steps are compiled"},
		{"classes repeated", `\pL{300}`, "the regular expression is too large: its character classes have"},
		{"too long", strings.Repeat("a", 257), "the regular expression is too long: 257 bytes, at most 256"},
		{"empty", ``, "the regular expression matches no text that a claim can have"},
		{"nothing but anchors", `^$`, "the regular expression matches no text that a claim can have"},
		{"no character", `[^\x00-\x{10ffff}]`, "the regular expression matches no text that a claim can have"},
	} {
		_, err := policy.Parse("p.yaml", []byte(withCSP(t, c.re)))
		if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "p.yaml:12:23: "+c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	for _, claim := range []string{"measurement", "host_data", "family_id", "product", "guest_svn", "policy.debug", "reported_tcb", "current_firmware"} {
		_, err := policy.Parse("p.yaml", []byte(expand(change(t, base, "tee: aws-nitro", "tee: amd-sev-snp", "      pcr0: {in: images}\n      pcr3: {eq: \"$role$\"}", "      "+claim+": {regex: '.*'}"))))
		if err == nil || !strings.Contains(err.Error(), claim+` has no matcher "regex"`) {
			t.Errorf("%s: got %v", claim, err)
		}
	}
}

// What all expressions of a bundle take together is bounded.
func TestTheRegularExpressionsOfABundleAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
workloads:
`)
	for i := range 600 {
		fmt.Fprintf(&b, "  - {name: w%d, tee: amd-sev-snp, mode: audit, match: {csp_id: {regex: '%d(?:abcdefghi){100}'}}}\n", i, i)
	}
	_, err := policy.Parse("p.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "the regular expressions of this bundle are too large together") {
		t.Errorf("got %v", err)
	}
	one := strings.ReplaceAll(b.String(), "regex: '", "regex: 'x")
	for i := range 600 {
		one = strings.Replace(one, fmt.Sprintf("'x%d(?", i), "'x(?", 1)
	}
	if _, err := policy.Parse("p.yaml", []byte(one)); err != nil {
		t.Errorf("one expression, used often, counts once:\n%.300s", render(err))
	}
}

func TestExpressionsThatHoldForEveryTextAreWarnedOf(t *testing.T) {
	for re, want := range map[string]bool{
		`.*`: true, `.+`: true, `(.*)`: true, `(?s).*`: true, `^.*$`: true, `.*|a`: true, `(?:.*)*`: true, `.*.*`: true,
		`a.*`: false, `.`: false, `.*a`: false, `.?`: false, `[a-z]*`: false,
	} {
		w := verbatim(t, withCSP(t, re)).Warnings()
		if got := len(w) == 1 && w[0].Code == string(policy.CodeAlwaysHolds); got != want || !want && len(w) > 0 {
			t.Errorf("%s: want a warning %v, got:\n%s", re, want, w.Render())
		}
	}
}

// Expressions with different beginnings keep workloads apart; what else does is
// not known, and counts as an overlap.
func TestRegularExpressionsExcludeEachOtherByTheirBeginnings(t *testing.T) {
	for _, c := range []struct {
		a, b    string
		overlap bool
	}{
		{`{regex: 'CN=cc-us.*'}`, `{regex: 'CN=cc-eu.*'}`, false},
		{`{regex: 'CN=cc.*'}`, `{regex: 'CN=cc-eu.*'}`, true},
		{`{regex: '.*us'}`, `{regex: '.*eu'}`, true},
		{`{regex: 'CN=cc-us.*'}`, `{eq: "CN=cc-us-east-2"}`, true},
		{`{regex: 'CN=cc-us.*'}`, `{eq: "CN=cc-eu-west-1"}`, false},
	} {
		one := change(t, snpBase, "    match:\n", "    match:\n      csp_id: "+c.a+"\n")
		two := change(t, snpBase[strings.Index(snpBase, "  - name"):], "ledger", "second", "ledger", "second", "    match:\n", "    match:\n      csp_id: "+c.b+"\n")
		_, err := policy.Parse("p.yaml", []byte(expand(one+two)))
		if got := err != nil; got != c.overlap {
			t.Errorf("%s and %s: %v", c.a, c.b, err)
		}
	}
}
