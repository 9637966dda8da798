package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

// widest is a policy that publishes the first n registers, with attributes of
// the greatest size.
func widest(registers, attributes int) string {
	var publish, attrs []string
	for i := 0; len(publish) < registers; i++ {
		if i != 3 && i != 4 { // these are never published
			publish = append(publish, fmt.Sprintf("pcr%d", i))
		}
	}
	for i := range attributes {
		name := fmt.Sprintf("a%02d%s", i, strings.Repeat("x", 60))
		attrs = append(attrs, fmt.Sprintf("%s: %q", name, strings.Repeat("v", 128)))
	}
	return fmt.Sprintf(`version: 1
bundle: wide
revision: 1
trust_domain: attested.example.org
workloads:
  - name: wide
    tee: aws-nitro
    mode: enforce
    publish: [%s]
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue: [{spiffe_id: "spiffe://{td}/wide", attributes: {%s}}]
`, strings.Join(publish, ", "), strings.Repeat("ab", 48), strings.Repeat("cd", 48), strings.Join(attrs, ", "))
}

func TestAPolicyWhoseResultsWouldNotFitIsRefused(t *testing.T) {
	_, err := policy.Parse("wide.yaml", []byte(widest(30, 16)))
	if err == nil || !strings.Contains(err.Error(), "at most 3072 fit") {
		t.Errorf("got %v", err)
	}
	for _, fits := range [][2]int{{30, 0}, {0, 15}, {30, 6}, {10, 12}} {
		if _, err := policy.Parse("wide.yaml", []byte(widest(fits[0], fits[1]))); err != nil {
			t.Errorf("%d registers and %d attributes: %v", fits[0], fits[1], err)
		}
	}
}
