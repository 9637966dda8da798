package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/policy"
)

// What an entitlement says is what Authorize grants.
func TestAnEntitlementIsWhatAuthorizeGrants(t *testing.T) {
	l := newLab(t)
	src := change(t, base, "x509_ttl: 1h", "x509_ttl: 1h\n        attributes: {tier: gold}\n        jwt: {ttl: 5m, audiences: [sts.amazonaws.com]}\n      - spiffe_id: \"spiffe://{td}/payments/batch\"\n        x509_ttl: 30m")
	b := parse(t, src)
	v := l.verify(t, attestation{pcrs: good, requested: []string{"", ""}})
	claims := v.Claims()
	g, err := b.Authorize(v, noon)
	if err != nil {
		t.Fatal(err)
	}
	got := b.Entitlement(claims, noon)
	if got.Denied() || len(got.Identities) != 2 || len(g.Issues()) != 2 {
		t.Fatalf("entitled to %v, granted %v", got.Identities, g.Issues())
	}
	for _, is := range g.Issues() {
		i := slices.IndexFunc(got.Identities, func(e policy.Entitled) bool { return e.SPIFFEID == is.Identity.SPIFFEID })
		if i < 0 || got.Identities[i].NotAfter != is.NotAfter || got.Identities[i].X509TTL != is.Identity.X509TTL {
			t.Errorf("granted %+v, entitled to %+v", is, got.Identities)
		}
	}
	publish := g.Publish()
	slices.Sort(publish)
	if !slices.Equal(publish, got.Publish) || got.Ownership != g.Decision().Ownership {
		t.Errorf("publishes %v, entitled to %v", publish, got.Publish)
	}
	if !b.Entitlement(nitroClaims(map[int]string{0: "42", 3: "thief"}), noon).Denied() {
		t.Error("who is denied is entitled to something")
	}
	if !b.Entitlement(claims, noon.AddDate(-1, 0, 0)).Denied() {
		t.Error("before the reference value counts")
	}
}

func TestEveryChangeThatAnEnvironmentWouldFeelMakesAnotherEntitlement(t *testing.T) {
	src := change(t, base, "x509_ttl: 1h", "x509_ttl: 1h\n        attributes: {tier: gold}\n        jwt: {ttl: 5m, audiences: [sts.amazonaws.com]}")
	claims := nitroClaims(good)
	before := parse(t, src).Entitlement(claims, noon)
	for name, tt := range map[string]struct {
		pairs []string
		felt  bool
	}{
		"nothing":                       {nil, false},
		"the revision":                  {[]string{"revision: 7", "revision: 8"}, false},
		"a comment":                     {[]string{"workloads:", "# what follows\nworkloads:"}, false},
		"the workload's name":           {[]string{"name: payments", "name: pay"}, false},
		"another release's end":         {[]string{"2027-01-31T00:00:00Z, note: \"release 41\"", "2027-02-28T00:00:00Z, note: \"release 41\""}, false},
		"its own release begins before": {[]string{"2027-01-15", "2027-01-10"}, false},
		"an end beyond the TTL":         {[]string{"not_before: 2027-01-15T00:00:00Z, note", "not_before: 2027-01-15T00:00:00Z, not_after: 2027-06-01T00:00:00Z, note"}, false},
		"a workload of others":          {[]string{"workloads:", "workloads:\n  - name: other\n    tee: aws-nitro\n    mode: enforce\n    match:\n      pcr0: {eq: \"$other$\"}\n      pcr3: {eq: \"$role$\"}\n    issue: [{spiffe_id: \"spiffe://{td}/other\", x509_ttl: 1h}]"}, false},
		"an end within the TTL":         {[]string{"not_before: 2027-01-15T00:00:00Z, note", "not_before: 2027-01-15T00:00:00Z, not_after: 2027-01-20T12:30:00Z, note"}, true},
		"the identity":                  {[]string{"payments/api", "payments/web"}, true},
		"a further identity":            {[]string{"    issue:\n", "    issue:\n      - {spiffe_id: \"spiffe://{td}/more\", x509_ttl: 1h}\n"}, true},
		"the TTL":                       {[]string{"x509_ttl: 1h", "x509_ttl: 2h"}, true},
		"an attribute":                  {[]string{"tier: gold", "tier: silver"}, true},
		"the JWT's audience":            {[]string{"sts.amazonaws.com", "vault.example.org"}, true},
		"the JWT's tags":                {[]string{"audiences: [sts.amazonaws.com]", "audiences: [sts.amazonaws.com], aws_tags: [tier]"}, true},
		"the JWT's TTL":                 {[]string{"ttl: 5m", "ttl: 6m"}, true},
		"the freshness":                 {[]string{"    match:", "    max_evidence_age: 30m\n    match:"}, true},
		"what is published":             {[]string{"    match:", "    publish: [pcr0]\n    match:"}, true},
		"what it rests on":              {[]string{"      pcr3:", "      pcr8: {eq: \"$signer$\"}\n      pcr3:"}, true},
		"the mode":                      {[]string{"mode: enforce", "mode: audit"}, true},
		"its release is withdrawn":      {[]string{"$42$", "$43$"}, true},
	} {
		after := parse(t, change(t, src, tt.pairs...)).Entitlement(claims, noon)
		if felt := !before.Equal(after); felt != tt.felt {
			t.Errorf("%s: felt %v, want %v\nbefore %+v\nafter  %+v", name, felt, tt.felt, before, after)
		}
		if before.Equal(after) != after.Equal(before) {
			t.Errorf("%s: not symmetric", name)
		}
	}
	// Time alone is no change: the same policy is compared with itself at one moment.
	b := parse(t, src)
	later := noon.Add(time.Hour)
	if !b.Entitlement(claims, later).Equal(b.Entitlement(claims, later)) {
		t.Error("an entitlement is not equal to itself")
	}
}

// Keys that ask for no identity get them in the order of the policy.
func TestAnExchangeOfIdentitiesMakesAnotherEntitlement(t *testing.T) {
	one, other := "      - {spiffe_id: \"spiffe://{td}/api\", x509_ttl: 1h}\n", "      - {spiffe_id: \"spiffe://{td}/reports\", x509_ttl: 1h}\n"
	src := base[:strings.Index(base, "      - spiffe_id")]
	before, after := parse(t, src+one+other), parse(t, src+other+one)
	claims := nitroClaims(good)
	if before.Entitlement(claims, noon).Equal(after.Entitlement(claims, noon)) {
		t.Error("the exchange is not noticed")
	}
	if got := after.Entitlement(claims, noon).Identities; len(got) != 2 || got[0].SPIFFEID != "spiffe://simulated.example.org/reports" {
		t.Errorf("got %+v", got)
	}
}
