package policy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

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
	} {
		if !strings.Contains(doc, "| `"+r+"` |") {
			t.Errorf("docs/spec/policy.md does not explain the reason %s", r)
		}
	}
}
