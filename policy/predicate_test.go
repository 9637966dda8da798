package policy_test

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

func TestAPredicateIsTrueOfWhomItDescribes(t *testing.T) {
	claims := nitroClaims(map[int]string{0: "42", 3: "role"})
	for source, want := range map[string]bool{
		"nitro.pcr0 == '" + hexOf("42") + "'":                                            true,
		"nitro.pcr0 == '" + hexOf("41") + "'":                                            false,
		"nitro.pcr0.startsWith('" + hexOf("42")[:8] + "')":                               true,
		"snp.guest_svn < 3":                                                              false, // of another platform
		"nitro.pcr3 == '" + hexOf("role") + "' && nitro.pcr0 != '" + hexOf("4711") + "'": true,
	} {
		p, err := policy.CompilePredicate(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := p.Holds(claims); got != want || err != nil {
			t.Errorf("%s: %t, %v, want %t", source, got, err, want)
		}
		if p.String() != source {
			t.Errorf("source %q", p)
		}
	}
}

func TestAPredicateSaysWhenItCannotTell(t *testing.T) {
	p, err := policy.CompilePredicate("nitro.pcr31 == '" + hexOf("41") + "' || nitro.pcr0 == '" + hexOf("42") + "'")
	if err != nil {
		t.Fatal(err)
	}
	holds, err := p.Holds(nitroClaims(map[int]string{0: "42"}))
	if holds || err == nil || !strings.Contains(err.Error(), "missing: nitro.pcr31") {
		t.Errorf("%t, %v", holds, err)
	}
	if p.Platform() != attest.AWSNitro {
		t.Errorf("platform %s", p.Platform())
	}
}

func TestAPredicateThatIsNoneIsRefusedWithItsPlace(t *testing.T) {
	for source, want := range map[string]string{
		"":                                      "the expression is empty",
		"true":                                  "always true",
		"nitro.pcr0 == nitro.pcr0 && false":     "always false",
		"nitro.pcr99 == 'a'":                    "nitro.pcr99",
		"nitro.pcr0 == 'a' && snp.guest_svn":    "snp.guest_svn",
		"nitro.pcr0":                            "not true or false",
		"snp.guest_svn < 'a'":                   "not valid",
		strings.Repeat("a", 5000):               "too long",
		"nitro.pcr0 == 'a' && nitro.nothing(1)": "nothing",
	} {
		p, err := policy.CompilePredicate(source)
		if err == nil || p != nil || attest.KindOf(err) != attest.Malformed || attest.CheckOf(err) != "expression" || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", source, err, want)
		}
	}
}

func FuzzPredicate(f *testing.F) {
	for _, s := range []string{"nitro.pcr0 == 'a'", "snp.guest_svn < 3", "tpm.pcr0 == ''", "!(nitro.debug)", "[1].all(x, x > 0)"} {
		f.Add(s)
	}
	claims := nitroClaims(map[int]string{0: "42", 3: "role"})
	f.Fuzz(func(t *testing.T, source string) {
		p, err := policy.CompilePredicate(source)
		if (p == nil) == (err == nil) {
			t.Fatal("a predicate and an error, or neither")
		}
		if err != nil {
			return
		}
		if holds, err := p.Holds(claims); holds && err != nil {
			t.Fatal("it holds, and an error")
		}
	})
}
