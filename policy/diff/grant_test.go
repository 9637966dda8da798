package diff_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/diff"
)

// What is granted differently to claims that both admit is a change, and nothing
// else.
func TestChangesInWhatIsGrantedAreFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		change []string
		what   string
	}{
		{"another identity", []string{"spiffe://{td}/batch", "spiffe://{td}/batches"}, "also grants spiffe://example.org/batches\nno longer grants spiffe://example.org/batch"},
		{"one more", []string{`[{spiffe_id: "spiffe://{td}/batch"}]`, `[{spiffe_id: "spiffe://{td}/batch"}, {spiffe_id: "spiffe://{td}/more"}]`}, "also grants spiffe://example.org/more"},
		{"in another order", []string{`[{spiffe_id: "spiffe://{td}/batch"}]`, `[{spiffe_id: "spiffe://{td}/more"}, {spiffe_id: "spiffe://{td}/batch"}]`}, "also grants spiffe://example.org/more"},
		{"places exchanged", []string{"PLACES", ""}, "the identities have another order: "},
		{"a lifetime", []string{"x509_ttl: 1h", "x509_ttl: 2h"}, "spiffe://example.org/payments/api: x509_ttl 2h0m0s, was 1h0m0s"},
		{"audiences", []string{"audiences: [a, b]", "audiences: [a, b, c]"}, "spiffe://example.org/payments/api: jwt for a, b, c, 5m0s, was for a, b, 5m0s"},
		{"AWS tags", []string{"audiences: [a, b]", "audiences: [a, b], aws_tags: [team]"}, "spiffe://example.org/payments/api: jwt for a, b, 5m0s, AWS tags team, was for a, b, 5m0s"},
		{"no JWT", []string{"        jwt: {ttl: 5m, audiences: [a, b]}\n", ""}, "spiffe://example.org/payments/api: jwt none, was for a, b, 5m0s"},
		{"an attribute", []string{"tier: gold", "tier: silver"}, `spiffe://example.org/payments/api: attributes team="pay", tier="silver", was team="pay", tier="gold"`},
		{"selectors", []string{"        attributes:", "        selectors: {unix: {uid: 7}}\n        attributes:", "  - name: payments\n", "  - name: payments\n    silence: [evidence-oracle]\n"}, "spiffe://example.org/payments/api: selectors unix:uid=7, was none"},
		{"keys on a disk", []string{"        attributes:", "        key_residency: file\n        attributes:"}, "spiffe://example.org/payments/api: key_residency file, was memory"},
		{"a hint", []string{"        attributes:", "        hint: internal\n        attributes:"}, "spiffe://example.org/payments/api: hint internal, was none"},
		{"an age", []string{"    expr: \"nitro.pcr1 != nitro.pcr2\"\n", "    expr: \"nitro.pcr1 != nitro.pcr2\"\n    max_evidence_age: 10m\n"}, "spiffe://example.org/payments/api: max_evidence_age 10m0s, was 1h0m0s"},
		{"what is published", []string{"    expr: \"nitro.pcr1 != nitro.pcr2\"\n", "    expr: \"nitro.pcr1 != nitro.pcr2\"\n    publish: [pcr0]\n"}, "publish: pcr0, was pcr0, pcr1, pcr2, pcr8"},
		{"a template that says otherwise", []string{"{pcr0:16}", "{pcr0:17}"}, "also grants spiffe://example.org/payments/{pcr0:17}\nno longer grants spiffe://example.org/payments/{pcr0:16}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change[0] == "PLACES" { // the digest's identity first
				digest := "      - spiffe_id: \"spiffe://{td}/payments/{pcr0:16}\"\n"
				c.change = []string{digest, "", "    issue:\n      - spiffe_id: \"spiffe://{td}/payments/api\"", "    issue:\n" + digest + "      - spiffe_id: \"spiffe://{td}/payments/api\""}
			}
			r := compare(t, nitroBase, change(t, nitroBase, c.change...))
			if len(r.Widenings)+len(r.Narrowings)+len(r.Undecided) > 0 {
				t.Errorf("widenings %+v, narrowings %+v, undecided %+v", r.Widenings, r.Narrowings, r.Undecided)
			}
			if len(r.Changes) != 1 || !strings.HasPrefix(strings.Join(r.Changes[0].What, "\n"), c.what) {
				t.Errorf("%+v, want %s", r.Changes, c.what)
			}
		})
	}
}

func TestALongerWindowIsAWideningThenAndAChangeBefore(t *testing.T) {
	r := compare(t, nitroBase, change(t, nitroBase, "not_after: 2027-01-31T00:00:00Z", "not_after: 2027-02-28T00:00:00Z"))
	end := time.Date(2027, 1, 31, 0, 0, 0, 1, time.UTC)
	until := time.Date(2027, 2, 28, 0, 0, 0, 1, time.UTC)
	if len(r.Widenings) != 1 || !r.Widenings[0].From.Equal(end) || r.Widenings[0].Until == nil || !r.Widenings[0].Until.Equal(until) || len(r.Narrowings)+len(r.Undecided) > 0 {
		t.Errorf("widenings %+v", r.Widenings)
	}
	if len(r.Changes) != 1 || !slices.Equal(r.Changes[0].What, []string{"valid until 2027-02-28T00:00:00Z, was 2027-01-31T00:00:00Z"}) || r.Changes[0].Until == nil || !r.Changes[0].Until.Equal(end) {
		t.Errorf("changes %+v", r.Changes)
	}
}

// A change that ends and comes again is two: between them nobody is concerned.
func TestAChangeThatComesAgainIsNamedAgain(t *testing.T) {
	src := `version: 1
bundle: prod
revision: 1
trust_domain: example.org
workloads:
  - name: w
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: [{value: "$1$", not_after: 2027-01-23T00:00:00Z}, {value: "$2$", not_before: 2027-01-26T00:00:00Z}]}
      pcr3: {eq: "$role$"}
    issue: [{spiffe_id: "spiffe://{td}/w", x509_ttl: 1h}]
`
	r := compare(t, src, change(t, src, "{in: [", "{in: [\"$3$\", ", "x509_ttl: 1h", "x509_ttl: 2h"))
	var got []string
	for _, c := range r.Changes {
		until := "ever"
		if c.Until != nil {
			until = c.Until.Format("Jan 2")
		}
		got = append(got, fmt.Sprintf("%s from %s until %s", strings.Join(c.What, "; "), c.From.Format("Jan 2"), until))
	}
	want := []string{
		"spiffe://example.org/w: x509_ttl 2h0m0s, was 1h0m0s from Jan 20 until Jan 23",
		"spiffe://example.org/w: x509_ttl 2h0m0s, was 1h0m0s from Jan 26 until ever",
	}
	if !slices.Equal(got, want) || len(r.Widenings) == 0 || len(r.Narrowings)+len(r.Undecided) > 0 {
		t.Errorf("changes %q, widenings %+v", got, r.Widenings)
	}
}

// Where a waiver admits and not the floor, results do not rest on the TCB. So a
// floor that is lower is a change although both admit the same.
func TestAFloorBelowAWaivedOneIsAChangeInWhatResultsRestOn(t *testing.T) {
	waived := change(t, snpBase, "    waivers:\n", "    waivers:\n      - {rule: reported_tcb, reason: a, owner: b, expires: 2027-02-01}\n",
		"chip_id: {in: chips}", "family_id: {eq: \"$family/16$\"}", "    match:\n", "    ownership: {none: a, owner: b, expires: 2027-02-01}\n    match:\n",
		"  chips: {dedicated: true, values: [\"$chip/64$\", \"$turin/8$\"]}\n", "  chips: {dedicated: true, values: [\"$chip/64$\"]}\n", "bundle: prod\n", "bundle: prod\nsilence: [unused-reference]\n")
	lower := change(t, waived, "{bl: 9, tee: 0, snp: 23, ucode: 72}", "{bl: 9, tee: 0, snp: 22, ucode: 72}")
	for _, c := range []struct{ a, b, what string }{
		{waived, lower, "results rest on measurement, reported_tcb, was measurement"},
		{lower, waived, "results rest on measurement, was measurement, reported_tcb"},
	} {
		r := compare(t, c.a, c.b)
		if len(r.Widenings)+len(r.Narrowings)+len(r.Undecided) > 0 || len(r.Changes) != 1 || !slices.Equal(r.Changes[0].What, []string{c.what}) {
			t.Fatalf("widenings %+v, narrowings %+v, changes %+v, undecided %+v, want %s", r.Widenings, r.Narrowings, r.Changes, r.Undecided, c.what)
		}
		if tcb := r.Changes[0].Claims.SNP.ReportedTCB; tcb.SNP != 22 {
			t.Errorf("the example has %s", tcb)
		}
	}
	if same := compare(t, waived, waived); !same.Same() {
		t.Errorf("the same policy: %+v", same)
	}
}

func TestAnotherTrustDomainIsAChangeOfEveryIdentity(t *testing.T) {
	r := compare(t, tpmBase, change(t, tpmBase, "example.org", "example.com"))
	if len(r.Changes) != 1 || !strings.Contains(strings.Join(r.Changes[0].What, " "), "also grants spiffe://example.com/store") {
		t.Errorf("%+v", r.Changes)
	}
}

// What two workloads of one policy match, it denies: the other admits it.
func TestWhatOnePolicyFindsAmbiguousIsADifference(t *testing.T) {
	two := change(t, nitroBase, "  - name: watched\n    tee: aws-nitro\n    mode: audit\n    match:\n      pcr0: {eq: \"$watched$\"}", "  - name: watched\n    tee: aws-nitro\n    mode: enforce\n    silence: [both-match]\n    expr: \"nitro.pcr7 == nitro.pcr6\"\n    match:\n      pcr0: {eq: \"$42$\"}")
	r := compare(t, nitroBase, two)
	found := slices.ContainsFunc(r.Narrowings, func(d diff.Difference) bool {
		return d.Workload == "payments" && strings.HasPrefix(d.Why, "ambiguous: ")
	})
	if !found {
		t.Errorf("narrowings %+v, undecided %+v", r.Narrowings, r.Undecided)
	}
}

func TestWhatIsTooLargeSaysSo(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: many\nrevision: 1\ntrust_domain: example.org\nworkloads:\n  - name: w\n    tee: aws-nitro\n    mode: enforce\n    match:\n      pcr3: {eq: \"$role$\"}\n      pcr0:\n        in:\n")
	for i := range 2500 {
		fmt.Fprintf(&b, "          - {value: \"$%d$\", not_after: %s}\n", i, noon.Add(time.Duration(i+1)*time.Minute).Format(time.RFC3339))
	}
	src := b.String() + "    issue: [{spiffe_id: \"spiffe://{td}/w\"}]\n"
	r := compare(t, src, change(t, src, "      pcr3: {eq: \"$role$\"}\n", "      pcr3: {in: [\"$role$\", \"$other$\"]}\n"))
	if len(r.Undecided) != 2 || !strings.HasPrefix(r.Undecided[0].Why, "too large: windows divide time into 2501 stretches") || r.Same() {
		t.Errorf("%d undecided: %+v", len(r.Undecided), r.Undecided)
	}
	if same := compare(t, src, src); !same.Same() {
		t.Errorf("the same policy: %+v", same.Undecided)
	}
}

// The cost grows with the workloads, not with their square: two policies of many
// workloads that differ in one.
func TestLargePoliciesAreComparedInTime(t *testing.T) {
	const n = 3000
	fleet := func(last string) string {
		var b strings.Builder
		b.WriteString("version: 1\nbundle: fleet\nrevision: 1\ntrust_domain: example.org\nworkloads:\n")
		for i := range n {
			image := fmt.Sprint("image ", i)
			if i == n-1 {
				image = last
			}
			fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: enforce\n    match: {pcr0: {in: [{value: \"$%s$\", not_after: 2027-0%d-01T00:00:00Z}]}, pcr3: {eq: \"$team %d$\"}}\n    issue: [{spiffe_id: \"spiffe://{td}/{workload}\"}]\n", i, image, 2+i%7, i%7)
		}
		return expand(b.String())
	}
	a, err := policy.Parse("a.yaml", []byte(fleet("before")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse("b.yaml", []byte(fleet("after")))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := compared(t, a, b)
	took := time.Since(began)
	t.Logf("2 x %d workloads in %s", n, took)
	if len(r.Widenings) != 1 || len(r.Narrowings) != 1 || len(r.Changes)+len(r.Undecided) != 0 {
		t.Errorf("%d widenings, %d narrowings, %d changes, %d undecided", len(r.Widenings), len(r.Narrowings), len(r.Changes), len(r.Undecided))
	}
	if took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}
