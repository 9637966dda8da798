package agent

import (
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// nobodys gives every identity to a user that is not there.
func nobodys(m *assayv1.AttestResponse) {
	for _, v := range m.GetIssued().GetSvids() {
		v.Selectors = []*assayv1.Selector{{Type: "unix:uid", Value: "4711"}}
	}
}

// A host that keeps the first trust domain's server away puts no other authority in
// the place of those that Envoys trust for everything, and no other identity in that
// of theirs; by their names they have all that is there.
func TestRootCAAndDefaultAreNeverAnotherTrustDomains(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	ours.life = 6 * time.Second
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, oursID, partnerID)
	names := []string{"default", "ROOTCA", partnerID, partnerDomain.IDString()}
	if got := envoySecrets(t, a, names...); len(got) != 4 {
		t.Fatalf("at first: %d secrets", len(got))
	}
	ours.stop()
	eventually(t, "the first's SVID has ended", func() bool { return a.members[0].state.renewable() == nil })
	got := envoySecrets(t, a, names...)
	if len(got) != 2 || got["default"] != nil || got["ROOTCA"] != nil {
		t.Errorf("while the first is away: %d secrets, default %v, ROOTCA %v", len(got), got["default"] != nil, got["ROOTCA"] != nil)
	}
	// Nor at boot, before the first one is reached.
	b := severally(t, nil, ours, partner)
	serves(t, b, partnerID)
	if got := envoySecrets(t, b, names...); len(got) != 2 || got["default"] != nil || got["ROOTCA"] != nil {
		t.Errorf("at boot: %d secrets", len(got))
	}
	// Where the first has nothing for this Envoy, they are the second's.
	ours.life, ours.issue = time.Hour, nobodys
	ours.start()
	eventually(t, "the first is held", func() bool { return len(b.members[0].state.held()) > 0 })
	if got := envoySecrets(t, b, names...); len(got) != 4 || got["ROOTCA"].GetValidationContext().GetTrustedCa().String() != got[partnerDomain.IDString()].GetValidationContext().GetTrustedCa().String() {
		t.Errorf("of an Envoy of the second alone: %d secrets", len(got))
	}
}

// A hint of the first trust domain is not another's while the first is away.
func TestAHintStaysItsTrustDomainsWhileThatIsAway(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	ours.life = 6 * time.Second
	hint := func(m *assayv1.AttestResponse) { m.GetIssued().GetSvids()[0].Hint = "internal" }
	ours.issue, partner.issue = hint, hint
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	if r := serves(t, a, oursID, partnerID); r.GetSvids()[0].GetHint() != "internal" || r.GetSvids()[1].GetHint() != "" {
		t.Errorf("hints %v", r.GetSvids())
	}
	ours.stop()
	if r := serves(t, a, partnerID); r.GetSvids()[0].GetHint() != "" {
		t.Error("the hint is the other's now")
	}
}

// What is renewed in one trust domain is no message to who has identities of another.
func TestARenewalIsToldToThoseWhomItConcerns(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	partner.issue = nobodys
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, oursID)
	eventually(t, "both are held", func() bool { o, _ := a.offer(); return len(o.parts) == 2 })
	conn, c := callAgent(t, a)
	ctx := withHeader(t.Context(), "true")
	svids, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := agentv1.NewAgentClient(conn).WatchIdentities(ctx, &agentv1.WatchIdentitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svids.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := ids.Recv(); err != nil {
		t.Fatal(err)
	}
	more := make(chan string, 2)
	go func() {
		if _, err := svids.Recv(); err == nil {
			more <- "X509SVIDResponse"
		}
	}()
	go func() {
		if _, err := ids.Recv(); err == nil {
			more <- "Identities"
		}
	}()
	before := a.members[1].state.renewable()
	eventually(t, "the other is renewed", func() bool {
		a.members[1].plan.advance(a.members[1].time.now())
		now := a.members[1].state.renewable()
		return now != nil && now != before
	})
	select {
	case what := <-more:
		t.Errorf("another message, %s", what)
	case <-time.After(500 * time.Millisecond):
	}
}

// Of one's clock no process hears that has nothing in that trust domain.
func TestAProcessWithoutRightsHearsOfNobodysClock(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 4711 {
		t.Skip("SKIPPED: this is the user that the test calls nobody")
	}
	ours, partner, _, _ := two(t)
	ours.issue = nobodys
	partner.departed(t, 3*time.Hour)
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	eventually(t, "both are held", func() bool {
		return a.members[0].state.renewable() != nil && a.members[1].state.renewable() != nil
	})
	eventually(t, "the other's clock departs", func() bool { _, _, err := a.members[1].state.view(); return err != nil })
	_, c := callAgent(t, a)
	if _, err := x509Answer(t, c); status.Code(err) != codes.PermissionDenied {
		t.Errorf("it hears %v", err)
	}
}
