package agent

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// One agent in two trust domains, the second of which does what it can against the
// first. Two real servers are in several_issuer_test.go.

var partnerDomain = spiffeid.RequireTrustDomainFromString("simulated.partner.example")

const (
	oursID    = "spiffe://simulated.example.org/orders"
	partnerID = "spiffe://simulated.partner.example/orders"
)

// severally is an agent in the trust domains of all the servers, in their order.

func severally(t *testing.T, change func(*Config), servers ...*faultyServer) *Agent {
	t.Helper()
	cfg := servers[0].config(t)
	for _, s := range servers[1:] {
		cfg.Further = append(cfg.Further, s.membership(t))
	}
	if change != nil {
		change(&cfg)
	}
	a, _ := runAgent(t, cfg)
	return a
}

// two are servers of two trust domains, which mint.

func two(t *testing.T) (ours, partner *faultyServer, m, n *mints) {
	t.Helper()
	ours, partner = newFaultyServer(t), newFaultyServerIn(t, partnerDomain)
	m, n = newMints(t, ours), newMints(t, partner)
	return ours, partner, m, n
}

// x509Answer is the first message of FetchX509SVID.

func x509Answer(t *testing.T, c workload.SpiffeWorkloadAPIClient) (*workload.X509SVIDResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(withHeader(t.Context(), "true"), 5*time.Second)
	defer cancel()
	s, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	return s.Recv()
}

// serves waits until the agent serves just these identities, in this order.

func serves(t *testing.T, a *Agent, want ...string) *workload.X509SVIDResponse {
	t.Helper()
	_, c := callAgent(t, a)
	var got []string
	var out *workload.X509SVIDResponse
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r, err := x509Answer(t, c)
		if got = nil; err != nil {
			got = []string{err.Error()}
		}
		for _, v := range r.GetSvids() {
			got = append(got, v.GetSpiffeId())
		}
		if out = r; slices.Equal(got, want) {
			return out
		}
	}
	t.Fatalf("the agent serves %v, want %v", got, want)
	return nil
}

// stillServes fails as soon as anything but these is served.

func stillServes(t *testing.T, a *Agent, how string, want ...string) {
	t.Helper()
	_, c := callAgent(t, a)
	for range 20 {
		r, err := x509Answer(t, c)
		var got []string
		for _, v := range r.GetSvids() {
			got = append(got, v.GetSpiffeId())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%s: it serves %v, %v", how, got, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

func TestAServerThatIsAwayTakesNothingFromAnotherTrustDomain(t *testing.T) {
	t.Parallel()
	ours, partner, _, n := two(t)
	partner.start()
	// Nobody listens at the first one's address, yet.
	ours.start()
	ours.stop()
	a := severally(t, nil, ours, partner)
	serves(t, a, partnerID)
	_, c := callAgent(t, a)
	if r, err := fetchToken(c, "", "reports"); err != nil || len(r.GetSvids()) != 1 || r.GetSvids()[0].GetSpiffeId() != partnerID {
		t.Errorf("tokens: %v, %v", r, err)
	}
	if _, err := fetchToken(c, oursID, "reports"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token of the absent: %v", err)
	}
	ours.start()
	serves(t, a, oursID, partnerID)

	// It leaves again, and its tokens alone are not to be had.
	ours.stop()
	began := time.Now()
	r, err := fetchToken(c, "", "vault")
	if err != nil || len(r.GetSvids()) != 1 || r.GetSvids()[0].GetSpiffeId() != partnerID || n.calls.Load() == 0 {
		t.Errorf("tokens while one is away: %v, %v", r, err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the other's tokens took %s", d)
	}
	if _, err := fetchToken(c, oursID, "vault"); status.Code(err) != codes.Unavailable {
		t.Errorf("a token of who left: %v", err)
	}
	stillServes(t, a, "while one is away", oursID, partnerID)
}

// One that takes connections, and answers nothing, costs a caller of all tokens a

// second.

func TestAServerThatMintsForEverKeepsNobodysTokensBack(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	partner.mint = func(*assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
		<-hold
		return nil, status.Error(codes.Unavailable, "at last")
	}
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, oursID, partnerID)
	_, c := callAgent(t, a)
	began := time.Now()
	r, err := fetchToken(c, "", "reports")
	if err != nil || len(r.GetSvids()) != 1 || r.GetSvids()[0].GetSpiffeId() != oursID {
		t.Errorf("%v, %v", r, err)
	}
	if d := time.Since(began); d > tokenPatience+4*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestABanInOneTrustDomainIsHeardByThoseWhoAskForItAndTakesNothingFromAnother(t *testing.T) {
	t.Parallel()
	ours, partner, _, n := two(t)
	partner.life, n.life = 5*time.Second, 2*time.Second
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, oursID, partnerID)
	n.fail(status.Error(codes.Unauthenticated, "not a live SVID of this trust domain"))
	partner.with(func() {
		partner.refuse = func(*assayv1.Hello) *assayv1.Denied {
			return &assayv1.Denied{Kind: "denied", Check: "policy", Reference: "as-banned0001"}
		}
	})
	partner.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: assayv1.Reattest_REASON_BANNED}}}
	serves(t, a, oursID) // what it held has ended
	conn, c := callAgent(t, a)
	_, err := fetchToken(c, partnerID, "reports")
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "as-banned0001") || !strings.Contains(err.Error(), partnerDomain.Name()) {
		t.Errorf("who asks for the banned identity hears %v", err)
	}
	_, err = agentv1.NewAgentClient(conn).Sign(withHeader(t.Context(), "true"), &agentv1.SignRequest{SpiffeId: partnerID, HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256, Digest: make([]byte, 32)})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "as-banned0001") {
		t.Errorf("who signs with it hears %v", err)
	}
	if r, err := fetchToken(c, "", "reports"); err != nil || len(r.GetSvids()) != 1 || r.GetSvids()[0].GetSpiffeId() != oursID {
		t.Errorf("tokens: %v, %v", r, err)
	}
	if a.members[0].state.denial() != nil {
		t.Error("the denial is the other's too")
	}
	stillServes(t, a, "while one bans", oursID)
}

// departed makes a server's clock, and its certificate, those of another time.

func (s *faultyServer) departed(t *testing.T, by time.Duration) {
	t.Helper()
	s.leaf = s.bootstrap.serverLeaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(12 * time.Hour) })
	s.life = 12 * time.Hour
	s.challenge = func(m *assayv1.AttestResponse) {
		c := m.GetChallenge()
		c.TimeUnixMs += by.Milliseconds()
		c.DeadlineUnixMs += by.Milliseconds()
	}
}

func TestAServerWhoseClockDepartsStopsItsOwnTrustDomainAlone(t *testing.T) {
	t.Parallel()
	ours, partner, _, n := two(t)
	partner.departed(t, 3*time.Hour)
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, oursID)
	eventually(t, "the other's server has told its time", func() bool { return a.members[1].state.renewable() != nil })
	stillServes(t, a, "with one clock that departs", oursID)
	_, c := callAgent(t, a)
	_, err := fetchToken(c, partnerID, "reports")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "wall clock") || !strings.Contains(err.Error(), partnerDomain.Name()) {
		t.Errorf("who asks for the other hears %v", err)
	}
	// A token of ours is good by our own server's time.
	r, err := fetchToken(c, oursID, "reports")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(token string) error {
		_, err := c.ValidateJWTSVID(withHeader(t.Context(), "true"), &workload.ValidateJWTSVIDRequest{Audience: "reports", Svid: token})
		return err
	}
	if err := validate(r.GetSvids()[0].GetSvid()); err != nil {
		t.Error(err)
	}
	if err := validate(n.sign(map[string]any{"sub": partnerID, "aud": []string{"reports"}, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix()})); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "wall clock") {
		t.Errorf("a token of the trust domain that is not served now: %v", err)
	}
}

// What a server of one trust domain says of another that the agent is in counts for

// nothing: not in an SVID, a bundle, a token, nor by federation, also while the

// other's own server is away.

// envoySecrets are the secrets of the names that there are.

// Who gets an identity is asked for each, wherever it is from; and a foreign bundle

// comes with the identities of a trust domain that federates.

// A caller without selectors that match sees that there is nothing for it, and no name

// of what is for others; status answers all the same.

// A further trust domain costs its connections, and no more.
