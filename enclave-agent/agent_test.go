package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// current is the serial number of the first SVID that the Workload API hands
// out, or "" and the error.
func current(t testing.TB, a *Agent) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	v, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+a.cfg.Socket))
	if err != nil {
		return "", err
	}
	return v.Certificates[0].SerialNumber.String(), nil
}

func served(t testing.TB, a *Agent) string {
	t.Helper()
	var got string
	eventually(t, "the agent serves an SVID", func() bool {
		s, err := current(t, a)
		got = s
		return err == nil
	})
	return got
}

func TestAnAgentBootsAndServesItsSVIDAndBundle(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	src, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+a.cfg.Socket)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	v := must(src.GetX509SVID())
	if v.ID.String() != s.ids[0] {
		t.Errorf("got %s", v.ID)
	}
	b := must(src.GetX509BundleForTrustDomain(testDomain))
	if !b.HasX509Authority(s.ca.cert) || len(b.X509Authorities()) != 1 {
		t.Error("another bundle")
	}
	bundles, err := workloadapi.FetchX509Bundles(ctx, workloadapi.WithAddr("unix://"+a.cfg.Socket))
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := bundles.Get(testDomain); !ok || !b.HasX509Authority(s.ca.cert) || bundles.Len() != 1 {
		t.Error("another set of bundles")
	}
}

func TestARenewalHasNewKeysAndProvesTheOldOne(t *testing.T) {
	t.Parallel()
	for _, kt := range []KeyType{P256, P384, Ed25519, RSA2048} { // larger RSA keys take their time, and the same road
		t.Run(string(kt), func(t *testing.T) {
			t.Parallel()
			s := newFaultyServer(t)
			s.start()
			cfg := s.config(t)
			cfg.KeyType = kt
			a := must(New(cfg))
			l := must(a.members[0].server.dial(s.address, nil, nil))
			defer func() { _ = l.Close() }()
			for range 2 {
				if err := a.members[0].attestAll(context.Background(), l); err != nil {
					t.Fatal(err)
				}
			}
			h := s.heard()
			if p := []assayv1.Purpose{h[0].hello.Purpose, h[1].hello.Purpose}; !slices.Equal(p, []assayv1.Purpose{assayv1.Purpose_PURPOSE_BOOT, assayv1.Purpose_PURPOSE_RENEW}) {
				t.Errorf("purposes %v", p)
			}
			if h[0].evidence.GetRenewal() != nil {
				t.Error("a boot with a renewal proof")
			}
			if h[0].peer != h[1].peer {
				t.Error("a renewal on another connection")
			}
			first := must(x509.ParseCertificateRequest(h[0].hello.Keys[0].Csr))
			second := must(x509.ParseCertificateRequest(h[1].hello.Keys[0].Csr))
			if cmp.Equal(first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo) {
				t.Error("the same key twice")
			}
			r := h[1].evidence.GetRenewal()
			old := must(x509.ParseCertificate(r.GetCertificate()))
			if !cmp.Equal(old.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
				t.Error("the proof is of another certificate")
			}
		})
	}
}

// The message and the schemes are spelled out here as attestation.proto has
// them, not taken from the code.
func TestARenewalProofIsASignatureInTheSchemeOfTheKey(t *testing.T) {
	t.Parallel()
	for _, kt := range []KeyType{P256, P384, Ed25519, RSA2048} {
		key := must(kt.generate())
		b := [32]byte{1, 2, 3}
		msg := append([]byte("assay/v1 renew\x00"), b[:]...)
		r, err := proveRenewal(&svid{key: key, chain: []*x509.Certificate{{Raw: []byte("leaf")}}}, b)
		if err != nil {
			t.Fatal(err)
		}
		s256, s384 := sha256.Sum256(msg), sha512.Sum384(msg)
		ok := false
		switch pub := key.Public().(type) {
		case *ecdsa.PublicKey:
			digest := s256[:]
			if kt == P384 {
				digest = s384[:]
			}
			ok = ecdsa.VerifyASN1(pub, digest, r.Signature)
		case ed25519.PublicKey:
			ok = ed25519.Verify(pub, msg, r.Signature)
		case *rsa.PublicKey:
			ok = rsa.VerifyPSS(pub, 5 /* SHA-256 */, s256[:], r.Signature, &rsa.PSSOptions{SaltLength: 32}) == nil
		}
		if !ok || string(r.Certificate) != "leaf" {
			t.Errorf("%s: the proof does not verify", kt)
		}
	}
}

func TestEveryTypeOfKeyIsMadeAndFitsIntoAnNSMDocument(t *testing.T) {
	t.Parallel()
	for _, kt := range KeyTypes() {
		if testing.Short() && (kt == RSA3072 || kt == RSA4096) {
			continue
		}
		k, err := newKeyRequest(kt, "")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(k.bound.SPKI); n == 0 || n > 1024 {
			t.Errorf("%s: a public key of %d bytes", kt, n)
		}
		if err := must(x509.ParseCertificateRequest(k.csr)).CheckSignature(); err != nil {
			t.Errorf("%s: %v", kt, err)
		}
	}
	if _, err := newKeyRequest("dsa", ""); err == nil {
		t.Error("an unknown type of key")
	}
}

func TestARefusedRenewalProofFallsBackToBoot(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.unproved = &assayv1.Denied{Kind: "untrusted", Check: "renewal_proof"}
	s.start()
	a := must(New(s.config(t)))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	for range 2 {
		if err := a.members[0].attestAll(context.Background(), l); err != nil {
			t.Fatal(err)
		}
	}
	var got []assayv1.Purpose
	for _, h := range s.heard() {
		got = append(got, h.hello.Purpose)
	}
	if want := []assayv1.Purpose{1, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("purposes %v, want %v", got, want)
	}
}

func TestADenialOfARenewalIsNotTriedAsABoot(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.unproved = &assayv1.Denied{Kind: "denied", Check: "policy"}
	s.start()
	a := must(New(s.config(t)))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	if err := a.members[0].attestAll(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	wantCheck(t, a.members[0].attestAll(context.Background(), l), attest.Denied, "policy")
	if n := len(s.heard()); n != 2 {
		t.Errorf("%d attestations, want 2", n)
	}
}

func TestFurtherIdentitiesAreAskedForOnTheSameConnectionAndRemembered(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.ids = []string{"spiffe://simulated.example.org/a", "spiffe://simulated.example.org/b", "spiffe://simulated.example.org/c"}
	s.start()
	a := must(New(s.config(t)))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	for range 2 {
		if err := a.members[0].attestAll(context.Background(), l); err != nil {
			t.Fatal(err)
		}
	}
	h := s.heard()
	var keys []int
	for _, x := range h {
		keys = append(keys, len(x.hello.Keys))
		if x.peer != h[0].peer {
			t.Error("another connection")
		}
	}
	if want := []int{1, 3, 3}; !slices.Equal(keys, want) {
		t.Errorf("%v keys, want %v", keys, want)
	}
	snap, _, err := a.members[0].state.view()
	if err != nil || len(snap.svids) != 3 {
		t.Fatalf("%v, %v", snap, err)
	}
	// Policy takes two of them back: their keys are not made again.
	s.with(func() { s.ids = s.ids[:1] })
	for range 2 {
		if err := a.members[0].attestAll(context.Background(), l); err != nil {
			t.Fatal(err)
		}
	}
	h = s.heard()
	if got := []int{len(h[3].hello.Keys), len(h[4].hello.Keys)}; !slices.Equal(got, []int{3, 1}) {
		t.Errorf("%v keys, want 3 and then 1", got)
	}
}

func TestAnAgentWithNamesOfItsOwnAsksForThoseAlone(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.ids = []string{"spiffe://simulated.example.org/a", "spiffe://simulated.example.org/b"}
	s.start()
	cfg := s.config(t)
	cfg.Identities = append(cfg.Identities, must(idFrom(s.ids[0])))
	a := must(New(cfg))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	if err := a.members[0].attestAll(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	h := s.heard()
	if len(h) != 1 || h[0].hello.Keys[0].RequestedId != s.ids[0] {
		t.Errorf("%d attestations, asked for %q", len(h), h[0].hello.Keys[0].RequestedId)
	}
}

func TestNonsenseAtARenewalLeavesTheOldSVIDInUse(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	before := served(t, a)
	s.with(func() { s.issue = func(m *assayv1.AttestResponse) { m.GetIssued().Bundle = nil } })
	a.members[0].plan.advance(a.members[0].time.now())
	eventually(t, "the agent tried to renew twice", func() bool { return len(s.heard()) >= 3 })
	if now := served(t, a); now != before {
		t.Error("another SVID")
	}
	s.with(func() { s.issue = nil })
	eventually(t, "it renewed", func() bool { return served(t, a) != before })
}

func TestAnOutageIsSurvived(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.life = 8 * time.Second
	s.start()
	a, _ := runAgent(t, s.config(t))
	before := served(t, a)
	s.stop()
	// The renewal is due at about half of the lifetime: it fails, again and
	// again, and the SVID is served meanwhile.
	time.Sleep(5 * time.Second)
	if got := served(t, a); got != before {
		t.Fatal("another SVID without a server")
	}
	// Past its end it is not.
	eventually(t, "the expired SVID is no longer served", func() bool {
		_, err := current(t, a)
		return status.Code(err) == codes.PermissionDenied
	})
	s.with(func() { s.life = time.Hour })
	s.start()
	// After so many failures the agent may wait as long as it ever does.
	eventuallyWithin(t, retryCap+20*time.Second, "the agent serves an SVID again", func() bool { _, err := current(t, a); return err == nil })
	if got := served(t, a); got == before {
		t.Error("the same SVID")
	}
	h := s.heard()
	if last := h[len(h)-1].hello.Purpose; last != assayv1.Purpose_PURPOSE_BOOT {
		t.Errorf("the attestation after the SVID's end is a %s", last)
	}
}

func TestAnAgentThatStartsBeforeItsServerWaitsForIt(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	cfg := s.config(t)
	s.stop()
	a, _ := runAgent(t, cfg)
	if _, err := current(t, a); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want PermissionDenied", err)
	}
	time.Sleep(300 * time.Millisecond)
	s.start()
	served(t, a)
}

func TestADeniedAgentGoesOnAsking(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.refuse = func(*assayv1.Hello) *assayv1.Denied { return &assayv1.Denied{Kind: "denied", Check: "policy"} }
	s.start()
	a, _ := runAgent(t, s.config(t))
	eventually(t, "it asked", func() bool { return len(s.heard()) == 1 })
	if _, err := current(t, a); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want PermissionDenied", err)
	}
	s.with(func() { s.refuse = nil })
	served(t, a)
}

// A program that knows only go-spiffe rotates through renewals while it makes
// handshakes as fast as it can, and none fails.
func TestThreeRenewalsUnderLoadFailNoCall(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.issue = func(m *assayv1.AttestResponse) { // SVIDs that last, renewed every second
		m.GetIssued().RenewAfterUnixMs = time.Now().Add(time.Second).UnixMilli()
		m.GetIssued().RenewBeforeUnixMs = time.Now().Add(1200 * time.Millisecond).UnixMilli()
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	src, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+a.cfg.Socket)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	var (
		mu      sync.Mutex
		serials = map[string]bool{}
		calls   atomic.Int64
		wg      sync.WaitGroup
	)
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				n, err := handshake(src)
				if err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
				mu.Lock()
				serials[n] = true
				mu.Unlock()
			}
		})
	}
	eventually(t, "three renewals are over", func() bool { mu.Lock(); defer mu.Unlock(); return len(serials) >= 4 })
	close(done)
	wg.Wait()
	t.Logf("%d handshakes over %d SVIDs", calls.Load(), len(serials))
}

func TestTheServersWordLeadsToARenewal(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	before := served(t, a)
	time.Sleep(minInterval) // events right after an attestation are taken together with it
	s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: assayv1.Reattest_REASON_POLICY_CHANGED, WithinMs: 50}}}
	eventually(t, "it renewed", func() bool { return served(t, a) != before })
	if p := s.heard()[1].hello.Purpose; p != assayv1.Purpose_PURPOSE_RENEW {
		t.Errorf("purpose %s", p)
	}
}

func TestANewBundleReachesWorkloads(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	seen := make(bundleWatch, 16)
	go func() { _ = workloadapi.WatchX509Bundles(ctx, seen, workloadapi.WithAddr("unix://"+a.cfg.Socket)) }()
	seen.want(t, 1)
	eventually(t, "the agent watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 0 })
	next := newAuthority(t, "next")
	s.with(func() { s.sequence++ })
	b := s.bundle()
	b.X509Authorities = append(b.X509Authorities, next.cert.Raw)
	bad := clone(b)
	bad.TrustDomain = "other.example.org"
	s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: b}}
	seen.want(t, 2)
	// An older one, and one of another trust domain, change nothing.
	old := s.bundle()
	old.Sequence--
	s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: old}}
	s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: bad}}
	eventually(t, "the watch was opened again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 1 })
	select {
	case n := <-seen:
		t.Errorf("an update to %d authorities", n)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestABundleWithoutOurAuthorityLeadsToANewAttestation(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	before := served(t, a)
	time.Sleep(minInterval)
	next := newAuthority(t, "next")
	s.with(func() { s.ca, s.sequence = next, s.sequence+1 })
	s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: s.bundle()}}
	eventually(t, "it has an SVID of the new authority", func() bool { return served(t, a) != before })
}

func TestTheLaggingBundleOfAnotherServerDoesNotReplaceANewerOne(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	k := must(newKeyRequest(P256, ""))
	is := func() *issuance {
		m := must(s.issued(&assayv1.Hello{Keys: []*assayv1.KeyRequest{{Csr: k.csr}}}))
		return must(checkIssued(m, testDomain, []keyRequest{k}, time.Now()))
	}
	st := newState(time.Now, newSignal())
	s.sequence = 7
	first := is()
	st.adopt(first.svids, first.bundle)
	s.sequence = 6
	lagging := is()
	st.adopt(lagging.svids, lagging.bundle)
	if snap, _, _ := st.view(); snap.bundle.sequence != 7 || snap.svids[0] != lagging.svids[0] {
		t.Errorf("bundle %d", snap.bundle.sequence)
	}
	// One that signed the SVID wins over a newer one that did not.
	s.ca = newAuthority(t, "restored")
	restored := is()
	st.adopt(restored.svids, restored.bundle)
	if snap, _, _ := st.view(); snap.bundle.sequence != 6 {
		t.Errorf("bundle %d", snap.bundle.sequence)
	}
}

func TestAPanicInAnAttesterIsAnErrorAndTheAgentLivesOn(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	cfg := s.config(t)
	broken := &brokenAttester{Attester: cfg.Attester}
	cfg.Attester = broken
	a, _ := runAgent(t, cfg)
	eventually(t, "it failed twice", func() bool { return broken.calls.Load() >= 2 })
	broken.mend.Store(true)
	served(t, a)
}

type brokenAttester struct {
	Attester
	calls atomic.Int64
	mend  atomic.Bool
}

func (b *brokenAttester) Evidence(ctx context.Context, want attest.Binding) (attest.Evidence, error) {
	if b.mend.Load() {
		return b.Attester.Evidence(ctx, want)
	}
	b.calls.Add(1)
	panic(errTest)
}

func TestTheConfigurationOfAnAgentIsChecked(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	good := s.config(t)
	for name, spoil := range map[string]func(*Config){
		"no trust domain":        func(c *Config) { c.TrustDomain = must(domain("")) },
		"another trust domain":   func(c *Config) { c.TrustDomain = must(domain("other.example.org")) },
		"no server":              func(c *Config) { c.Server = "" },
		"a server without port":  func(c *Config) { c.Server = "10.0.0.1" },
		"no roots":               func(c *Config) { c.BootstrapRoots = BootstrapRoots{} },
		"no attester":            func(c *Config) { c.Attester = nil },
		"no socket":              func(c *Config) { c.Socket = "" },
		"a relative socket":      func(c *Config) { c.Socket = "agent.sock" },
		"an abstract socket":     func(c *Config) { c.Socket = "@agent" },
		"a socket path too long": func(c *Config) { c.Socket = "/" + string(make([]byte, 200)) },
		"an unknown key type":    func(c *Config) { c.KeyType = "dsa" },
		"a foreign identity":     func(c *Config) { c.Identities = append(c.Identities, must(idFrom("spiffe://other.example.org/a"))) },
		"more identities than fit": func(c *Config) {
			for range 17 {
				c.Identities = append(c.Identities, must(idFrom("spiffe://simulated.example.org/a")))
			}
		},
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestWaitsAreJitteredAndBounded(t *testing.T) {
	t.Parallel()
	var b backoff
	var seen []time.Duration
	for range 64 {
		d := b.next(retryBase, retryCap)
		if d < retryFloor || d > retryCap {
			t.Fatalf("waits %s", d)
		}
		seen = append(seen, d)
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) < 32 {
		t.Error("there is no jitter")
	}
	high := backoff{rand: func() float64 { return 1 }}
	var got []time.Duration
	for range 9 {
		got = append(got, high.next(time.Second, time.Minute))
	}
	want := []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9, 60e9}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if d := retryAfter(&Refusal{Kind: attest.Denied}, &backoff{rand: func() float64 { return 1 }}); d != deniedBase {
		t.Errorf("after a denial: %s", d)
	}
	if d := retryAfter(errors.New("x"), &backoff{rand: func() float64 { return 1 }}); d != retryBase {
		t.Errorf("after an error: %s", d)
	}
}
