package agent

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// One answer of a false server, or of one that was restored from a backup since, has
// the largest numbers there are. What is true is believed again within the hour.
func TestABundleWithALargeNumberDoesNotOutliveTheTrueOnes(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	k := must(newKeyRequest(P256, ""))
	s.life = 12 * time.Hour
	is := func(number uint64, extra ...[]byte) *issuance {
		m := must(s.issued(&assayv1.Hello{Keys: []*assayv1.KeyRequest{{Csr: k.csr}}}))
		b := m.GetIssued().GetBundle()
		b.Sequence, b.Revision, b.X509Authorities = number, number, append(b.X509Authorities, extra...)
		return must(checkIssued(m, testDomain, []keyRequest{k}, time.Now()))
	}
	at := time.Now()
	st := newState(func() time.Time { return at }, newSignal())
	evil := is(math.MaxUint64, newAuthority(t, "evil").cert.Raw)
	adopt := func(after time.Duration, i *issuance, want older, number uint64) {
		t.Helper()
		at = at.Add(after)
		if got := st.adopt(i.svids, i.bundle); got != want || st.bundleHeld().sequence != number {
			t.Errorf("after %s: %d, and the bundle %d is held; want %d, %d", after, got, st.bundleHeld().sequence, want, number)
		}
	}
	adopt(0, evil, notOlder, math.MaxUint64)
	adopt(30*time.Minute, is(7), leftOut, math.MaxUint64)
	adopt(30*time.Minute, is(8), leftOut, math.MaxUint64)
	adopt(29*time.Minute, is(8), leftOut, math.MaxUint64)
	adopt(time.Minute, is(9), taken, 9)
	adopt(time.Minute, is(10), notOlder, 10)
	// A server that lags, beside one that does not, changes nothing.
	for range 10 {
		adopt(20*time.Minute, is(9), leftOut, 10)
		adopt(20*time.Minute, is(10), notOlder, 10)
	}
}

// That a bundle is left out is in the log.
func TestTheLogSaysThatABundleWasLeftOut(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.sequence = 9
	s.start()
	cfg := s.config(t)
	var logs lockedBuffer
	cfg.Log = slog.New(slog.NewTextHandler(&logs, nil))
	a, _ := runAgent(t, cfg)
	before := served(t, a)
	s.with(func() { s.sequence = 7 })
	eventually(t, "it renews", func() bool {
		a.members[0].plan.advance(a.members[0].time.now())
		return served(t, a) != before
	})
	if !strings.Contains(logs.String(), "bundle is older than the one that is held") {
		t.Error("the log says nothing")
	}
}

// A workload that fetches once, as soon as anything is served, has all its identities.
func TestAtBootNothingIsServedBeforeAllIdentitiesAreThere(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	for _, n := range []string{"b", "c"} {
		s.ids = append(s.ids, oursID+"/"+n)
	}
	hold := make(chan struct{})
	s.refuse = func(h *assayv1.Hello) *assayv1.Denied {
		if len(h.GetKeys()) > 1 { // the second one
			<-hold
		}
		return nil
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	m := a.members[0]
	eventually(t, "the first one is held", func() bool { return m.state.renewable() != nil })
	for range 20 {
		if _, err := current(t, a); err == nil {
			t.Fatal("one identity of three is served")
		}
		time.Sleep(10 * time.Millisecond)
	}
	close(hold)
	serves(t, a, s.ids...)
}

// Where the second attestation fails, the first one's identities are served.
func TestTheFirstIdentityIsServedWhereTheOthersCannotBeHad(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.ids = append(s.ids, oursID+"/b")
	s.refuse = func(h *assayv1.Hello) *assayv1.Denied {
		if len(h.GetKeys()) > 1 {
			return &assayv1.Denied{Kind: "unavailable", Check: "server", Reference: "as-1"}
		}
		return nil
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	serves(t, a, s.ids[0])
}

// The host sets the clock back, and a server's key that was stolen shows a certificate
// that has ended: it ended before the image was made.
func TestAServerOfBeforeTheImageIsNotBelievedAtBoot(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	at := time.Now().Add(-40 * time.Minute)
	s.leaf = s.bootstrap.serverLeaf(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = at.Add(-10*time.Minute), at.Add(20*time.Minute)
	})
	s.challenge = func(r *assayv1.AttestResponse) {
		r.GetChallenge().TimeUnixMs, r.GetChallenge().DeadlineUnixMs = at.UnixMilli(), at.Add(time.Minute).UnixMilli()
	}
	s.certify = func(_ int, c *x509.Certificate) { c.NotBefore, c.NotAfter = at, at.Add(time.Hour) }
	s.start()
	cfg := s.config(t)
	clock := &setClock{}
	clock.set(-40 * time.Minute)
	cfg.Clock = clock
	attestOnce := func() error {
		m := must(New(cfg)).members[0]
		l := must(m.dial(nil))
		defer func() { _ = l.Close() }()
		return m.attestAll(t.Context(), l)
	}
	if err := attestOnce(); err != nil {
		t.Fatalf("without a floor the host's clock decides: %v", err)
	}
	cfg.NotBefore = time.Now().Add(-time.Minute)
	wantCheck(t, attestOnce(), attest.Stale, "server_chain")

	// A leaf that is still good, and a server whose word is of the past.
	s.stop()
	s.leaf = s.bootstrap.serverLeaf(t, func(c *x509.Certificate) { c.NotBefore = at.Add(-time.Minute) })
	s.start()
	wantCheck(t, attestOnce(), attest.Stale, "challenge_time")

	// The newest of the pinned roots is a floor, too.
	m := must(New(cfg)).members[0]
	if m.time.floor != cfg.NotBefore {
		t.Errorf("the floor is %s", m.time.floor)
	}
	cfg.NotBefore = time.Time{}
	if m := must(New(cfg)).members[0]; !m.time.floor.Equal(s.bootstrap.cert.NotBefore) {
		t.Errorf("the floor is %s, the root is of %s", m.time.floor, s.bootstrap.cert.NotBefore)
	}
}

// Who federates with the trust domain decides how large their bundles are.
func TestLargeForeignBundlesKeepNobodyFromTheirIdentity(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	var fed []*assayv1.FederatedBundle
	der := newAuthority(t, "large").cert.Raw
	for i := range 30 {
		f := foreignBundle(t, fmt.Sprintf("f%d.example.org", i))
		for range maxAuthorities - 1 {
			f.X509Authorities = append(f.X509Authorities, der)
		}
		fed = append(fed, f)
	}
	fed = append(fed, foreignBundle(t, "small.example.org"))
	s.issue = func(r *assayv1.AttestResponse) { r.GetIssued().GetBundle().Federated = fed }
	s.start()
	cfg := s.config(t)
	var logs lockedBuffer
	cfg.Log = slog.New(slog.NewTextHandler(&logs, nil))
	for i := 1; i < MaxTrustDomains; i++ {
		o := newFaultyServerIn(t, must(domain(fmt.Sprintf("simulated.m%d.example.org", i))))
		o.address = "127.0.0.1:1"
		cfg.Further = append(cfg.Further, o.membership(t))
	}
	a, _ := runAgent(t, cfg)
	m := a.members[0]
	eventually(t, "its identity is there", func() bool { return m.state.renewable() != nil })
	now, _, err := m.state.view()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(now.bundle.federated); n < 2 || n >= len(fed) || now.bundle.federated[n-1].td.Name() != "small.example.org" || room(now.svids, now.bundle) > m.room {
		t.Errorf("%d foreign bundles, with %d bytes of %d", n, room(now.svids, now.bundle), m.room)
	}
	if !strings.Contains(logs.String(), "a foreign trust bundle is left out") {
		t.Error("the log says nothing")
	}
}
