package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// What callers hear of an agent that was banned: PermissionDenied, which is for what
// they may not have, and not Unavailable, which passes by itself (SPIFFE Workload
// Endpoint, section 6 and appendix A). A token is refused at once, also one that was
// kept; an X.509-SVID is served until it ends, or relying parties' deny-lists end it.
func TestAWorkloadOfABannedAgentHearsThatItIsDenied(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	m := newMints(t, s)
	s.life, m.life = 6*time.Second, 3*time.Second
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agent watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 0 })

	// The ban: nothing is issued any more, and the watch says so.
	m.fail(status.Error(codes.Unauthenticated, "not a live SVID of this trust domain"))
	s.with(func() {
		s.refuse = func(*assayv1.Hello) *assayv1.Denied {
			return &assayv1.Denied{Kind: "denied", Check: "policy", Reference: "as-k3v9x2q7ma"}
		}
	})
	s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: assayv1.Reattest_REASON_BANNED}}}
	eventually(t, "the agent has heard it", func() bool { return a.members[0].state.denial() != nil })

	denied := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "as-k3v9x2q7ma") {
			t.Errorf("%s: got %v, want PermissionDenied with the reference", what, err)
		}
	}
	_, err := fetchToken(c, "", "reports")
	denied("the token of before", err)
	_, err = fetchToken(c, "", "vault")
	denied("another token", err)
	if _, err := current(t, a); err != nil {
		t.Errorf("the X.509-SVID is good until it ends: %v", err)
	}
	eventually(t, "it has ended", func() bool { return a.members[0].state.renewable() == nil })
	err = first(withHeader(context.Background(), "true"), func(ctx context.Context) (grpc.ServerStreamingClient[workload.X509SVIDResponse], error) {
		return c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	})
	denied("after the X.509-SVID's end", err)

	// Lifted, it is as if it had not been.
	m.fail(nil)
	s.with(func() { s.refuse = nil })
	a.members[0].plan.advance(a.members[0].time.now())
	eventuallyWithin(t, deniedCap, "the agent serves again", func() bool { _, err := current(t, a); return err == nil })
	if _, err := fetchToken(c, "", "reports"); err != nil || a.members[0].state.denial() != nil {
		t.Errorf("a token afterwards: %v", err)
	}
}

// That the server is away is no denial, and takes none back.
func TestOnlyTheServersDenialCountsAsOne(t *testing.T) {
	t.Parallel()
	s := newState(bubbleClock{}.Wall, newSignal())
	for _, err := range []error{nil, errTest, &attest.Error{Kind: attest.Denied, Check: "policy"}, &Refusal{Kind: attest.Unavailable}, &Refusal{Kind: attest.Untrusted}} {
		if s.deny(err); s.denial() != nil {
			t.Errorf("%v counts as a denial", err)
		}
	}
	s.deny(&Refusal{Kind: attest.Denied, Reference: "as-1"})
	s.deny(&Refusal{Kind: attest.Unavailable})
	if d := s.denial(); d == nil || d.Reference != "as-1" {
		t.Errorf("an outage took the denial back: %v", d)
	}
}

// A host that cuts the watch keeps the server's word from the agent until the next
// attestation, and no longer.
func TestNoTokenIsHandedOutOnceAnAttestationWasDenied(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	newMints(t, s)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Fatal(err)
	}
	s.with(func() {
		s.refuse = func(*assayv1.Hello) *assayv1.Denied {
			return &assayv1.Denied{Kind: "denied", Check: "policy", Reference: "as-k3v9x2q7ma"}
		}
	})
	eventually(t, "the renewal is denied", func() bool {
		a.members[0].plan.advance(a.members[0].time.now())
		return a.members[0].state.denial() != nil
	})
	if _, err := fetchToken(c, "", "reports"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "as-k3v9x2q7ma") {
		t.Errorf("a token that was kept is handed out: %v", err)
	}
}
