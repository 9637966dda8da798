package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// workloadsOf writes a bundle of workloads with the given match lines.
func workloadsOf(mode string, matches ...string) string {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: prod\nrevision: 1\ntrust_domain: simulated.example.org\nworkloads:\n")
	for i, m := range matches {
		fmt.Fprintf(&b, "  - {name: w%d, tee: aws-nitro, mode: %s, match: {%s}, issue: [{spiffe_id: \"spiffe://{td}/w%d\"}]}\n", i, mode, m, i)
	}
	return b.String()
}

func TestAmbiguityIsFoundBeforeProduction(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b string
		want string // "" = they exclude each other
	}{
		{"the same values", `pcr0: {eq: "$a$"}, pcr3: {eq: "$r$"}`, `pcr0: {eq: "$a$"}, pcr3: {eq: "$r$"}`, "common value of pcr0, pcr3"},
		{"one claim separates", `pcr0: {eq: "$a$"}, pcr3: {eq: "$r$"}`, `pcr0: {eq: "$b$"}, pcr3: {eq: "$r$"}`, ""},
		{"sets that intersect", `pcr0: {in: ["$a$", "$b$"]}, pcr3: {eq: "$r$"}`, `pcr0: {in: ["$b$", "$c$"]}, pcr3: {eq: "$r$"}`, "common value of pcr0, pcr3"},
		{"sets that do not", `pcr0: {in: ["$a$", "$b$"]}, pcr3: {eq: "$r$"}`, `pcr0: {in: ["$d$", "$c$"]}, pcr3: {eq: "$r$"}`, ""},
		{"nothing in common", `pcr3: {eq: "$r$"}, pcr0: {eq: "$a$"}`, `pcr4: {eq: "$i$"}, pcr1: {eq: "$k$"}`, "no claim in common"},
		{"one more claim does not separate", `pcr3: {eq: "$r$"}, pcr0: {eq: "$a$"}`, `pcr3: {eq: "$r$"}, pcr0: {eq: "$a$"}, pcr8: {eq: "$s$"}`, "common value of pcr3, pcr0"},
		{"debug separates", `pcr3: {eq: "$r$"}`, `pcr3: {eq: "$r$"}, debug: {eq: true}`, ""},
		{"debug named and implicit", `pcr3: {eq: "$r$"}`, `pcr3: {eq: "$r$"}, debug: {eq: false}`, "common value of pcr3, debug"},
		{"windows that do not meet", `pcr3: {in: [{value: "$r$", not_after: 2027-01-01T00:00:00Z}]}`, `pcr3: {in: [{value: "$r$", not_before: 2027-01-01T00:00:01Z}]}`, ""},
		{"windows that meet for a moment", `pcr3: {in: [{value: "$r$", not_after: 2027-01-01T00:00:00Z}]}`, `pcr3: {in: [{value: "$r$", not_before: 2027-01-01T00:00:00Z}]}`, "common value of pcr3"},
		{
			"each claim meets, at another time",
			`pcr3: {in: [{value: "$r$", not_after: 2027-01-01T00:00:00Z}]}, pcr0: {in: [{value: "$a$", not_before: 2028-01-01T00:00:00Z}]}`,
			`pcr3: {eq: "$r$"}, pcr0: {eq: "$a$"}`, "",
		},
		{
			"each claim has values, and one moment in common",
			`pcr3: {in: [{value: "$r$", not_after: 2027-01-01T00:00:00Z}, {value: "$s$", not_before: 2029-01-01T00:00:00Z}]}, pcr0: {in: [{value: "$a$", not_before: 2028-01-01T00:00:00Z}]}`,
			`pcr3: {in: ["$r$", "$s$"]}, pcr0: {eq: "$a$"}`, "common value of pcr3, pcr0",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, order := range [][]string{{c.a, c.b}, {c.b, c.a}} {
				_, err := policy.Parse("p.yaml", []byte(expand(workloadsOf("enforce", order...))))
				if c.want == "" {
					if err != nil {
						t.Errorf("they exclude each other:\n%s", render(err))
					}
					continue
				}
				var errs strictyaml.Errors
				if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Line != 7 || !strings.Contains(errs[0].Msg, `workloads "w0" (line 6) and "w1" can match the same aws-nitro evidence`) {
					t.Fatalf("got %v, want one error about w0 and w1", err)
				}
				if order[0] == c.a && !strings.Contains(errs[0].Msg, c.want) {
					t.Errorf("got %q, want %q in it", errs[0].Msg, c.want)
				}
			}
			if _, err := policy.Parse("p.yaml", []byte(strings.Replace(expand(workloadsOf("enforce", c.a, c.b)), "mode: enforce", "mode: audit", 1))); err != nil {
				t.Errorf("an audited workload is never ambiguous:\n%s", render(err))
			}
		})
	}
}

// The pairs are found through one claim; those that do not name it, before or
// after, are compared with all.
func TestAmbiguityIsFoundAmongMany(t *testing.T) {
	lines := []string{
		`pcr4: {eq: "$i$"}, pcr8: {eq: "$s0$"}`, // does not name pcr0: meets every other but the last
		`pcr3: {eq: "$r$"}, pcr0: {eq: "$a$"}, pcr8: {eq: "$s1$"}`,
		`pcr3: {eq: "$r$"}, pcr0: {in: ["$b$", "$c$"]}, pcr8: {eq: "$s2$"}`,
		`pcr3: {eq: "$r$"}, pcr0: {in: ["$c$", "$b$"]}, pcr8: {eq: "$s3$"}`,
		`pcr3: {eq: "$r$"}, pcr0: {in: ["$c$", "$d$"]}`,
		`pcr4: {eq: "$j$"}, pcr8: {eq: "$s4$"}`,
	}
	_, err := policy.Parse("p.yaml", []byte(expand(workloadsOf("enforce", lines...))))
	var errs strictyaml.Errors
	if !errors.As(err, &errs) {
		t.Fatal("accepted")
	}
	var got []string
	for _, e := range errs {
		var a, b string
		var line int
		if _, err := fmt.Sscanf(e.Msg, "workloads %q (line %d) and %q can", &a, &line, &b); err != nil {
			t.Fatalf("%s: %v", e.Msg, err)
		}
		got = append(got, a+b)
	}
	slices.Sort(got)
	// w0: pcr8 separates from w1, w2, w3; w4 has none. w4: shares c with w2, w3.
	if want := []string{"w0w4", "w2w4", "w3w4", "w4w5"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTheReportOfAmbiguitiesIsBounded(t *testing.T) {
	lines := make([]string, 300)
	for i := range lines {
		lines[i] = `pcr3: {eq: "$r$"}, pcr0: {eq: "$a$"}`
	}
	_, err := policy.Parse("p.yaml", []byte(expand(workloadsOf("enforce", lines...))))
	var errs strictyaml.Errors
	if !errors.As(err, &errs) || len(errs) != 20 {
		t.Errorf("%d errors, want 20", len(errs))
	}
}

// Lint must agree with evaluation: whatever it lets pass is never ambiguous at
// any of the moments at which something changes.
func TestLintAndEvaluationAgreeOnAmbiguity(t *testing.T) {
	values := []string{`{eq: "$a$"}`, `{eq: "$b$"}`, `{in: ["$a$", "$b$"]}`, `{in: [{value: "$a$", not_after: 2027-01-10T00:00:00Z}]}`, `{in: [{value: "$a$", not_before: 2027-01-20T00:00:00Z}, "$b$"]}`, ""}
	var matches []string
	for _, x := range values {
		for _, y := range values {
			var parts []string
			if x != "" {
				parts = append(parts, "pcr0: "+x)
			}
			if y != "" {
				parts = append(parts, "pcr3: "+y)
			}
			if y != "" { // an owner is needed
				matches = append(matches, strings.Join(parts, ", "))
			}
		}
	}
	times := []time.Time{time.Date(2027, 1, 5, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 10, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 15, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 20, 0, 0, 0, 0, time.UTC)}
	refused, passed := 0, 0
	for _, a := range matches {
		for _, b := range matches {
			src := expand(workloadsOf("enforce", a, b))
			bundle, err := policy.Parse("p.yaml", []byte(src))
			lint := err != nil
			if lint {
				bundle = policy.UncheckedForTest(t, src)
			}
			ambiguous := false
			for _, p0 := range []string{"a", "b", "c"} {
				for _, p3 := range []string{"a", "b", "c"} {
					for _, at := range times {
						if bundle.Evaluate(nitroClaims(map[int]string{0: p0, 3: p3}), at).Reason == policy.ReasonAmbiguous {
							ambiguous = true
						}
					}
				}
			}
			if lint != ambiguous {
				t.Fatalf("lint says %v, evaluation %v, of\n%s\n%s", lint, ambiguous, a, b)
			}
			if lint {
				refused++
			} else {
				passed++
			}
		}
	}
	if refused < 100 || passed < 100 {
		t.Errorf("%d refused, %d passed: the cases are too much alike", refused, passed)
	}
}
