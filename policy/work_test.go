package policy_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

// shapes are files that would be expensive to a compiler with a loop in a loop,
// by the size that they are to have in bytes.
func shapes(size int) map[string]string {
	repeat := func(unit func(i int) string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			b.WriteString(unit(i))
		}
		return b.String()
	}
	hex := func(i int) string { return fmt.Sprintf("%096x", i+1) }
	head := "{version: 1, bundle: b, revision: 1, trust_domain: a.example, "
	line := func(note string) string {
		return head + "references: {r: [" + repeat(func(i int) string {
			return fmt.Sprintf("{value: %q, not_before: %d-01-01T00:00:00Z, not_after: %d-01-02T00:00:00Z, note: %q}, ", hex(i), i%7000+2000, i%7000+2000, note)
		}) + "]}, workloads: [" + repeat(func(i int) string {
			return fmt.Sprintf("{name: w%d, tee: aws-nitro, mode: audit, silence: [unreachable, no-effect], match: {pcr0: {in: r}, pcr3: {eq: %q}}}, ", i, hex(i))
		}) + "]}"
	}
	one := func(rest string) string {
		return head + "workloads: [{name: a, tee: aws-nitro, mode: audit, match: {debug: {eq: false}}, " + rest + "}]}"
	}
	each := func(format string) string {
		return head + "workloads: [" + repeat(func(i int) string {
			return strings.ReplaceAll(strings.ReplaceAll(format, "HEX", hex(i)), "N", fmt.Sprint(i))
		}) + "]}"
	}
	return map[string]string{
		"one line":            line("a"),
		"one line, not ASCII": line("é"),
		"unknown sets": head + "references: {" + repeat(func(i int) string { return fmt.Sprintf("set-%d: [a], ", i) }) + "}, workloads: [" + repeat(func(i int) string {
			return fmt.Sprintf("{name: w%d, tee: aws-nitro, mode: audit, match: {pcr0: {in: sat-%d}}}, ", i, i)
		}) + "]}",
		"audiences":  one("issue: [{spiffe_id: \"spiffe://{td}/a\", jwt: {audiences: [" + repeat(func(i int) string { return fmt.Sprintf("a%d, ", i) }) + "]}}]"),
		"identities": one("issue: [" + repeat(func(i int) string { return fmt.Sprintf("{spiffe_id: \"spiffe://{td}/a%d\"}, ", i) }) + "]"),
		"attributes": one("issue: [{spiffe_id: \"spiffe://{td}/{attributes.none}\", attributes: {" + repeat(func(i int) string { return fmt.Sprintf("a%d: b, ", i) }) + "}}]"),
		"groups":     one("issue: [{spiffe_id: \"spiffe://{td}/a\", selectors: {unix: {supplementary_gids: [" + repeat(func(i int) string { return fmt.Sprintf("%d, ", i) }) + "]}}}]"),
		"publish":    one("publish: [" + repeat(func(int) string { return "pcr0, " }) + "]"),
		"silence":    one("silence: [" + repeat(func(i int) string { return []string{"no-image, ", "unreachable, ", "nothing, "}[i%3] }) + "]"),
		"waivers":    one("waivers: [" + repeat(func(int) string { return "{rule: nothing, reason: a, owner: b, expires: 2027-01-01}, " }) + "]"),
		"claims":     head + "workloads: [{name: a, tee: aws-nitro, mode: audit, match: {" + repeat(func(i int) string { return fmt.Sprintf("pcr%d: {eq: a}, ", i) }) + "}}]}",
		"each separated twice": head + "workloads: [" + repeat(func(i int) string {
			a, b := []string{"pcr0", "pcr3", "pcr4"}[i%3], []string{"pcr3", "pcr4", "pcr0"}[i%3]
			return fmt.Sprintf("{name: w%d, tee: aws-nitro, mode: enforce, match: {%s: {eq: %q}, %s: {eq: %q}}, issue: [{spiffe_id: \"spiffe://{td}/a\"}]}, ", i, a, hex(i), b, hex(i))
		}) + "]}",
		"the same audited":     each(`{name: wN, tee: aws-nitro, mode: audit, match: {pcr0: {eq: "` + hex(1) + `"}}}, `),
		"a value in every":     each(`{name: wN, tee: aws-nitro, mode: audit, match: {pcr0: {in: [{value: "HEX", not_after: 2027-01-01T00:00:00Z}]}}}, `),
		"unknown TEEs":         each(`{name: wN, tee: aws-nitroN, mode: auditN, match: {pcr0: {eq: "HEX"}}}, `),
		"unknown keys":         each(`{name: wN, keyN: x, tee: aws-nitro, mode: audit, match: {pcrN: {eqN: "HEX"}}}, `),
		"one name":             each(`{name: w, tee: aws-nitro, mode: audit, match: {pcr0: {eq: "HEX"}}}, `),
		"regular expressions":  each(`{name: wN, tee: amd-sev-snp, mode: audit, match: {csp_id: {regex: 'aN[a-z]{0,20}'}}}, `),
		"waived rules":         each(`{name: wN, tee: amd-sev-snp, mode: audit, match: {measurement: {eq: "HEX"}, guest_svn: {gte: 1}}, waivers: [{rule: guest_svn, when: {vmpl: {eq: 1}}, reason: a, owner: b, expires: 2027-01-01}]}, `),
		"parts that half meet": head + halfMeeting(func(next func(i int) string) string { return repeat(next) }),
		"templates":            each(`{name: wN, tee: aws-nitro, mode: audit, match: {pcr0: {eq: "HEX"}, pcr1: {eq: "HEX"}}, issue: [{spiffe_id: "spiffe://{td}/{pcr0:16}/{workload}"}, {spiffe_id: "spiffe://{td}/{pcr1:16}/{workload}"}]}, `),
	}
}

// halfMeeting are workloads of which each 25 share an image list of two: one image of
// their own, and one that half of all the others list too. What keeps them apart is a
// long list of numbers, for each another.
func halfMeeting(repeat func(next func(i int) string) string) string {
	var sets strings.Builder
	made := 0
	ws := repeat(func(i int) string {
		if part := i / 25; part == made {
			made++
			fmt.Fprintf(&sets, "p%d: [%q, %q], ", part, fmt.Sprintf("%096x", part+16), fmt.Sprintf("%096x", part%2+1))
		}
		numbers := make([]string, 70)
		for n := range numbers {
			numbers[n] = fmt.Sprint(i*70 + n)
		}
		return fmt.Sprintf("{name: w%d, tee: amd-sev-snp, mode: enforce, ownership: {none: a, owner: b, expires: 2027-01-01}, match: {measurement: {in: p%d}, guest_svn: {in: [%s]}}, issue: [{spiffe_id: \"spiffe://{td}/a\"}]}, ", i, i/25, strings.Join(numbers, ", "))
	})
	return "references: {" + sets.String() + "}, workloads: [" + ws + "]}"
}

// Dividing workloads by their claims is work too: it counts, and what cannot be
// shown with a bounded amount of it is an error.
func TestTheWorkOfTellingWorkloadsApartIsBounded(t *testing.T) {
	const n = 1000
	src := "{version: 1, bundle: b, revision: 1, trust_domain: a.example, " + halfMeeting(func(next func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(next(i))
		}
		return b.String()
	})
	whole, err := policy.ParseEffortForTest([]byte(src), 1<<25)
	if err != nil {
		t.Fatal(render(err))
	}
	if whole < 70*n || whole > 1<<20 {
		t.Errorf("%d workloads take an effort of %d", n, whole)
	}
	spent, err := policy.ParseEffortForTest([]byte(src), whole/4)
	if err == nil || !strings.Contains(err.Error(), "that no two can match the same evidence cannot be shown") {
		t.Errorf("with a quarter of the effort: %v", err)
	}
	if spent > whole {
		t.Errorf("the bound is %d, and %d were spent", whole/4, spent)
	}
}

// effort is the work of compiling a file, by what it allocates and by the steps
// of its loops.
func effort(src string) (allocated, steps float64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := policy.WorkForTest([]byte(src))
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc - before.TotalAlloc), float64(n)
}

// The work of compiling a file grows with its size, and not with the square of
// it: four times the file is four times the work, give or take.
func TestTheWorkOfCompilingGrowsWithTheFile(t *testing.T) {
	const size = 1 << 16
	small, large := shapes(size), shapes(4*size)
	for name := range small {
		growth := float64(len(large[name])) / float64(len(small[name]))
		a, s := effort(small[name])
		b, u := effort(large[name])
		t.Logf("%-21s %.1f times the bytes, %.1f times the memory, %.1f times the steps (%.0f)", name, growth, b/a, u/max(s, 1), u)
		if b > 1.6*growth*a || u > 1.6*growth*max(s, 1000) {
			t.Errorf("%s: %.1f times the file takes %.1f times the memory and %.1f times the steps", name, growth, b/a, u/s)
		}
	}
}

// An alias would let a file of a few lines be a large one.
func TestAliasesAreNotExpanded(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := range 30 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), ", "))
	}
	allocated, _ := effort(b.String())
	if allocated > 4<<20 {
		t.Errorf("%d bytes of file take %.0f bytes of memory", b.Len(), allocated)
	}
	_, err := policy.Parse("p.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "anchors are not accepted") || !strings.Contains(err.Error(), "aliases are not accepted") {
		t.Errorf("got %.300v", err)
	}
}
