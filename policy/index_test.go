package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// gamble makes random policies over few values, so that workloads share them,
// with every shape that the index must respect.
type gamble struct{ *rand.Rand }

func (g gamble) pick(of ...string) string { return of[g.IntN(len(of))] }

func (g gamble) chance(percent int) bool { return g.IntN(100) < percent }

func (g gamble) window() string {
	var out string
	if g.chance(30) {
		out += ", not_before: 2027-01-" + g.pick("10", "19", "20", "21") + "T12:00:00Z"
	}
	if g.chance(30) {
		out += ", not_after: 2027-01-" + g.pick("22", "23", "30") + "T12:00:00Z"
	}
	return out
}

// set is the operand of in: a few values in place, or a named set.
func (g gamble) set(values int) string {
	if g.chance(30) {
		return g.pick("few", "many", "some")
	}
	var out []string
	for _, i := range g.Perm(values)[:1+g.IntN(3)] {
		out = append(out, fmt.Sprintf(`{value: "%s"%s}`, hexOf(fmt.Sprint(i)), g.window()))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func (g gamble) test(values int) string {
	if g.chance(50) {
		return fmt.Sprintf(`{eq: "%s"}`, hexOf(fmt.Sprint(g.IntN(values))))
	}
	return "{in: " + g.set(values) + "}"
}

const gambled = 6 // values of each claim

func (g gamble) mode() string {
	return g.pick("enforce", "enforce", "audit", "{rollout: 50%}", "{rollout: 0%}", "{rollout: 100%}")
}

// bundle is a policy of n workloads.
func (g gamble) bundle(n int) string {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: gamble\nrevision: 1\ntrust_domain: simulated.example.org\nreferences:\n")
	for name, size := range map[string]int{"few": 2, "some": 4, "many": 12} {
		b.WriteString("  " + name + ":\n")
		for _, i := range g.Perm(12)[:size] {
			fmt.Fprintf(&b, "    - {value: %q%s}\n", hexOf(fmt.Sprint(i)), g.window())
		}
	}
	b.WriteString("workloads:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: w%d\n    mode: %s\n", i, g.mode())
		if g.chance(40) {
			b.WriteString("    ownership: {none: a, owner: b, expires: 2027-01-2" + g.pick("0", "1", "9") + "}\n")
		}
		switch {
		case g.chance(15):
			b.WriteString("    tee: tpm2\n    match:\n")
			fmt.Fprintf(&b, "      pcr7: {eq: \"%s\"}\n", sized(fmt.Sprint(g.IntN(gambled)), 32))
			if g.chance(50) {
				fmt.Fprintf(&b, "      boot.loaders: {every: [{value: \"%s\"%s}, {value: \"%s\"%s}]}\n", sized(fmt.Sprint(g.IntN(2)), 32), g.window(), sized(fmt.Sprint(2+g.IntN(2)), 32), g.window())
			}
			if g.chance(30) {
				b.WriteString("      boot.command_line: {regex: \"root=[0-9]+\"}\n")
			}
		case g.chance(75):
			b.WriteString("    tee: aws-nitro\n    match:\n")
			rules := 0
			for _, claim := range []string{"pcr0", "pcr3", "pcr8", "pcr31"} {
				if g.chance(50) {
					fmt.Fprintf(&b, "      %s: %s\n", claim, g.test(gambled))
					rules++
				}
			}
			if rules == 0 || g.chance(20) {
				fmt.Fprintf(&b, "      debug: {eq: %t}\n", g.chance(20))
			}
			if g.chance(25) {
				b.WriteString("    expr: " + g.pick(`"nitro.pcr0 != nitro.pcr3"`, `"nitro.debug || nitro.pcr8 != nitro.pcr3"`, `"true"`, `"false"`, `"nitro.pcr30 == nitro.pcr31"`) + "\n")
			}
		default:
			b.WriteString("    tee: amd-sev-snp\n    match:\n")
			fmt.Fprintf(&b, "      guest_svn: {%s: %d}\n", g.pick("gte", "lte", "eq"), g.IntN(6))
			if g.chance(50) {
				fmt.Fprintf(&b, "      vmpl: %s\n", g.pick("{eq: 0}", "{in: [0, 1]}", "{gte: 1}", "{lte: 2}"))
			}
			if g.chance(50) {
				fmt.Fprintf(&b, "      measurement: %s\n", g.test(gambled))
			}
			if g.chance(30) {
				fmt.Fprintf(&b, "      product: {eq: %s}\n", g.pick("milan", "genoa"))
				if g.chance(50) {
					b.WriteString("    waivers: [{rule: product, reason: a, owner: b, expires: 2027-01-2" + g.pick("0", "1", "9") + "}]\n")
				}
			}
		}
		fmt.Fprintf(&b, "    issue: [{spiffe_id: \"spiffe://{td}/w%d\"}]\n", i)
	}
	return b.String()
}

func (g gamble) claims() attest.Claims {
	value := func() string { return fmt.Sprint(g.IntN(gambled + 1)) }
	if g.chance(15) {
		return tpmClaims(func(t *attest.TPM) {
			t.PCRs[7] = sized(value(), 32)
			t.Boot = &attest.MeasuredBoot{CommandLine: g.pick("root=1", "root=x"), Loaders: []attest.Bytes{sized(g.pick("0", "1"), 32), sized(g.pick("0", "2", "3"), 32)}}
		})
	}
	if g.chance(25) {
		return snpClaims(func(s *attest.SNP) {
			s.GuestSVN, s.VMPL, s.Measurement = uint32(g.IntN(7)), uint32(g.IntN(4)), sum(value())
			s.Product = g.pick("milan", "genoa")
		})
	}
	pcrs := map[int]string{}
	for _, i := range []int{0, 3, 8, 30, 31} {
		if g.chance(90) {
			pcrs[i] = value()
		}
	}
	c := nitroClaims(pcrs)
	c.Nitro.Debug, c.Nitro.ModuleID = g.chance(10), value()
	return c
}

// What the index leaves out never matches: over random policies and claims
// Evaluate and Explain come to the same outcome, and Evaluate lists of Explain's
// workloads what it lists unchanged.
func TestTheIndexChangesNoOutcome(t *testing.T) {
	g := gamble{rand.New(rand.NewPCG(7, 11))} // reproducible on purpose
	reasons := map[string]int{}
	omitted := 0
	for i := range 120 {
		src := g.bundle(1 + g.IntN(1+i))
		b, err := policy.Parse("p.yaml", []byte(src))
		if err != nil {
			b = policy.UncheckedForTest(t, src)
		}
		knows := g.chance(80)
		if knows {
			b = withSecret(t, b)
		}
		for range 20 {
			c, at := g.claims(), noon.Add(time.Duration(g.IntN(200)-100)*time.Hour)
			bounded, all := b.Evaluate(c, at), b.Explain(c, at)
			reasons[all.Reason]++
			reasons[all.Reason+" "+string(c.Platform)]++
			omitted += bounded.Omitted
			if len(bounded.Workloads) > policy.MaxExplained || len(bounded.Workloads)+bounded.Omitted != len(all.Workloads) || all.Omitted != 0 {
				t.Fatalf("listed %d, omitted %d, of %d", len(bounded.Workloads), bounded.Omitted, len(all.Workloads))
			}
			of := map[string]policy.WorkloadResult{}
			matching, granting := 0, 0
			for _, w := range all.Workloads {
				of[w.Name] = w
				if w.Matched {
					matching++
					if w.Mode != policy.Audit {
						granting++
					}
				}
			}
			// The outcome is found without words, and the words must bear it out.
			if got := all.Outcome == policy.Granted; knows && got != (granting == 1) || got && granting != 1 {
				t.Fatalf("%s: %s, with %d workloads that match and may grant\n%s", all.Outcome, all.Reason, granting, src)
			}
			if all.Reason == policy.ReasonAuditOnly && (matching == 0 || granting > 0) || all.Reason == policy.ReasonNoMatch && matching > 0 {
				t.Fatalf("%s, with %d workloads that match, %d that may grant", all.Reason, matching, granting)
			}
			var listed []policy.WorkloadResult
			for _, w := range bounded.Workloads {
				listed = append(listed, of[w.Name])
				if w.Matched {
					matching--
				}
			}
			if d := cmp.Diff(listed, bounded.Workloads); d != "" && len(listed) > 0 {
				t.Fatalf("the workloads differ (-explained +evaluated):\n%s", d)
			}
			if matching > 0 && len(bounded.Workloads) < policy.MaxExplained {
				t.Fatalf("%d workloads that match are not listed", matching)
			}
			if all.Reason == policy.ReasonNoMatch {
				all.Detail, bounded.Detail = "", "" // names the nearest of those it lists
			}
			all.Workloads, bounded.Workloads, bounded.Omitted = nil, nil, 0
			if d := cmp.Diff(all, bounded); d != "" {
				t.Fatalf("the decisions differ (-explained +evaluated):\n%s\n%s", d, src)
			}
		}
	}
	for _, r := range []string{policy.ReasonGranted, policy.ReasonNoMatch, policy.ReasonAmbiguous, policy.ReasonAuditOnly, policy.ReasonNotInRollout, policy.ReasonUndecided} {
		if reasons[r] < 10 {
			t.Errorf("only %d decisions end in %s: the test shows little of it", reasons[r], r)
		}
	}
	for _, p := range []attest.Platform{attest.AWSNitro, attest.AMDSEVSNP, attest.TPM2} {
		if n := reasons[policy.ReasonGranted+" "+string(p)]; n < 5 {
			t.Errorf("only %d grants for %s", n, p)
		}
	}
	if omitted == 0 {
		t.Error("nothing was ever omitted")
	}
}

// many is n workloads that differ in their image, each with the rules given.
func many(n int, mode, rules string) string {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: many\nrevision: 1\ntrust_domain: simulated.example.org\nreferences:\n  images: [\"$0$\", \"$1$\", \"$2$\"]\n  roles: [\"$role$\", \"$other$\"]\nworkloads:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: %s\n    match:\n%s    issue: [{spiffe_id: \"spiffe://{td}/w%d\"}]\n", i, mode, strings.ReplaceAll(rules, "N", fmt.Sprint(i)), i)
	}
	return b.String()
}

func listed(d policy.Decision) string {
	var out []string
	for _, w := range d.Workloads {
		out = append(out, w.Name)
	}
	return strings.Join(out, " ")
}

func TestAGrantListsTheWorkloadsBesideIt(t *testing.T) {
	b := parse(t, many(100, "enforce", "      pcr0: {eq: \"$N$\"}\n      pcr3: {eq: \"$role$\"}\n"))
	d := b.Evaluate(nitroClaims(map[int]string{0: "42", 3: "role"}), noon)
	if d.Workload != "w42" || listed(d) != "w42" || d.Omitted != 99 {
		t.Errorf("%s %s, omitted %d", d.Reason, listed(d), d.Omitted)
	}
}

func TestADenialListsWhatComesNear(t *testing.T) {
	b := parse(t, many(100, "enforce", "      pcr0: {eq: \"$N$\"}\n      pcr3: {eq: \"$roleN$\"}\n"))
	// The image is w42's, the role w77's: both come nearer than any other.
	d := b.Evaluate(nitroClaims(map[int]string{0: "42", 3: "role77"}), noon)
	if names := strings.Fields(listed(d)); !slices.Contains(names, "w42") || !slices.Contains(names, "w77") || len(names)+d.Omitted != 100 || len(names) > policy.MaxExplained {
		t.Errorf("%s, omitted %d", listed(d), d.Omitted)
	}
	if d.Detail != "nearest is workload w42: pcr3 does not hold" || d.Detail != b.Explain(nitroClaims(map[int]string{0: "42", 3: "role77"}), noon).Detail {
		t.Errorf("%s", d.Detail)
	}
	// With nothing in common the first of the file stand for the others.
	d = b.Evaluate(nitroClaims(map[int]string{0: "x", 3: "x"}), noon)
	if !strings.HasPrefix(listed(d), "w0 w1 w2 ") || d.Omitted != 100-len(d.Workloads) {
		t.Errorf("%s, omitted %d", listed(d), d.Omitted)
	}
	// A small bundle omits nothing.
	if d := parse(t, base).Evaluate(nitroClaims(nil), noon); d.Omitted != 0 || len(d.Workloads) != 1 {
		t.Errorf("omitted %d", d.Omitted)
	}
}

func TestWorkloadsBeyondCountAreStillDecidedAbout(t *testing.T) {
	src := expand(many(100, "enforce", "      pcr0: {eq: \"$0$\"}\n      pcr3: {in: roles}\n"))
	b := policy.UncheckedForTest(t, src)
	d := b.Evaluate(nitroClaims(map[int]string{0: "0", 3: "role"}), noon)
	if d.Reason != policy.ReasonAmbiguous || len(d.Workloads) != policy.MaxExplained || d.Omitted != 100-policy.MaxExplained || !strings.HasSuffix(d.Detail, "w31, and 68 more") {
		t.Errorf("%s: %s, omitted %d", d.Reason, d.Detail, d.Omitted)
	}
	// The one that grants is listed, wherever it stands.
	audited := strings.Replace(strings.ReplaceAll(src, "mode: enforce", "mode: audit"), "name: w99\n    tee: aws-nitro\n    mode: audit", "name: w99\n    tee: aws-nitro\n    mode: enforce", 1)
	ok, err := policy.Parse("p.yaml", []byte(audited))
	if err != nil {
		t.Fatal(render(err))
	}
	d = ok.Evaluate(nitroClaims(map[int]string{0: "0", 3: "role"}), noon)
	if d.Workload != "w99" || len(d.Workloads) != policy.MaxExplained || d.Workloads[policy.MaxExplained-1].Name != "w99" || len(d.Pinned()) != 2 {
		t.Errorf("%s %s: %s", d.Reason, d.Workload, listed(d))
	}
}

func TestAValueOutsideItsWindowStillFindsItsWorkload(t *testing.T) {
	b := parse(t, many(100, "enforce", "      pcr0: {in: [{value: \"$N$\", not_after: 2027-01-01T00:00:00Z}]}\n      pcr3: {eq: \"$roleN$\"}\n"))
	d := b.Evaluate(nitroClaims(map[int]string{0: "42", 3: "role42"}), noon)
	if r := only(t, d, "w42", "pcr0"); d.Reason != policy.ReasonNoMatch || !strings.Contains(r.Got, "no longer valid") || d.Detail != "nearest is workload w42: pcr0 does not hold" {
		t.Errorf("%s: %s: %+v", d.Reason, d.Detail, r)
	}
}

func TestTenThousandWorkloadsAreToldApartInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles large bundles")
	}
	for _, c := range []struct{ name, even, odd string }{
		{"by image", `pcr0: {eq: "$iN$"}`, `pcr0: {eq: "$iN$"}`},
		{"by image or signer, under two roles", `pcr0: {eq: "$iN$"}` + "\n      pcr3: {eq: \"$a$\"}", `pcr8: {eq: "$sN$"}` + "\n      pcr3: {eq: \"$b$\"}"},
		{"by image and role together", `pcr0: {eq: "$iX$"}` + "\n      pcr3: {eq: \"$rY$\"}", `pcr0: {eq: "$iX$"}` + "\n      pcr3: {eq: \"$rY$\"}"},
		{"by image, in one large set of roles", `pcr0: {eq: "$iN$"}` + "\n      pcr3: {in: roles}", `pcr0: {eq: "$iN$"}` + "\n      pcr3: {in: roles}"},
		{"by several images each", `pcr0: {in: ["$iN$", "$jN$", "$kN$"]}`, `pcr0: {in: ["$iN$", "$jN$", "$kN$"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 10_000
			var b strings.Builder
			b.WriteString("version: 1\nbundle: many\nrevision: 1\ntrust_domain: simulated.example.org\nreferences:\n  roles:\n")
			for i := range 500 {
				fmt.Fprintf(&b, "    - \"%s\"\n", hexOf(fmt.Sprint("role", i)))
			}
			b.WriteString("workloads:\n")
			for i := range n {
				rules := c.even
				if i%2 == 1 {
					rules = c.odd
				}
				rules = strings.NewReplacer("N", fmt.Sprint(i), "X", fmt.Sprint(i/100), "Y", fmt.Sprint(i%100)).Replace(rules)
				fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: enforce\n    ownership: {none: a, owner: b, expires: 2028-01-01}\n    match:\n      %s\n    issue: [{spiffe_id: \"spiffe://{td}/w%d\"}]\n", i, rules, i)
			}
			src := expand(b.String())
			if strings.Contains(c.even, "pcr3") {
				src = strings.ReplaceAll(src, "    ownership: {none: a, owner: b, expires: 2028-01-01}\n", "")
			}
			began := time.Now()
			if _, err := policy.ParseLimitForTest("p.yaml", []byte(src), 32<<20); err != nil {
				t.Fatal(render(err))
			}
			t.Logf("%d bytes in %s", len(src), time.Since(began).Round(time.Millisecond))
		})
	}
}

// What cannot be told apart costs bounded work, and is refused rather than let
// pass: here all 3,000 workloads have everything in common but an expression.
func TestWorkloadsThatCannotBeToldApartCostBoundedWork(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a large bundle")
	}
	src := expand(many(3000, "enforce", "      pcr0: {in: images}\n      pcr3: {in: roles}\n    expr: \"nitro.pcr8.size() > N\"\n"))
	_, err := policy.Parse("p.yaml", []byte(src))
	if err == nil || !strings.Contains(err.Error(), "that no two can match the same evidence cannot be shown") {
		t.Errorf("got %.300v", err)
	}
}

func TestAGrantHoldsTheBoundedDecision(t *testing.T) {
	l := newLab(t)
	b := parse(t, many(100, "enforce", "      pcr0: {eq: \"$N$\"}\n      pcr3: {eq: \"$role$\"}\n"))
	g, err := b.Authorize(l.verify(t, attestation{pcrs: map[int]string{0: "42", 3: "role"}}), noon)
	if err != nil {
		t.Fatal(err)
	}
	if d := g.Decision(); listed(d) != "w42" || d.Omitted != 99 {
		t.Errorf("%s, omitted %d", listed(d), d.Omitted)
	}
	_, err = b.Authorize(l.verify(t, attestation{pcrs: map[int]string{0: "42", 3: "nobody"}}), noon)
	if d := denied(t, err); len(d.Workloads) > policy.MaxExplained || len(d.Workloads)+d.Omitted != 100 || d.Detail != "nearest is workload w42: pcr3 does not hold" {
		t.Errorf("%s, omitted %d: %s", listed(d), d.Omitted, d.Detail)
	}
}

func TestAWorkloadWithoutAnyFiniteRuleIsAlwaysLookedAt(t *testing.T) {
	src := change(t, snpBase, `      measurement: {eq: "$image$"}`+"\n", "", "      chip_id: {in: chips}\n", "", "    match:\n", "    ownership: {none: a, owner: b, expires: 2028-01-01}\n    match:\n",
		"references:\n  chips: {dedicated: true, values: [\"$chip/64$\", \"$turin/8$\"]}\n", "")
	b := policy.OpenRulesForTest(parse(t, src))
	if d := b.Evaluate(snpClaims(), noon); d.Workload != "ledger" || len(d.Workloads[0].Rules) != 2 {
		t.Errorf("%s: %s", d.Reason, d.Detail)
	}
}

// Dividing workloads by their values finds every pair that overlaps, once, and no
// other.
func TestDividingWorkloadsFindsWhatComparingAllFinds(t *testing.T) {
	g := gamble{rand.New(rand.NewPCG(3, 5))} // reproducible on purpose
	found, missed := 0, 0
	for range 40 {
		n := 30 + g.IntN(100)
		var b strings.Builder
		b.WriteString("version: 1\nbundle: b\nrevision: 1\ntrust_domain: simulated.example.org\nreferences:\n")
		for _, name := range []string{"few", "some", "many"} {
			b.WriteString("  " + name + ":\n")
			for _, i := range g.Perm(40)[:2+g.IntN(5)] {
				fmt.Fprintf(&b, "    - {value: %q%s}\n", hexOf(fmt.Sprint(i)), g.window())
			}
		}
		b.WriteString("workloads:\n")
		for i := range n {
			fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: enforce\n    ownership: {none: a, owner: b, expires: 2028-01-01}\n    match:\n      pcr30: {eq: \"%s\"}\n", i, hexOf(g.pick("x", "y")))
			for _, claim := range []string{"pcr0", "pcr1", "pcr8"} {
				if g.chance(70) {
					fmt.Fprintf(&b, "      %s: %s\n", claim, g.test(40))
				}
			}
			fmt.Fprintf(&b, "    issue: [{spiffe_id: \"spiffe://{td}/w%d\"}]\n", i)
		}
		divided, all := policy.OverlapsForTest(t, b.String())
		if d := cmp.Diff(all, divided); d != "" {
			t.Fatalf("of %d workloads (-all +divided):\n%s", n, d)
		}
		found, missed = found+len(all), missed+n*(n-1)/2-len(all)
	}
	if found < 1000 || missed < 1000 {
		t.Errorf("%d pairs overlap, %d do not: the test shows little", found, missed)
	}
}
