package mutate_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/mutate"
	"github.com/assay-project/assay/policy/policytest"
)

const examples = "../../examples/policies"

// suite is an example with its tests, each changed first.
func suite(t testing.TB, name string, edit func(policy, tests string) (string, string)) (*policy.Bundle, []policytest.Case) {
	t.Helper()
	read := func(file string) string {
		b, err := os.ReadFile(filepath.Join(examples, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	src, tests := read(name+".yaml"), read(name+policytest.Suffix)
	if edit != nil {
		before := src + tests
		if src, tests = edit(src, tests); src+tests == before {
			t.Fatal("nothing was changed")
		}
	}
	b, err := policy.Parse(name+".yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	f, err := policytest.Parse(name+policytest.Suffix, []byte(tests), func(string) ([]byte, error) { return nil, os.ErrNotExist })
	if err != nil {
		t.Fatal(err)
	}
	return b, f.Cases
}

func run(t testing.TB, name string, edit func(policy, tests string) (string, string)) *mutate.Report {
	t.Helper()
	b, cases := suite(t, name, edit)
	r, err := mutate.Run(context.Background(), b, cases, mutate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Claims.Mutants != r.Claims.Refused+len(r.Claims.Tolerated)+len(r.Claims.Survivors) || r.Rules.Mutants != r.Rules.Noticed+len(r.Rules.Equivalent)+len(r.Rules.Survivors) {
		t.Errorf("the numbers do not add up: %+v", r)
	}
	return r
}

var all = []string{"aws-nitro", "amd-sev-snp", "tpm2", "shop"}

func TestNoMutantOfTheExamplesSurvives(t *testing.T) {
	for _, name := range all {
		r := run(t, name, nil)
		if r.Survivors() > 0 || r.Score() != 1 {
			t.Errorf("%s: %+v %+v", name, r.Claims.Survivors, r.Rules.Survivors)
		}
		if r.Claims.Mutants < 30 || r.Rules.Mutants < 9 {
			t.Errorf("%s: %d mutants of claims, %d of the policy: that shows little", name, r.Claims.Mutants, r.Rules.Mutants)
		}
	}
}

func TestEveryPlatformHasAnExampleWithoutSurvivors(t *testing.T) {
	for _, p := range policy.Platforms() {
		if !slices.Contains(all, string(p)) {
			t.Errorf("%s has no example", p)
		}
	}
}

// Each case of the examples is there for something: without it a mutant of the
// policy survives, or what it shows is shown by another case as well.
func TestWithoutACaseSomethingSurvives(t *testing.T) {
	needed := 0
	for _, name := range all {
		b, cases := suite(t, name, nil)
		for i := range cases {
			if cases[i].Want.Outcome == policy.Granted {
				continue
			}
			r, err := mutate.Run(context.Background(), b, slices.Delete(slices.Clone(cases), i, i+1), mutate.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Claims.Survivors) > 0 {
				t.Errorf("%s: the claims' mutants depend on %q", name, cases[i].Name)
			}
			for _, s := range r.Rules.Survivors {
				needed++
				if s.Claims == nil || s.At == nil {
					t.Errorf("%s: %s %s survives without claims that would tell", name, s.Rule, s.Change)
					continue
				}
				if d := b.Explain(*s.Claims, *s.At); d.Outcome == policy.Granted {
					t.Errorf("%s: %s %s: the policy grants what should tell the mutant", name, s.Rule, s.Change)
				}
			}
		}
	}
	if needed < 25 {
		t.Errorf("only %d mutants survive where one case is missing", needed)
	}
}

// A policy that is made weaker by hand admits the mutant that tells.
func TestAWeakerPolicyAdmitsItsMutant(t *testing.T) {
	line := func(prefix string) func(string, string) (string, string) {
		return func(src, tests string) (string, string) {
			var out []string
			for _, l := range strings.Split(src, "\n") {
				if !strings.HasPrefix(strings.TrimSpace(l), prefix) {
					out = append(out, l)
				}
			}
			// Only what is granted is left of the tests: the others would fail.
			return strings.Join(out, "\n"), grants(tests)
		}
	}
	replace := func(old, new string) func(string, string) (string, string) {
		return func(src, tests string) (string, string) { return strings.Replace(src, old, new, 1), grants(tests) }
	}
	for _, c := range []struct {
		name, example string
		edit          func(string, string) (string, string)
		survivor      string
	}{
		{"no image and no signer", "aws-nitro", func(s, t string) (string, string) {
			s, t = line("pcr0:")(s, t)
			s, t = line("pcr8:")(s, t)
			return line("debug:")(strings.Replace(s, "  payments-images:", "  unused:", 1), t)
		}, "another image, signed by somebody else"},
		{"no owner", "aws-nitro", func(s, t string) (string, string) {
			s, t = line("pcr3:")(s, t)
			return strings.Replace(s, "    issue:", "    ownership: {none: a, owner: b, expires: 2028-01-01}\n    issue:", 1), t
		}, "tolerated: the image in somebody else's account"},
		{"a signer alone", "aws-nitro", line("pcr0:"), "tolerated: another image"},
		{"any privilege level", "amd-sev-snp", replace("      policy.smt:", "      vmpl: {lte: 3}\n      policy.smt:"), "vmpl 3"},
		{"debugging", "amd-sev-snp", replace("      policy.smt:", "      policy.debug: {eq: true}\n      policy.smt:"), ""},
		{"a floor below", "amd-sev-snp", replace("snp: 23, ucode: 72", "snp: 22, ucode: 72"), "reported_tcb: snp one less"},
		{"no floor", "amd-sev-snp", line("reported_tcb:"), "reported_tcb: ucode one less"},
		{"keys anywhere", "tpm2", line("key_residency:"), "keys in software"},
		{"a cleared TPM", "tpm2", line("tpm_cleared:"), "a TPM that was cleared"},
		{"any loader", "tpm2", func(s, t string) (string, string) {
			s, t = line("pcr4:")(s, t)
			return line("boot.loaders:")(s, t)
		}, "tolerated: another boot loader"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, cases := suite(t, c.example, c.edit)
			cases = slices.DeleteFunc(cases, func(k policytest.Case) bool { return !k.Check(b).Passed() })
			r, err := mutate.Run(context.Background(), b, cases, mutate.Options{})
			if c.survivor == "" {
				if !errors.Is(err, mutate.ErrNoGrant) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			list, name := r.Claims.Survivors, c.survivor
			if rest, ok := strings.CutPrefix(name, "tolerated: "); ok {
				list, name = r.Claims.Tolerated, rest
			}
			i := slices.IndexFunc(list, func(x mutate.ClaimResult) bool { return x.Mutant == name })
			if i < 0 {
				t.Fatalf("%q is not among %v", name, list)
			}
			if d := b.Explain(list[i].Claims, list[i].At); d.Outcome != policy.Granted {
				t.Errorf("the policy refuses it: %s", d.Detail)
			}
		})
	}
}

// grants drops cases that are denied: of a changed policy they need not hold.
func grants(tests string) string {
	head, cases, _ := strings.Cut(tests, "\ncases:\n")
	var out []string
	for _, c := range strings.Split("\n"+cases, "\n  - ")[1:] {
		if strings.Contains(c, "outcome: granted") && !strings.Contains(c, "valid_until") {
			out = append(out, c)
		}
	}
	return head + "\ncases:\n  - " + strings.Join(out, "\n  - ") + "\n"
}

func TestAChangeThatChangesNothingIsNoSurvivor(t *testing.T) {
	// Every chip that is listed is one that is not masked: the implicit rule over
	// that refuses nothing more. And no case is about it.
	r := run(t, "amd-sev-snp", func(s, tests string) (string, string) {
		head, cases, _ := strings.Cut(tests, "  - name: a chip that the host masks\n")
		_, cases, _ = strings.Cut(cases, "  - name: a report that a VLEK signed\n")
		return s, head + "  - name: a report that a VLEK signed\n" + cases
	})
	var of []string
	for _, e := range r.Rules.Equivalent {
		of = append(of, e.Rule+" "+e.Change)
	}
	if diff := cmp.Diff([]string{"chip_id_masked dropped"}, of); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, s := range r.Rules.Survivors {
		if s.Rule == "chip_id_masked" {
			t.Errorf("%+v", s)
		}
	}
}

// What is so in the claims that are granted is no mutant of them.
func TestWhatIsSoAlreadyIsNoMutant(t *testing.T) {
	r := run(t, "shop", nil) // whose machine keeps its keys in memory
	for _, x := range slices.Concat(r.Claims.Survivors, r.Claims.Tolerated) {
		if x.Mutant == "keys in software" {
			t.Errorf("%+v", x)
		}
	}
}

func TestTestsThatFailAreNoBeginning(t *testing.T) {
	b, cases := suite(t, "aws-nitro", nil)
	cases[0].Want.Outcome = policy.Refused
	if _, err := mutate.Run(context.Background(), b, cases, mutate.Options{}); !errors.Is(err, mutate.ErrFails) {
		t.Errorf("%v", err)
	}
	if _, err := mutate.Run(context.Background(), b, nil, mutate.Options{}); !errors.Is(err, mutate.ErrNoGrant) {
		t.Errorf("%v", err)
	}
}

// What is made less strict admits all that the policy admits, and each kind of
// change is made where there is something to change.
func TestMutantsOfThePolicyAreLessStrict(t *testing.T) {
	src := `version: 1
bundle: b
revision: 1
trust_domain: example.org
workloads:
  - name: w
    tee: amd-sev-snp
    mode: {rollout: 10%}
    ownership: {none: a, owner: b, expires: 2027-06-30}
    match:
      measurement: {in: [{value: "` + strings.Repeat("1a", 48) + `", not_before: 2027-01-01T00:00:00Z, not_after: 2027-02-01T00:00:00Z}]}
      guest_svn: {gte: 3}
      current_firmware: {lte: "1.55.29"}
      current_mitigations: {bits: {set: [1], clear: [2]}}
      reported_tcb: {gte: {turin: {fmc: 1, bl: 0, tee: 2, snp: 3, ucode: 4}}}
      csp_id: {regex: "a+"}
      provisional: {eq: false}
    waivers: [{rule: provisional, when: {product: {eq: turin}}, reason: a, owner: b, expires: 2027-06-30}]
    expr: "snp.guest_svn < 10"
    issue: [{spiffe_id: "spiffe://{td}/w"}]
  - {name: watched, tee: aws-nitro, mode: audit, match: {debug: {eq: false}}}
`
	b, err := policy.Parse("p.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range b.Mutants() {
		got = append(got, m.Claim+" "+m.Change)
		if m.Workload != "w" || m.Platform != attest.AMDSEVSNP || !strings.HasPrefix(m.Position, "p.yaml:") {
			t.Errorf("%+v", m)
		}
	}
	want := []string{
		"measurement dropped", "measurement one value more", "measurement without not_after", "measurement without not_before",
		"guest_svn dropped", "guest_svn at least 3 became at least 2", "current_firmware dropped", "current_firmware at most 1.55.29 became at most 1.55.30",
		"current_mitigations dropped", "current_mitigations without bit 1 set", "current_mitigations without bit 2 clear",
		"reported_tcb dropped", "reported_tcb turin: fmc 1 became 0", "reported_tcb turin: tee 2 became 1", "reported_tcb turin: snp 3 became 2", "reported_tcb turin: ucode 4 became 3", "reported_tcb no floor for milan, genoa",
		"csp_id dropped", "provisional dropped", "provisional its waiver never expires", "provisional its waiver without the condition over product",
		"policy.debug dropped", "policy.migrate_ma dropped", "vmpl dropped", "vmpl one value more", "chip_id_masked dropped",
		"ownership its waiver never expires", "expr became true", "mode the rollout admits everybody",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A mutant evaluates, and grants nothing: that no request gets an SVID by it is
// shown where requests are, in package policy.
func TestMutantsEndWhenTheyAreToldTo(t *testing.T) {
	b, cases := suite(t, "aws-nitro", nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := mutate.Run(ctx, b, cases, mutate.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
