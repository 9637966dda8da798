package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// withExpr is snpBase with an expression, written as YAML.
func withExpr(t testing.TB, expr string) string {
	return change(t, snpBase, "    issue:", "    expr: "+expr+"\n    issue:")
}

func TestAnExpressionNarrowsWhatTheRulesAdmit(t *testing.T) {
	v4 := func(s *attest.SNP) { s.Version, s.CurrentMitigations, s.LaunchMitigations = 4, nil, nil }
	old := func(s *attest.SNP) { s.GuestSVN = 2 }
	for _, c := range []struct {
		expr   string
		change func(*attest.SNP)
		holds  bool
		got    string
		hint   string
	}{
		{"snp.guest_svn >= 3 && !snp.platform.smt", nil, true, "snp.guest_svn = 4, snp.platform.smt = false", ""},
		{"snp.guest_svn >= 3 && !snp.platform.smt", old, false, "snp.guest_svn = 2, snp.platform.smt = false", "this part is false: snp.guest_svn >= 3"},
		{"snp.guest_svn >= 5 && snp.platform.smt", nil, false, "snp.guest_svn = 4, snp.platform.smt = false", "these parts are false: snp.guest_svn >= 5; snp.platform.smt"},
		{"snp.guest_svn >= 5 || snp.platform.smt", nil, false, "snp.guest_svn = 4, snp.platform.smt = false", "the expression is false for these claims"},
		{"snp.product == 'genoa'", nil, true, "snp.product = 'genoa'", ""},
		{"snp.product in ['milan', 'turin']", nil, false, "snp.product = 'genoa'", "the expression is false for these claims"},
		{"snp.product.matches('^g.*a')", nil, true, "snp.product = 'genoa'", ""},
		{"snp.measurement == '" + hexOf("image") + "'", nil, true, "snp.measurement = '" + hexOf("image") + "'", ""},
		{"snp.measurement.startsWith('00')", nil, false, "snp.measurement = '" + hexOf("image") + "'", "the expression is false for these claims"},
		{"snp.current_firmware.major * 100 + snp.current_firmware.minor > 154", nil, true, "snp.current_firmware.major = 1, snp.current_firmware.minor = 55", ""},
		{"snp.reported_tcb.snp == snp.committed_tcb.snp", nil, true, "snp.reported_tcb.snp = 23, snp.committed_tcb.snp = 23", ""},
		{"3 in snp.current_mitigations", nil, true, "snp.current_mitigations = [0, 3]", ""},
		{"snp.current_mitigations.exists(x, x == 3)", nil, true, "snp.current_mitigations = [0, 3]", ""},
		{"!snp.chip_id_masked", nil, true, "snp.chip_id_masked = false", ""},

		// A claim that is missing fails the rule, whatever stands beside it.
		{"3 in snp.current_mitigations", v4, false, "missing: snp.current_mitigations", "an expression does not hold where a claim that it names is missing"},
		{"snp.guest_svn >= 3 || snp.csp_id == 'x'", nil, false, "missing: snp.csp_id", "an expression does not hold where a claim that it names is missing"},
		{"!(snp.csp_id == 'x')", nil, false, "missing: snp.csp_id", "an expression does not hold where a claim that it names is missing"},
		{"snp.reported_tcb.fmc > 0", nil, false, "missing: snp.reported_tcb.fmc", "an expression does not hold where a claim that it names is missing"},

		// What cannot be evaluated does not hold.
		{"6 / snp.vmpl > 0", nil, false, "snp.vmpl = 0", "it cannot be evaluated: division by zero"},
		{"!(6 / snp.vmpl > 0)", nil, false, "snp.vmpl = 0", "it cannot be evaluated: division by zero"},
		{"snp.current_mitigations[70] == 1", nil, false, "snp.current_mitigations = [0, 3]", "it cannot be evaluated: index out of bounds: 70"},
		{"9223372036854775807 + snp.guest_svn > 0", nil, false, "snp.guest_svn = 4", "it cannot be evaluated: integer overflow"},
	} {
		t.Run(c.expr, func(t *testing.T) {
			var changes []func(*attest.SNP)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			b := parse(t, withExpr(t, `"`+c.expr+`"`))
			for _, d := range []policy.Decision{b.Evaluate(snpClaims(changes...), noon), b.Explain(snpClaims(changes...), noon)} {
				r := only(t, d, "ledger", "expr")
				want := policy.RuleResult{Rule: "expr", Op: "expr", Expected: c.expr, Got: c.got, Holds: c.holds, Hint: c.hint, Position: "p.yaml:15:5"}
				if r != want {
					t.Errorf("got  %+v\nwant %+v", r, want)
				}
				if (d.Outcome == policy.Granted) != c.holds {
					t.Errorf("%s: %s", d.Outcome, d.Detail)
				}
				if slices.Contains(d.Pinned(), "expr") {
					t.Error("an expression pins nothing")
				}
			}
		})
	}
}

func TestEachMistakeInAnExpressionHasItsPlace(t *testing.T) {
	long := func(n int) string { return strings.Repeat("snp.vmpl == 0 && ", n) + "snp.vmpl == 0" }
	for _, c := range []struct{ name, expr, want string }{
		{"empty", `""`, "15:12: the expression is empty"},
		{"blank", `" "`, "15:12: the expression is empty"},
		{"not text", "true", "15:11: want text, got true or false (true)"},
		{"a list", "[a]", "15:11: want text, got a list"},
		{"cut off", `"snp.vmpl >"`, "15:22: the expression is not valid: Syntax error: mismatched input the end"},
		{"a number", `"snp.vmpl"`, "15:12: the expression yields int, not true or false"},
		{"a misspelt claim", `"snp.vmpl == 0 && snp.guest_svm >= 3"`, `15:29: expressions know no "snp.guest_svm" here`},
		{"another platform's claim", `"nitro.debug"`, `15:12: expressions know no "nitro.debug" here`},
		{"a variable of nobody", `"x == 1"`, `15:12: expressions know no "x" here`},
		{"half a name", `"snp.policy == 1"`, `15:12: expressions know no "snp.policy" here`},
		{"types that cannot be equal", `"snp.vmpl == '0'"`, "15:21: the expression is not valid: found no matching overload for == applied to '(int, string)'"},
		{"unsigned numbers", `"snp.vmpl == 0u"`, "15:21: the expression is not valid: found no matching overload for == applied to '(int, uint)'"},
		{"text in order", `"snp.product < 'h'"`, "15:24: the expression is not valid: found no matching overload for < applied to '(string, string)'"},
		{"text joined", `"snp.product + '' == 'genoa'"`, "15:24: the expression is not valid: found no matching overload for + applied to '(string, string)'"},
		{"lists joined", `"snp.current_mitigations + [1] == [1]"`, "15:36: the expression is not valid: found no matching overload for + applied to '(list(int), list(int))'"},
		{"a clock", `"now() > 0"`, `15:12: expressions have no function "now"`},
		{"a time", `"timestamp('2027-01-01T00:00:00Z') == 1"`, `15:12: expressions have no function "timestamp"`},
		{"a conversion", `"int(snp.product) == 1"`, `15:12: expressions have no function "int"`},
		{"no type at all", `"dyn(snp.vmpl) == 1"`, `15:12: expressions have no function "dyn"`},
		{"a macro that is none here", `"has(snp.policy.debug)"`, `15:12: expressions have no function "has"`},
		{"a mixed list", `"snp.vmpl in [0, 'a']"`, "15:28: the expression is not valid: "},
		{"a regular expression out of a claim", `"snp.product.matches(snp.signing_key)"`, "15:35: a regular expression must be written in place"},
		{"a bad regular expression", `"snp.product.matches('(')"`, "15:32: the expression is not valid: "},
		{"a huge regular expression", `"snp.product.matches('(a{50}){50}')"`, "15:32: the expression is not valid: "},
		{"a digest cut short", `"snp.measurement == '41aa'"`, `15:31: snp.measurement is never "41aa"`},
		{"a digest in upper case", `"'` + strings.ToUpper(hexOf("image")) + `' != snp.measurement"`, "15:12: snp.measurement is never "},
		{"a digest in a list", `"snp.measurement in ['` + hexOf("image") + `', '41aa']"`, `15:132: snp.measurement is never "41aa"`},
		{"a word that is none", `"snp.product == 'genova'"`, `15:27: snp.product is never "genova"`},
		{"macros in macros", `"[1].all(a, [1].all(b, [1].all(c, a == snp.vmpl)))"`, "the expression is not valid: comprehension exceeds nesting limit"},
		{"too dear", `"snp.current_mitigations.all(a, snp.current_mitigations.all(b, a < b + 100))"`, "15:12: the expression may cost up to "},
		{"too long", `"` + long(300) + `"`, "15:12: the expression is too long: 5113 characters, at most 4096"},
		{"too deep", `"` + strings.Repeat("(", 100) + "snp.vmpl == 0" + strings.Repeat(")", 100) + `"`, "the expression is not valid: "},
		{"in a block", "|\n      snp.guest_svn >= 3 &&\n      snp.foo == 1", `17:7: expressions know no "snp.foo" here`},
		{"in a folded block", ">-\n      snp.guest_svn >= 3\n      && snp.foo == 1", `17:10: expressions know no "snp.foo" here`},
		{"behind an escape", `"snp.product != \"milan\" && snp.foo == 1"`, `15:40: expressions know no "snp.foo" here`},
		{"behind doubled quotes", `'snp.product != ''milan'' && snp.foo == 1'`, `15:40: expressions know no "snp.foo" here`},
		{"unquoted", `snp.vmpl == 0 && snp.foo == 1`, `15:28: expressions know no "snp.foo" here`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := policy.Parse("p.yaml", []byte(expand(withExpr(t, c.expr))))
			if err == nil {
				t.Fatal("accepted")
			}
			var errs strictyaml.Errors
			if !errors.As(err, &errs) || len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want) {
				t.Fatalf("want one error with %q, got:\n%s", c.want, render(err))
			}
			if e := errs[0]; strings.TrimSpace(e.Source) == "" {
				t.Error("the error shows no source")
			}
		})
	}
}

func TestTwoMistakesInAnExpressionAreToldAtOnce(t *testing.T) {
	_, err := policy.Parse("p.yaml", []byte(expand(withExpr(t, `"snp.foo == 1 && snp.bar == 2"`))))
	var errs strictyaml.Errors
	if !errors.As(err, &errs) || len(errs) != 2 || errs[0].Col != 12 || errs[1].Col != 28 {
		t.Errorf("got:\n%s", render(err))
	}
}

func TestTheExpressionsOfABundleAreBounded(t *testing.T) {
	long := strings.Repeat("nitro.debug || ", 260) + "N == N"
	src := many(600, "audit", "      pcr0: {eq: \"$N$\"}\n    expr: \""+long+"\"\n")
	_, err := policy.Parse("p.yaml", []byte(expand(src)))
	if err == nil || !strings.Contains(err.Error(), "the bundle's expressions have more than 2097152 bytes altogether") {
		t.Errorf("got %.300v", err)
	}
	same := strings.NewReplacer(sameNumbers(600)...).Replace(src)
	if _, err := policy.Parse("p.yaml", []byte(expand(same))); err != nil {
		t.Errorf("one shared expression: %.300v", err)
	}
}

// sameNumbers replaces "i == i" by "1 == 1".
func sameNumbers(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(" %d == %d\"", i, i), " 1 == 1\"")
	}
	return out
}

func TestAConstantExpressionIsAWarning(t *testing.T) {
	for expr, want := range map[string]string{
		"true":                             "always true",
		"1 + 1 == 3":                       "always false",
		"snp.guest_svn >= 3 || true":       "always true",
		"false && snp.guest_svn >= 3":      "always false",
		"snp.guest_svn >= 3 || 1 == 2":     "",
		"snp.guest_svn >= 3":               "",
		"[1, 2].all(x, x < 3)":             "always true",
		"snp.product in ['milan','genoa']": "",
	} {
		b := parse(t, withExpr(t, `"`+expr+`"`))
		var got []string
		for _, w := range b.Warnings() {
			if w.Code == string(policy.CodeConstantExpression) {
				got = append(got, w.Error())
			}
		}
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
}

func TestAnExpressionIsNoOwnershipPredicate(t *testing.T) {
	src := change(t, withExpr(t, `"snp.chip_id == '`+sized("chip", 64).String()+`'"`), "      chip_id: {in: chips}\n", "", "references:\n  chips: {dedicated: true, values: [\"$chip/64$\", \"$turin/8$\"]}\n", "")
	_, err := policy.Parse("p.yaml", []byte(expand(src)))
	if err == nil || !strings.Contains(err.Error(), "has no ownership predicate") {
		t.Errorf("got %v", err)
	}
}

func TestAnExpressionDoesNotTellWorkloadsApart(t *testing.T) {
	one := withExpr(t, `"snp.guest_svn >= 3"`)
	two := one + strings.NewReplacer("name: ledger", "name: legacy", "td}/ledger", "td}/legacy", ">= 3", "< 3").Replace(one[strings.Index(one, "  - name: ledger"):])
	b := parse(t, two)
	w := b.Warnings()
	if len(w) != 1 || w[0].Code != string(policy.CodeBothMatch) || !strings.Contains(w[0].Msg, `workloads "ledger" (line 8) and "legacy" can match the same amd-sev-snp evidence`) {
		t.Fatalf("got:\n%s", w.Render())
	}
	// It is for whoever wrote them to know; these two are never both true.
	for svn, want := range map[uint32]string{2: "legacy", 3: "ledger"} {
		if d := b.Evaluate(snpClaims(func(s *attest.SNP) { s.GuestSVN = svn }), noon); d.Workload != want {
			t.Errorf("svn %d: %s %s", svn, d.Reason, d.Workload)
		}
	}
	both := parse(t, strings.Replace(two, "< 3", "< 5", 1))
	if d := both.Evaluate(snpClaims(), noon); d.Reason != policy.ReasonAmbiguous || d.Outcome != policy.Refused {
		t.Errorf("where both are true: %s", d.Reason)
	}
}

func TestEveryClaimCanBeReadByExpressions(t *testing.T) {
	for _, p := range []attest.Platform{attest.AWSNitro, attest.AMDSEVSNP, attest.TPM2} {
		vars := policy.VariablesForTest(t, p)
		for _, claim := range policy.ClaimsForTest(p) {
			if !slices.ContainsFunc(vars, func(v string) bool {
				_, name, _ := strings.Cut(v, ".")
				return name == claim || strings.HasPrefix(name, claim+".")
			}) {
				t.Errorf("%s: expressions cannot read %s", p, claim)
			}
		}
	}
}

func TestANitroExpressionReadsRegisters(t *testing.T) {
	src := change(t, base, "    issue:", "    expr: \"nitro.pcr0 != nitro.pcr8 && !nitro.debug\"\n    issue:")
	if d := decide(t, src, nitroClaims(good), noon); d.Outcome != policy.Granted {
		t.Errorf("%s: %s", d.Reason, d.Detail)
	}
	if d := decide(t, src, nitroClaims(map[int]string{0: "42", 3: "role", 8: "42"}), noon); d.Detail != "nearest is workload payments: expr does not hold" {
		t.Errorf("%s: %s", d.Reason, d.Detail)
	}
}

func TestALongClaimNeverReachesAnExpression(t *testing.T) {
	src := change(t, withExpr(t, `"snp.csp_id != ''"`), "      chip_id: {in: chips}", "      signing_key: {eq: vlek}\n      chip_id: {in: chips}")
	vlek := func(n int) attest.Claims {
		return snpClaims(func(s *attest.SNP) { s.SigningKey, s.CSPID = "vlek", strings.Repeat("a", n) })
	}
	if d := decide(t, src, vlek(256), noon); d.Outcome != policy.Granted {
		t.Errorf("%s: %s", d.Reason, d.Detail)
	}
	if r := only(t, decide(t, src, vlek(257), noon), "ledger", "expr"); r.Holds || r.Got != "snp.csp_id has 257 characters or elements" {
		t.Errorf("%+v", r)
	}
}

func TestExpressionsAreSharedByGoroutines(t *testing.T) {
	b := parse(t, withExpr(t, `"snp.guest_svn >= 3 && snp.product.matches('^g')"`))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				svn := uint32(2 + i%2*2)
				d := b.Explain(snpClaims(func(s *attest.SNP) { s.GuestSVN = svn }), noon)
				if (d.Outcome == policy.Granted) != (svn == 4) {
					t.Errorf("svn %d: %s", svn, d.Outcome)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzExpression compiles any text as an expression of each platform, and
// evaluates what compiles: nothing panics, what it costs is bounded, and Evaluate
// and Explain agree.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		"snp.guest_svn >= 3 && !snp.platform.smt", "nitro.pcr0 == nitro.pcr1", "tpm.bank == 'sha256'", "true", "1/0 == 1", "[1,2].all(x, [x].exists(y, y > 1))",
		"snp.product.matches('^(a|b)*$')", "snp.current_mitigations[0] == 1 ? true : snp.vmpl == 0", "-9223372036854775808 / -1 > snp.vmpl", "'a' in ['a']", "snp.csp_id.contains('\\u00e9')", "((((", "a.b.c", "\"", "{1: 2}[1] == 2", "snp.policy.debug || !snp.policy.debug",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		for p, c := range map[attest.Platform]attest.Claims{attest.AMDSEVSNP: snpClaims(), attest.AWSNitro: nitroClaims(good)} {
			holds, errs := policy.ExpressionForTest(t, p, expr, c)
			if len(errs) > 0 {
				for _, e := range errs {
					if e.Offset < 0 || e.Offset > len([]rune(expr)) || e.Msg == "" {
						t.Errorf("%q: %+v", expr, e)
					}
				}
				continue
			}
			again, _ := policy.ExpressionForTest(t, p, expr, c)
			if holds != again {
				t.Errorf("%q: %t, then %t", expr, holds, again)
			}
		}
	})
}

// BenchmarkExpression is an expression beside the rules of one workload.
func BenchmarkExpression(b *testing.B) {
	for _, expr := range []string{"snp.guest_svn >= 3 && !snp.platform.smt", "snp.product.matches('^g')"} {
		b.Run(fmt.Sprintf("%.20s", expr), func(b *testing.B) {
			without, with, c := parse(b, snpBase), parse(b, withExpr(b, `"`+expr+`"`)), snpClaims()
			paired(b, "x-without", func() { without.Evaluate(c, noon) }, func() { with.Evaluate(c, noon) })
		})
	}
}
