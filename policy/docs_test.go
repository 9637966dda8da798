package policy_test

import (
	"encoding/hex"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

func reference(t *testing.T) string {
	t.Helper()
	src, err := os.ReadFile("../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(src)
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestTheReferencesExamplesAreGoodPolicies(t *testing.T) {
	blocks := yamlBlock.FindAllStringSubmatch(reference(t), -1)
	if len(blocks) < 3 {
		t.Fatalf("%d examples found in docs/spec/policy.md, want at least 3", len(blocks))
	}
	for i, m := range blocks {
		b, err := policy.Parse("policy.md", []byte(m[1]))
		if err != nil {
			t.Errorf("example %d:\n%s", i+1, render(err))
			continue
		}
		if w := b.Warnings(); len(w) > 0 {
			t.Errorf("example %d:\n%s", i+1, w.Render())
		}
	}
}

func TestTheReferenceNamesEveryReason(t *testing.T) {
	doc := reference(t)
	for _, r := range []string{
		policy.ReasonGranted, policy.ReasonNoMatch, policy.ReasonAuditOnly, policy.ReasonAmbiguous, policy.ReasonNoWorkload,
		policy.ReasonTrustDomain, policy.ReasonNotGranted, policy.ReasonRequestedTwice, policy.ReasonKeyTwice,
		policy.ReasonEvidenceTooOld, policy.ReasonPolicyExpired, policy.ReasonTemplate, policy.ReasonNoIdentity,
		policy.ReasonNotInRollout, policy.ReasonUndecided, policy.ReasonOffline,
	} {
		if !strings.Contains(doc, "| `"+r+"` |") {
			t.Errorf("docs/spec/policy.md does not explain the reason %s", r)
		}
	}
}

// The tables of claims name each claim with the matchers that it has.
func TestTheReferenceNamesTheMatchersOfEveryClaim(t *testing.T) {
	doc := reference(t)
	for _, platform := range []attest.Platform{attest.AWSNitro, attest.AMDSEVSNP, attest.TPM2} {
		_, section, _ := strings.Cut(doc, "### Claims of `"+string(platform)+"`")
		section, _, _ = strings.Cut(section, "\n### ")
		documented := map[string]string{}
		for _, row := range strings.Split(section, "\n") {
			cells := strings.Split(row, " | ")
			if len(cells) != 4 || !strings.HasPrefix(row, "| `") {
				continue
			}
			names := quoted.FindAllStringSubmatch(cells[0], -1)
			if len(names) == 2 && strings.Contains(cells[0], "` … `") { // pcr0 … pcr31
				last, err := strconv.Atoi(strings.TrimLeft(names[1][1], "pcr"))
				if err != nil {
					t.Fatal(err)
				}
				for i := range last + 1 {
					documented["pcr"+strconv.Itoa(i)] = cells[2]
				}
				continue
			}
			for _, n := range names {
				documented[n[1]] = cells[2]
			}
		}
		for claim, ops := range policy.MatchersForTest(platform) {
			if want := "`" + strings.Join(ops, "`, `") + "`"; documented[claim] != want {
				t.Errorf("%s: %s has %s, the reference says %q", platform, claim, want, documented[claim])
			}
		}
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// The reference tells of a guest with old firmware, in the decision's words.
func TestTheReferencesSNPExampleDecidesAsItSays(t *testing.T) {
	doc := reference(t)
	for _, m := range yamlBlock.FindAllStringSubmatch(doc, -1) {
		if !strings.Contains(m[1], "bundle: snp") {
			continue
		}
		b, err := policy.Parse("policy.md", []byte(m[1]))
		if err != nil {
			t.Fatal(render(err))
		}
		inHex := func(s string) attest.Bytes {
			out, err := hex.DecodeString(s)
			if err != nil || !strings.Contains(m[1], s) {
				t.Fatalf("%s is not in the example: %v", s, err)
			}
			return out
		}
		guest := func(s *attest.SNP) {
			s.Measurement = inHex("7be15f6e7d8c9bb0a1f2e3d4c5b6a7988970615243342516071829304a5b6c7d8e9fa0b1c2d3e4f5061728394a5b6c7d")
			s.ChipID = inHex("59790f0e6d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2")
		}
		d := b.Evaluate(snpClaims(guest), noon)
		if d.Workload != "ledger" || !d.Ownership {
			t.Errorf("a good guest: %s %s", d.Reason, d.Detail)
		}
		d = b.Evaluate(snpClaims(guest, func(s *attest.SNP) { s.ReportedTCB.SNP = 22 }), noon)
		r := only(t, d, "ledger", "reported_tcb")
		for _, text := range []string{r.Expected, r.Got, r.Hint} {
			if !strings.Contains(strings.ReplaceAll(doc, "\n", " "), "`"+text+"`") {
				t.Errorf("the reference does not say %q", text)
			}
		}
		if d.Reason != policy.ReasonNoMatch || d.Detail != "nearest is workload ledger: reported_tcb does not hold" {
			t.Errorf("old firmware: %s %s", d.Reason, d.Detail)
		}
		d = b.Evaluate(snpClaims(vlek, func(s *attest.SNP) {
			s.Product, s.VMPL, s.ReportedTCB = "milan", 1, attest.TCB{Bootloader: 4, SNP: 24, Microcode: 219}
			s.IDKeyDigest = inHex("3c4f04c8ffe93ee12f1f0f27f01c3b8b1dbef1b7ea6a3bb15d77eb3d6d8dd5e0a46f0e5d3a4be8d54fcf4a4bd7b57d11")
		}), noon)
		if d.Workload != "gateway" || d.Ownership {
			t.Errorf("a provider's guest: %s %s", d.Reason, d.Detail)
		}
		return
	}
	t.Fatal("no example of the bundle snp in docs/spec/policy.md")
}
