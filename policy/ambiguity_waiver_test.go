package policy_test

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

// What cannot keep two workloads apart does not turn the error of an ambiguity into a
// warning, which could be silenced.
func TestAnAmbiguityThatNoWaiverOrExpressionCanPreventStaysAnError(t *testing.T) {
	second := strings.Replace(snpBase[strings.Index(snpBase, "  - name"):], "ledger", "second", 2)
	with := func(more string) string {
		return change(t, snpBase, "revision: 7", "revision: 7\nsilence: [both-match]", "    match:\n", more) + second
	}
	const waiver = "    waivers: [{rule: guest_svn, reason: a, owner: b, expires: 2020-01-01}]\n    match:\n      guest_svn: {gte: 1}\n"
	for name, src := range map[string]string{
		"a waiver over a claim that the other does not name": with(waiver),
		"a waiver over a claim of which both want the same":  with(waiver) + "",
		"an expression that is always true":                  change(t, with("    match:\n"), "    issue:", "    silence: [constant-expression]\n    expr: \"1 < 2\"\n    issue:"),
	} {
		if strings.HasPrefix(name, "a waiver over a claim of which both") {
			src = strings.Replace(src, second, strings.Replace(second, "    match:\n", "    match:\n      guest_svn: {gte: 2}\n", 1), 1)
		}
		if _, err := policy.Parse("p.yaml", []byte(expand(src))); err == nil || !strings.Contains(err.Error(), "can match the same amd-sev-snp evidence") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	apart := strings.Replace(with(waiver), second, strings.Replace(second, "    match:\n", "    match:\n      guest_svn: {lte: 0}\n", 1), 1)
	if _, err := policy.Parse("p.yaml", []byte(expand(apart))); err != nil {
		t.Errorf("a waiver of what keeps them apart:\n%s", render(err))
	}
}
