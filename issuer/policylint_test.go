package issuer

import (
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/policy"
)

// A server's own lint counts what is left of the authority, and the moment.
func TestAServerLintsItsPolicyAgainstWhatIsLeftOfItsAuthority(t *testing.T) {
	b, err := policy.Parse("policy.yaml", []byte(`version: 1
bundle: prod
revision: 1
trust_domain: example.org
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: [{value: "3a1f03ecdd0a9b5b6ba0a3ff1ee9ee4b2f8c3b4d4a0f6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e", not_after: 2027-01-31T00:00:00Z}, "b0aac95d1f0e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4"]}
      pcr3: {eq: "c07e9d8c7b6a59483726150413223140c07e9d8c7b6a59483726150413223140c07e9d8c7b6a59483726150413223140"}
    issue: [{spiffe_id: "spiffe://{td}/payments", x509_ttl: 2h}]
`))
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2027, 2, 10, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		at   time.Time
		want []policy.Code
	}{
		{end.AddDate(0, -3, 0), nil},
		{end.Add(-3 * time.Hour), []policy.Code{policy.CodeExpiredReference}},
		{end.Add(-time.Hour), []policy.Code{policy.CodeExpiredReference, policy.CodeTTLBeyondCA}},
		{end.Add(time.Hour), []policy.Code{policy.CodeExpiredReference, policy.CodeTTLBeyondCA}},
	} {
		var got []policy.Code
		for _, w := range b.Lint(PolicyLint(ca.Status{AuthorityNotAfter: end}, c.at)) {
			got = append(got, policy.Code(w.Code))
		}
		if len(got) != len(c.want) {
			t.Errorf("at %s: %q, want %q", c.at, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("at %s: %q, want %q", c.at, got, c.want)
			}
		}
	}
}
