package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

func TestSNPAmbiguityIsFoundBeforeProduction(t *testing.T) {
	const own = `, chip_id: {in: chips}`
	genoa, milan := `{genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}`, `{milan: {bl: 4, tee: 0, snp: 24, ucode: 219}}`
	for _, c := range []struct {
		name, a, b string
		exclude    bool
	}{
		{"nothing but the chip", `guest_svn: {gte: 1}`, `measurement: {eq: "$a$"}`, false},
		{"a floor and a value above", `guest_svn: {gte: 4}`, `guest_svn: {eq: 4}`, false},
		{"a floor and a value below", `guest_svn: {gte: 4}`, `guest_svn: {eq: 3}`, true},
		{"a floor and values on both sides", `guest_svn: {gte: 4}`, `guest_svn: {in: [3, 5]}`, false},
		{"a floor and values below", `guest_svn: {gte: 4}`, `guest_svn: {in: [1, 3]}`, true},
		{"two floors", `guest_svn: {gte: 4}`, `guest_svn: {gte: 9}`, false},
		{"two ceilings", `guest_svn: {lte: 4}`, `guest_svn: {lte: 9}`, false},
		{"ranges that touch", `guest_svn: {gte: 4}`, `guest_svn: {lte: 4}`, false},
		{"ranges that do not", `guest_svn: {gte: 5}`, `guest_svn: {lte: 4}`, true},
		{"numbers are no text", `guest_svn: {gte: 10}`, `guest_svn: {lte: 9}`, true},
		{"a floor of firmware", `current_firmware: {gte: "1.55.29"}`, `current_firmware: {in: ["1.9.200"]}`, true},
		{"a floor of firmware below", `current_firmware: {gte: "1.9.29"}`, `current_firmware: {in: ["1.55.2"]}`, false},
		{"floors of one product", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {gte: {genoa: {bl: 1, tee: 9, snp: 1, ucode: 1}}}`, false},
		{"floors of two products", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {gte: ` + milan + `}`, true},
		{"floors of two products, of two TCBs", `reported_tcb: {gte: ` + genoa + `}`, `current_tcb: {gte: ` + milan + `}`, true},
		{"a floor below a ceiling", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {lte: {genoa: {bl: 9, tee: 9, snp: 24, ucode: 72}}}`, false},
		{"a floor above a ceiling, in one component", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {lte: {genoa: {bl: 9, tee: 9, snp: 22, ucode: 99}}}`, true},
		{"a floor above a ceiling, in one of two products", `reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`, `reported_tcb: {lte: {genoa: {bl: 9, tee: 9, snp: 22, ucode: 99}, milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`, false},
		{"two ceilings of one product", `reported_tcb: {lte: ` + genoa + `}`, `reported_tcb: {lte: {genoa: {bl: 1, tee: 9, snp: 1, ucode: 1}}}`, false},
		{"ceilings of two products", `reported_tcb: {lte: ` + genoa + `}`, `reported_tcb: {lte: ` + milan + `}`, true},
		{"a ceiling and another product", `reported_tcb: {lte: ` + genoa + `}`, `product: {in: [milan, turin]}`, true},
		{"a floor and a ceiling of firmware", `current_firmware: {gte: "1.55.29"}`, `current_firmware: {lte: "1.55.28"}`, true},
		{"a floor and its product", `reported_tcb: {gte: ` + genoa + `}`, `product: {in: [milan, genoa]}`, false},
		{"a floor and another product", `reported_tcb: {gte: ` + genoa + `}`, `product: {in: [milan, turin]}`, true},
		{"bits that agree", `launch_mitigations: {bits: {set: [0], clear: [1]}}`, `launch_mitigations: {bits: {set: [2], clear: [1]}}`, false},
		{"bits that do not", `launch_mitigations: {bits: {set: [0]}}`, `launch_mitigations: {bits: {set: [1], clear: [0]}}`, true},
		{"bits of two vectors", `launch_mitigations: {bits: {set: [0]}}`, `current_mitigations: {bits: {clear: [0]}}`, false},
		{"bits and an old version", `launch_mitigations: {bits: {set: [0]}}`, `version: {lte: 4}`, true},
		{"bits and their version", `launch_mitigations: {bits: {set: [0]}}`, `version: {gte: 4}`, false},
		{"a provider and the chip's key", `csp_id: {eq: a}`, `signing_key: {eq: vcek}`, true},
		{"two providers", `csp_id: {eq: a}`, `csp_id: {eq: b}`, true},
		{"two levels", `vmpl: {eq: 1}`, `vmpl: {eq: 2}`, true},
		{"a level and the implicit one", `vmpl: {gte: 1}`, `guest_svn: {eq: 1}`, true},
		{"a level that admits the implicit one", `vmpl: {lte: 1}`, `guest_svn: {eq: 1}`, false},
		{"debug and the implicit rule", `policy.debug: {eq: true}`, `guest_svn: {eq: 1}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, order := range [][]string{{c.a + own, c.b + own}, {c.b + own, c.a + own}} {
				src := change(t, snpEnforce(order...), "workloads:", "references:\n  chips: {dedicated: true, values: [\"$chip/64$\"]}\nworkloads:")
				_, err := policy.Parse("p.yaml", []byte(expand(src)))
				if got := err == nil; got != c.exclude {
					t.Errorf("exclude each other: %t, want %t: %v", got, c.exclude, err)
				}
				if err != nil && !strings.Contains(err.Error(), `workloads "w0" (line 8) and "w1" can match the same amd-sev-snp evidence`) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// Lint must agree with evaluation: whatever it lets pass is never ambiguous, and
// over independent claims whatever it refuses is.
func TestLintAndEvaluationAgreeOnSNPAmbiguity(t *testing.T) {
	parts := [][]string{
		{"", `guest_svn: {gte: 2}`, `guest_svn: {lte: 1}`, `guest_svn: {in: [1, {value: 3, not_after: 2027-01-10T00:00:00Z}]}`},
		{"", `current_mitigations: {bits: {set: [0]}}`, `current_mitigations: {bits: {clear: [0], set: [1]}}`},
		{"", `reported_tcb: {gte: {genoa: {bl: 2, tee: 0, snp: 0, ucode: 0}}}`, `reported_tcb: {gte: {genoa: {bl: 0, tee: 0, snp: 2, ucode: 0}, milan: {bl: 1, tee: 0, snp: 0, ucode: 0}}}`, `reported_tcb: {lte: {genoa: {bl: 1, tee: 9, snp: 1, ucode: 99}}}`, `product: {eq: milan}`},
	}
	var matches []string
	for _, a := range parts[0] {
		for _, b := range parts[1] {
			for _, c := range parts[2] {
				matches = append(matches, strings.Join(slices.DeleteFunc([]string{a, b, c, "chip_id: {in: chips}"}, func(s string) bool { return s == "" }), ", "))
			}
		}
	}
	var world []attest.Claims
	for svn := range uint32(4) {
		for mask := range uint64(4) {
			for _, product := range []string{"milan", "genoa"} {
				for _, level := range []attest.TCB{{}, {Bootloader: 2, SNP: 1}, {Bootloader: 1, SNP: 2}, {Bootloader: 3, SNP: 3}} {
					world = append(world, snpClaims(func(s *attest.SNP) {
						s.GuestSVN, s.CurrentMitigations, s.Product, s.ReportedTCB = svn, u64(mask), product, level
					}))
				}
			}
		}
	}
	times := []time.Time{time.Date(2027, 1, 10, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 11, 0, 0, 0, 0, time.UTC)}
	refused, passed := 0, 0
	for i, a := range matches {
		for _, b := range matches[i:] {
			src := expand(change(t, snpEnforce(a, b), "workloads:", "references:\n  chips: {dedicated: true, values: [\"$chip/64$\"]}\nworkloads:"))
			bundle, err := policy.Parse("p.yaml", []byte(src))
			lint := err != nil
			if lint {
				bundle = policy.UncheckedForTest(t, src)
				refused++
			} else {
				passed++
			}
			if ambiguous := slices.ContainsFunc(world, func(c attest.Claims) bool {
				return slices.ContainsFunc(times, func(at time.Time) bool { return bundle.Evaluate(c, at).Reason == policy.ReasonAmbiguous })
			}); lint != ambiguous {
				t.Fatalf("lint says %t, evaluation %t, of\n%s\n%s", lint, ambiguous, a, b)
			}
		}
	}
	if refused < 100 || passed < 100 {
		t.Errorf("%d refused, %d passed: the cases are too much alike", refused, passed)
	}
}

// A set of thousands of numbers that thousands of workloads share, beside as many
// bounds: comparing each pair anew would take more time than a test may.
func TestManyBoundsBesideOneLargeSetCompile(t *testing.T) {
	var numbers, workloads strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&numbers, "%d, ", i)
	}
	for i := range 500 {
		rule := fmt.Sprintf("guest_svn: {in: svns}, family_id: {eq: %q}", sized(fmt.Sprint(i), 16))
		if i%2 == 1 {
			rule = fmt.Sprintf("guest_svn: {gte: %d}, image_id: {eq: %q}", 5000+i, sized(fmt.Sprint(i), 16))
		}
		fmt.Fprintf(&workloads, "  - {name: w%d, tee: amd-sev-snp, mode: audit, match: {%s}}\n", i, rule)
	}
	src := "version: 1\nbundle: b\nrevision: 1\ntrust_domain: a.example\nreferences: {svns: [" + numbers.String() + "]}\nworkloads:\n" + workloads.String()
	src = strings.ReplaceAll(src, "mode: audit", "mode: enforce, ownership: {none: a, owner: b, expires: 2027-06-30}, issue: [{spiffe_id: \"spiffe://{td}/a\"}]")
	start := time.Now()
	_, err := policy.Parse("p.yaml", []byte(src))
	took := time.Since(start)
	if err != nil {
		t.Errorf("the workloads exclude each other: %.300s", render(err))
	}
	t.Log(took)
}
