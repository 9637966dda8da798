package policy_test

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

// The zero time of a program, with any offset, once meant that a value never ends.
func TestAMomentBefore2000IsAnErrorWhereverAPolicyHasOne(t *testing.T) {
	reference := func(key string) func(moment string) string {
		return func(moment string) string {
			return change(t, base, "not_after: 2027-01-31T00:00:00Z", key+": "+moment)
		}
	}
	moments := []string{"0001-01-01T00:00:00Z", "0001-01-01T05:00:00+05:00", "0001-01-02T00:00:00Z", "1999-12-31T23:59:59Z", "2000-01-01T00:00:00+01:00"}
	for name, c := range map[string]struct {
		with func(moment string) string
		days bool
	}{
		"not_after":  {reference("not_after"), false},
		"not_before": {reference("not_before"), false},
		"an entry in place": {func(m string) string {
			return change(t, base, `pcr3: {eq: "$role$"}`, `pcr3: {in: [{value: "$role$", not_after: `+m+`}]}`)
		}, false},
		"an ownership waiver": {func(m string) string {
			return change(t, base, `      pcr3: {eq: "$role$"}`+"\n", "", "    match:", "    ownership: {none: a, owner: b, expires: "+m+"}\n    match:")
		}, true},
		"a waiver": {func(m string) string {
			return change(t, snpBase, "    match:", "    waivers: [{rule: reported_tcb, reason: a, owner: b, expires: "+m+"}]\n    match:")
		}, true},
	} {
		all := moments
		if c.days {
			all = append([]string{"0001-01-01", "1999-12-31"}, moments...)
		}
		for _, m := range all {
			_, err := policy.Parse("p.yaml", []byte(expand(c.with(m))))
			if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "is before 2000: nothing in a policy begins or ends there") {
				t.Errorf("%s at %s: got %v", name, m, err)
			}
		}
		if _, err := policy.Parse("p.yaml", []byte(expand(c.with("2000-01-01T00:00:00Z")))); err != nil {
			t.Errorf("%s in 2000: %s", name, render(err))
		}
	}
}
