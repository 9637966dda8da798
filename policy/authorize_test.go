package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifiers"
)

// three grants three identities.
const three = `version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: ["$41$", "$42$"]}
      pcr3: {eq: "$role$"}
    issue:
      - spiffe_id: "spiffe://{td}/a"
        jwt: {ttl: 5m, audiences: [sts.amazonaws.com, vault]}
        attributes: {tier: gold, team: core}
      - spiffe_id: "spiffe://{td}/b"
        x509_ttl: 30m
      - spiffe_id: "spiffe://{td}/{workload}/{tee}/{pcr0:12}"
`

const (
	idA = "spiffe://simulated.example.org/a"
	idB = "spiffe://simulated.example.org/b"
)

func idC(image string) string {
	return "spiffe://simulated.example.org/payments/aws-nitro/" + hexOf(image)[:12]
}

func denial(t *testing.T, g *policy.Grant, err error) policy.Decision {
	t.Helper()
	var d *policy.Denied
	if !errors.As(err, &d) || g != nil {
		t.Fatalf("got grant %v and error %v, want a *Denied alone", g, err)
	}
	if attest.KindOf(err) != attest.Denied || attest.CheckOf(err) != "policy" {
		t.Errorf("the denial is %v/%s, want denied/policy", attest.KindOf(err), attest.CheckOf(err))
	}
	if d.Decision.Outcome != policy.Refused || d.Decision.Workload != "" || d.Decision.Ownership || d.Decision.ValidUntil != nil {
		t.Errorf("a denial must name no granting workload: %+v", d.Decision)
	}
	return d.Decision
}

func TestAGenuineEnclaveIsGrantedItsIdentity(t *testing.T) {
	l := newLab(t)
	v := l.verify(t, attestation{pcrs: good})
	g, err := parse(t, base).Authorize(v, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Issue{{
		Key: 0, NotAfter: noon.Add(time.Hour),
		Identity: policy.Identity{SPIFFEID: "spiffe://simulated.example.org/payments/api", X509TTL: time.Hour, MaxEvidenceAge: time.Hour},
	}}
	if d := cmp.Diff(want, g.Issues()); d != "" {
		t.Errorf("issues (-want +got):\n%s", d)
	}
	if d := g.Decision(); d.Outcome != policy.Granted || d.Reason != policy.ReasonGranted || d.Workload != "payments" || !d.Ownership {
		t.Errorf("decision %+v", d)
	}
	if g.More() != 0 || !slices.Equal(g.Publish(), []string{"pcr0", "pcr1", "pcr2", "pcr8"}) {
		t.Errorf("more %d, publish %v", g.More(), g.Publish())
	}
	if g.Claims().Nitro == nil || g.Evidence().Digest() != g.EvidenceDigest() || !g.VerifiedAt().Equal(noon) || len(g.Challenge().Keys) != 1 {
		t.Error("the grant does not hold what was verified")
	}
}

func TestKeysAreGivenIdentitiesInPolicyOrder(t *testing.T) {
	l := newLab(t)
	b := parse(t, three)
	for _, c := range []struct {
		name      string
		requested []string
		want      string
		more      int
	}{
		{"one key, nothing asked", []string{""}, "0=a", 2},
		{"three keys, nothing asked", []string{"", "", ""}, "0=a 1=b 2=c", 0},
		{"four keys: the surplus gets nothing", []string{"", "", "", ""}, "0=a 1=b 2=c", 0},
		{"the second by name", []string{idB}, "0=b", 2},
		{"a named one is not given again", []string{"", idA, ""}, "0=b 1=a 2=c", 0},
		{"a named one, asked for last", []string{"", "", idA}, "0=b 1=c 2=a", 0},
		{"a name with a digest", []string{idC("42"), ""}, "0=c 1=a", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := b.Authorize(l.verify(t, attestation{pcrs: good, requested: c.requested}), noon)
			if err != nil {
				t.Fatal(err)
			}
			short := map[string]string{idA: "a", idB: "b", idC("42"): "c"}
			got := ""
			for i, is := range g.Issues() {
				if i > 0 {
					got += " "
				}
				got += fmt.Sprintf("%d=%s", is.Key, short[is.Identity.SPIFFEID])
			}
			if got != c.want || g.More() != c.more {
				t.Errorf("got %q, %d more; want %q, %d more", got, g.More(), c.want, c.more)
			}
		})
	}
}

func TestWhatTheRequestAsksForCanDenyIt(t *testing.T) {
	l := newLab(t)
	b := parse(t, three)
	for _, c := range []struct {
		name, reason string
		a            attestation
	}{
		{"an id that is not granted", policy.ReasonNotGranted, attestation{pcrs: good, requested: []string{"spiffe://simulated.example.org/z"}}},
		{"one of several is not granted", policy.ReasonNotGranted, attestation{pcrs: good, requested: []string{idA, "spiffe://simulated.example.org/z"}}},
		{"the template itself is no id", policy.ReasonNotGranted, attestation{pcrs: good, requested: []string{"spiffe://{td}/a"}}},
		{"another release's id", policy.ReasonNotGranted, attestation{pcrs: good, requested: []string{idC("41")}}},
		{"a prefix of an id", policy.ReasonNotGranted, attestation{pcrs: good, requested: []string{idA[:len(idA)-1]}}},
		{"one id for two keys", policy.ReasonRequestedTwice, attestation{pcrs: good, requested: []string{idA, idA}}},
		{"one key for two ids", policy.ReasonKeyTwice, attestation{pcrs: good, requested: []string{idA, idB}, sameKeys: true}},
		{"one key twice, nothing asked", policy.ReasonKeyTwice, attestation{pcrs: good, requested: []string{"", ""}, sameKeys: true}},
		{"another trust domain", policy.ReasonTrustDomain, attestation{pcrs: good, trustDomain: "simulated.other.org"}},
		{"another role", policy.ReasonNoMatch, attestation{pcrs: map[int]string{0: "42", 3: "elsewhere"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := l.verify(t, c.a)
			g, err := b.Authorize(v, noon)
			if d := denial(t, g, err); d.Reason != c.reason {
				t.Errorf("reason %s (%s), want %s", d.Reason, d.Detail, c.reason)
			}
			if err := v.Spend(); !errors.Is(err, verifiers.ErrSpent) {
				t.Error("a denied Verified can be used again")
			}
		})
	}
}

func TestADenialTellsTheAttesterNoReason(t *testing.T) {
	l := newLab(t)
	g, err := parse(t, base).Authorize(l.verify(t, attestation{pcrs: map[int]string{0: "42", 3: "elsewhere"}}), noon)
	denial(t, g, err)
	var e *attest.Error
	if !errors.As(err, &e) {
		t.Fatal("no *attest.Error in the denial")
	}
	if e.Error() != "policy: denied by policy" || e.Expected != "" || e.Got != "" || e.Hint != "" {
		t.Errorf("the attester would be told %+v", e)
	}
}

func TestADenialTellsTheOperatorWhy(t *testing.T) {
	l := newLab(t)
	g, err := parse(t, base).Authorize(l.verify(t, attestation{pcrs: map[int]string{0: "42", 3: "elsewhere"}}), noon)
	denial(t, g, err)
	if want := "denied by policy prod: no_match: nearest is workload payments: pcr3 does not hold"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestAVerifiedAuthorizesOnce(t *testing.T) {
	l := newLab(t)
	b := parse(t, base)
	v := l.verify(t, attestation{pcrs: good})
	cp := *v
	if _, err := b.Authorize(v, noon); err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]*verifiers.Verified{"the same": v, "a copy": &cp, "zero": {}, "nil": nil} {
		if g, err := b.Authorize(again, noon); !errors.Is(err, verifiers.ErrSpent) || g != nil {
			t.Errorf("%s: got %v, %v, want ErrSpent", name, g, err)
		}
	}
}

func TestWhatHappensToTheVerifiedDoesNotReachTheGrant(t *testing.T) {
	l := newLab(t)
	v := l.verify(t, attestation{pcrs: good})
	digest := v.EvidenceDigest()
	g, err := parse(t, base).Authorize(v, noon)
	if err != nil {
		t.Fatal(err)
	}
	*v = verifiers.Verified{}
	if g.EvidenceDigest() != digest || g.Claims().Nitro == nil {
		t.Error("overwriting the Verified changed the grant")
	}
}

func TestAGrantIsSpentOnce(t *testing.T) {
	l := newLab(t)
	b := parse(t, base)
	g, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon)
	if err != nil {
		t.Fatal(err)
	}
	cp := *g
	if err := g.Spend(); err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]*policy.Grant{"the same": g, "a copy": &cp, "zero": {}, "nil": nil} {
		if err := again.Spend(); !errors.Is(err, policy.ErrSpent) {
			t.Errorf("%s: got %v, want ErrSpent", name, err)
		}
	}
	if len(g.Issues()) != 1 || g.Decision().Workload != "payments" {
		t.Error("a spent grant forgot what it granted")
	}
}

func TestOfManyWhoSpendOneGrantExactlyOneWins(t *testing.T) {
	l := newLab(t)
	b := parse(t, base)
	for range 20 {
		g, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wins := make(chan bool, 2)
		start := make(chan struct{})
		for range 2 {
			cp := *g
			wg.Go(func() {
				<-start
				if cp.Spend() == nil {
					wins <- true
				}
			})
		}
		close(start)
		wg.Wait()
		if n := len(wins); n != 1 {
			t.Fatalf("%d of 2 goroutines spent the grant, want 1", n)
		}
	}
}

func TestOfManyWhoAuthorizeOneVerifiedExactlyOneWins(t *testing.T) {
	l := newLab(t)
	b := parse(t, base)
	v := l.verify(t, attestation{pcrs: good})
	var wg sync.WaitGroup
	wins := make(chan bool, 8)
	for range 8 {
		wg.Go(func() {
			if _, err := b.Authorize(v, noon); err == nil {
				wins <- true
			}
		})
	}
	wg.Wait()
	if n := len(wins); n != 1 {
		t.Fatalf("%d of 8 goroutines were granted, want 1", n)
	}
}

func TestAZeroGrantHoldsNothing(t *testing.T) {
	for _, g := range []*policy.Grant{{}, nil} {
		if g.Issues() != nil || g.More() != 0 || g.Publish() != nil || g.Claims().Nitro != nil || len(g.Challenge().Keys) != 0 ||
			g.Evidence().Body != nil || g.EvidenceDigest() != [32]byte{} || !g.VerifiedAt().IsZero() || g.Decision().Outcome != "" {
			t.Errorf("a zero grant holds something")
		}
	}
}

func TestIssuesBelongToTheCaller(t *testing.T) {
	l := newLab(t)
	b := parse(t, three)
	first, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon)
	if err != nil {
		t.Fatal(err)
	}
	is := first.Issues()
	if is[0].Identity.JWT == nil || is[0].Identity.JWT.TTL != 5*time.Minute || !slices.Equal(is[0].Identity.JWT.Audiences, []string{"sts.amazonaws.com", "vault"}) {
		t.Fatalf("jwt %+v", is[0].Identity.JWT)
	}
	is[0].Identity.Attributes["tier"] = "platinum"
	is[0].Identity.JWT.Audiences[0] = "everyone"
	is[0].Identity.SPIFFEID = "spiffe://simulated.example.org/z"
	pub := first.Publish()
	pub[0] = "pcr3"
	second, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon)
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*policy.Grant{"the same grant": first, "the next grant": second} {
		id := g.Issues()[0].Identity
		if id.SPIFFEID != idA || id.Attributes["tier"] != "gold" || id.JWT.Audiences[0] != "sts.amazonaws.com" || g.Publish()[0] != "pcr0" {
			t.Errorf("%s was changed from outside: %+v, %v", name, id, g.Publish())
		}
	}
}

// Each case has one bound that is earlier than the others.
func TestNotAfterIsTheEarliestOfItsBounds(t *testing.T) {
	l := newLab(t)
	end41 := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	waived := change(t, base, `      pcr3: {eq: "$role$"}
`, "", "    match:\n", "    ownership: {none: \"a trial\", owner: ana, expires: 2027-01-20T12:40:00Z}\n    match:\n")
	for _, c := range []struct {
		name   string
		policy string
		a      attestation
		at     time.Time
		want   time.Time
	}{
		{"the TTL", base, attestation{pcrs: good}, noon, noon.Add(time.Hour)},
		{"fractions of a second are cut", base, attestation{pcrs: good, made: noon.Add(500 * time.Millisecond), at: noon.Add(time.Second)}, noon.Add(time.Second), noon.Add(time.Hour)},
		{"the evidence's age, which defaults to the TTL", base, attestation{pcrs: good, made: noon.Add(-4 * time.Minute)}, noon, noon.Add(56 * time.Minute)},
		{"the evidence's age, given", change(t, base, "    issue:", "    max_evidence_age: 10m\n    issue:"), attestation{pcrs: good, made: noon.Add(-4 * time.Minute)}, noon, noon.Add(6 * time.Minute)},
		{"a document from the future counts from its verification", base, attestation{pcrs: good, made: noon.Add(4 * time.Minute)}, noon, noon.Add(time.Hour)},
		{"a document from the future, with a short age", change(t, base, "    issue:", "    max_evidence_age: 10m\n    issue:"), attestation{pcrs: good, made: noon.Add(4 * time.Minute)}, noon, noon.Add(10 * time.Minute)},
		{
			"the reference value's end", base,
			attestation{pcrs: map[int]string{0: "41", 3: "role"}, made: end41.Add(-30 * time.Minute), at: end41.Add(-30 * time.Minute)},
			end41.Add(-30 * time.Minute), end41,
		},
		{
			"a value without an end, at the same time", base,
			attestation{pcrs: good, made: end41.Add(-30 * time.Minute), at: end41.Add(-30 * time.Minute)},
			end41.Add(-30 * time.Minute), end41.Add(30 * time.Minute),
		},
		{
			"one second before the value's end", base,
			attestation{pcrs: map[int]string{0: "41", 3: "role"}, made: end41.Add(-time.Second), at: end41.Add(-time.Second)},
			end41.Add(-time.Second), end41,
		},
		{"the waiver's end", waived, attestation{pcrs: good}, noon, noon.Add(40 * time.Minute)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := parse(t, c.policy).Authorize(l.verify(t, c.a), c.at)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Issues()[0].NotAfter; !got.Equal(c.want) {
				t.Errorf("NotAfter %s, want %s", got, c.want)
			}
		})
	}
}

func TestNothingIsGrantedThatWouldEndAtOnce(t *testing.T) {
	l := newLab(t)
	end41 := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	short := change(t, base, "    issue:", "    max_evidence_age: 2m\n    issue:")
	for _, c := range []struct {
		name, policy, reason string
		a                    attestation
		at                   time.Time
	}{
		{"the evidence is exactly as old as allowed", short, policy.ReasonEvidenceTooOld, attestation{pcrs: good, made: noon.Add(-2 * time.Minute)}, noon},
		{"the evidence is older than allowed", short, policy.ReasonEvidenceTooOld, attestation{pcrs: good, made: noon.Add(-3 * time.Minute)}, noon},
		{"the reference value ends now", base, policy.ReasonPolicyExpired, attestation{pcrs: map[int]string{0: "41", 3: "role"}, made: end41, at: end41}, end41},
		{"the reference value ended a moment ago", base, policy.ReasonNoMatch, attestation{pcrs: map[int]string{0: "41", 3: "role"}, made: end41, at: end41}, end41.Add(time.Nanosecond)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := parse(t, c.policy).Authorize(l.verify(t, c.a), c.at)
			if d := denial(t, g, err); d.Reason != c.reason {
				t.Errorf("reason %s (%s), want %s", d.Reason, d.Detail, c.reason)
			}
		})
	}
	// One second younger, and it is granted.
	g, err := parse(t, short).Authorize(l.verify(t, attestation{pcrs: good, made: noon.Add(-119 * time.Second)}), noon)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Issues()[0].NotAfter; !got.Equal(noon.Add(time.Second)) {
		t.Errorf("NotAfter %s, want one second later", got)
	}
}

func TestTheZeroBundleGrantsNothing(t *testing.T) {
	l := newLab(t)
	g, err := new(policy.Bundle).Authorize(l.verify(t, attestation{pcrs: good}), noon)
	denial(t, g, err)
}
