package svid_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// world is what a TLS test can change between two connections.
type world struct {
	mu      sync.Mutex
	now     time.Time
	bundle  *x509bundle.Bundle
	keys    *svid.VerifierKeys
	resumed bool // the last connection that was verified was a resumed one
}

func (w *world) Now() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bundle.GetX509BundleForTrustDomain(td)
}

func (w *world) VerifierKeys(spiffeid.TrustDomain) (*svid.VerifierKeys, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keys, nil
}

func (w *world) set(change func(*world)) { w.mu.Lock(); defer w.mu.Unlock(); change(w) }

// watch notes whether a connection that is verified was resumed.
func (w *world) watch(cfg *tls.Config) *tls.Config {
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		w.set(func(w *world) { w.resumed = cs.DidResume })
		return verify(cs)
	}
	return cfg
}

// connect makes one connection, sends a byte each way, and returns the errors
// of both ends.
func connect(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		s := tls.Server(conn, server)
		defer func() { _ = s.Close() }()
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = s.Write([]byte("a")) // completes the handshake, and sends the session ticket first
		if err == nil {
			_, err = io.ReadFull(s, make([]byte, 1))
		}
		done <- err
	}()
	clientErr = func() error {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		c := tls.Client(conn, client)
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
		_, err = c.Write([]byte("b"))
		return err
	}()
	return clientErr, <-done
}

// tlsWorld is a pair of workloads of one trust domain.
func tlsWorld(t *testing.T) (w *world, a *svidtest.Authority, orders, inventory *x509svid.SVID) {
	t.Helper()
	a = authority(t)
	w = &world{now: now, bundle: a.Bundle(), keys: a.VerifierKeys()}
	return w, a, a.Mint(t, "/orders"), a.Mint(t, "/inventory")
}

func (w *world) tls(own *x509svid.SVID, require ...svid.Requirement) svid.TLS {
	ends := svid.TLS{Source: w, Require: append(require, svid.AnyID()), Now: w.Now}
	if own != nil {
		ends.Own = own
	}
	return ends
}

func TestTwoAttestedWorkloadsTalk(t *testing.T) {
	w, _, orders, inventory := tlsWorld(t)
	c, s := connect(t,
		w.tls(inventory, svid.ID(orders.ID)).Client(),
		w.tls(orders, svid.PCR(0, svidtest.Digest("image"))).Server())
	if c != nil || s != nil {
		t.Fatalf("client: %v; server: %v", c, s)
	}
}

func TestEachEndRefusesAPeerThatDoesNotMeetItsRequirements(t *testing.T) {
	w, a, orders, inventory := tlsWorld(t)
	another := svid.PCR(0, svidtest.Digest("another"))

	_, s := connect(t, w.tls(inventory).Client(), w.tls(orders, another).Server())
	wantError(t, s, attest.Denied, "pcr0")
	c, _ := connect(t, w.tls(inventory, another).Client(), w.tls(orders).Server())
	wantError(t, c, attest.Denied, "pcr0")

	plain := a.Mint(t, "/inventory", svidtest.Unattested())
	_, s = connect(t, w.tls(plain).Client(), w.tls(orders).Server())
	wantError(t, s, attest.Untrusted, "result_missing")
	c, _ = connect(t, w.tls(inventory).Client(), w.tls(plain).Server())
	wantError(t, c, attest.Untrusted, "result_missing")

	// A client without a certificate, and one that only speaks TLS 1.2.
	if _, s = connect(t, &tls.Config{InsecureSkipVerify: true}, w.tls(orders).Server()); s == nil {
		t.Error("a client without a certificate got through")
	}
	old := tlsconfig.MTLSClientConfig(inventory, w, tlsconfig.AuthorizeAny())
	old.Time, old.MaxVersion = w.Now, tls.VersionTLS12
	if _, s = connect(t, old, w.tls(orders).Server()); s == nil {
		t.Error("TLS 1.2 got through")
	}
}

func TestAnEndWithoutItsOwnSVIDFails(t *testing.T) {
	w, _, orders, inventory := tlsWorld(t)
	_, s := connect(t, w.tls(inventory).Client(), svid.TLS{Source: w, Now: w.Now}.Server())
	wantError(t, s, attest.Internal, "own_svid")
	// A client shows none: it is for the server to say whether it wants one.
	if _, s = connect(t, w.tls(nil).Client(), w.tls(orders).Server()); s == nil {
		t.Error("a client without an SVID got through")
	}
	takesTokens := svid.Gate{Source: w, Tokens: jwtbundle.New(orders.ID.TrustDomain()), Now: w.Now}
	if c, s := connect(t, w.tls(nil).Client(), takesTokens.ServerTLS(orders)); c != nil || s != nil {
		t.Errorf("a client that would show a token: %v, server: %v", c, s)
	}
}

func TestAClientThatDoesNotSayWhoTheServerIsTalksToNobody(t *testing.T) {
	w, _, orders, inventory := tlsWorld(t)
	for name, tc := range map[string]struct {
		require []svid.Requirement
		check   string
	}{
		"nothing":                {nil, "server_name"},
		"nothing about its name": {[]svid.Requirement{svid.MaxAge(time.Hour), svid.PCR(0, svidtest.Digest("image"))}, "server_name"},
		"its ID":                 {[]svid.Requirement{svid.ID(orders.ID)}, ""},
		"its trust domain":       {[]svid.Requirement{svid.MemberOf(orders.ID.TrustDomain())}, ""},
		"anybody":                {[]svid.Requirement{svid.AnyID()}, ""},
		"another ID":             {[]svid.Requirement{svid.ID(inventory.ID)}, "id"},
	} {
		c, _ := connect(t, svid.TLS{Own: inventory, Source: w, Require: tc.require, Now: w.Now}.Client(), w.tls(orders).Server())
		if attest.CheckOf(c) != tc.check || (c == nil) != (tc.check == "") {
			t.Errorf("%s: got %v, want check %q", name, c, tc.check)
		}
	}
}

// TestAResumedSessionIsCheckedAgain resumes a session that was good when it was
// opened, after something that it depended on has changed.
func TestAResumedSessionIsCheckedAgain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(w *world, stranger *svidtest.Authority)
		kind   attest.Kind
		check  string
	}{
		{"too old", func(w *world, _ *svidtest.Authority) { w.now = now.Add(11 * time.Minute) }, attest.Stale, "max_age"},
		{"bundle changed", func(w *world, s *svidtest.Authority) { w.bundle = s.Bundle() }, attest.Untrusted, "chain"},
		{"verifier key withdrawn", func(w *world, s *svidtest.Authority) { w.keys = s.VerifierKeys() }, attest.Untrusted, "verifier_key"},
		{"verifier keys expired", func(w *world, _ *svidtest.Authority) { w.keys.NextUpdate = now }, attest.Stale, "verifier_keys_expired"},
	} {
		for _, end := range []string{"server", "client"} {
			t.Run(tc.name+" on the "+end, func(t *testing.T) {
				w, a, orders, inventory := tlsWorld(t)
				still := &world{now: now, bundle: a.Bundle(), keys: a.VerifierKeys()} // the other end's world does not change
				var client, server *tls.Config
				if end == "server" {
					server = w.watch(w.tls(orders, svid.MaxAge(10*time.Minute)).Server())
					client = still.tls(inventory).Client()
				} else {
					server = still.tls(orders).Server()
					client = w.watch(w.tls(inventory, svid.MaxAge(10*time.Minute)).Client())
				}
				client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				client.ServerName = "orders" // the key of the session cache; otherwise it is the address, which changes
				for i := range 2 {
					if c, s := connect(t, client, server); c != nil || s != nil {
						t.Fatalf("connection %d: client: %v; server: %v", i, c, s)
					}
				}
				if !w.resumed {
					t.Fatal("the second connection did not resume the session: the test shows nothing")
				}
				w.set(func(w *world) { tc.change(w, authority(t)) })
				c, s := connect(t, client, server)
				if w.resumed != (end == "client") {
					t.Fatalf("the third connection resumed the session: %t", w.resumed)
				}
				if end == "server" {
					// The client was asked again, and has nothing better to show.
					wantError(t, s, tc.kind, tc.check)
				} else {
					wantError(t, c, tc.kind, tc.check)
				}
			})
		}
	}
}

// A client that keeps its sessions and renews its SVID is judged by what it has now:
// with crypto/tls's cache of sessions, because the server does not take up a session
// whose client would not pass today; with ours at once.
func TestAClientThatResumesAndHasRenewedPasses(t *testing.T) {
	for name, cache := range map[string]func(own x509svid.Source) tls.ClientSessionCache{
		"any cache": func(x509svid.Source) tls.ClientSessionCache { return tls.NewLRUClientSessionCache(4) },
		"ours":      func(own x509svid.Source) tls.ClientSessionCache { return svid.NewSessionCache(own, 4) },
	} {
		w, a, orders, inventory := tlsWorld(t)
		var seen *x509.Certificate
		server := w.tls(orders, svid.MaxAge(10*time.Minute)).Server()
		verify := server.VerifyConnection
		server.VerifyConnection = func(cs tls.ConnectionState) error {
			w.set(func(w *world) { w.resumed, seen = cs.DidResume, cs.PeerCertificates[0] })
			return verify(cs)
		}
		own := &rotating{now: inventory}
		ends := w.tls(nil)
		ends.Own = own
		client := ends.Client()
		client.ClientSessionCache, client.ServerName = cache(own), "orders"
		pass := func(when string, resumed bool) {
			t.Helper()
			if c, s := connect(t, client, server); c != nil || s != nil || w.resumed != resumed {
				t.Fatalf("%s, %s: client: %v; server: %v; resumed %t", name, when, c, s, w.resumed)
			}
		}
		pass("first", false)
		pass("second", true)
		w.set(func(w *world) { w.now = now.Add(9 * time.Minute) })
		a.Now = w.Now
		own.now = a.Mint(t, "/inventory")
		if name == "ours" {
			pass("renewed", false)
			if !seen.Equal(own.now.Certificates[0]) {
				t.Error("a client that has renewed is seen with its old certificate")
			}
		}
		w.set(func(w *world) { w.now = now.Add(11 * time.Minute) })
		if name == "ours" {
			pass("later", true)
		} else {
			pass("when the first session is too old", false)
		}
		if !seen.Equal(own.now.Certificates[0]) {
			t.Errorf("%s: a client that has renewed is seen with its old certificate", name)
		}
	}
}

// rotating is a source of what somebody puts there.
type rotating struct{ now *x509svid.SVID }

func (r *rotating) GetX509SVID() (*x509svid.SVID, error) { return r.now, nil }

func TestGoSpiffeTalksToAnAttestedServer(t *testing.T) {
	w, _, orders, inventory := tlsWorld(t)
	client := tlsconfig.MTLSClientConfig(inventory, w, tlsconfig.AuthorizeID(orders.ID))
	// go-spiffe's configuration verifies by the wall clock, which a test with a
	// clock of its own must do without.
	client.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		_, _, err := x509svid.ParseAndVerify(raw, w, x509svid.WithTime(now))
		return err
	}
	if c, s := connect(t, client, w.tls(orders).Server()); c != nil || s != nil {
		t.Fatalf("client: %v; server: %v", c, s)
	}
}

// whoami is a health service that answers only attested peers.
type whoami struct {
	healthpb.UnimplementedHealthServer
	w       *world
	require []svid.Requirement
}

func (s whoami) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, errors.New("no TLS")
	}
	if _, err := svid.FromConnectionState(info.State, s.w, s.w.Now(), s.require...); err != nil {
		return nil, err
	}
	return health.NewServer().Check(ctx, &healthpb.HealthCheckRequest{})
}

func TestGRPCChecksEachRequestOnOneConnection(t *testing.T) {
	w, _, orders, inventory := tlsWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	require := []svid.Requirement{svid.MaxAge(10 * time.Minute)}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(w.tls(orders, require...).Server())))
	healthpb.RegisterHealthServer(server, whoami{w: w, require: require})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()

	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
		grpc.WithTransportCredentials(credentials.NewTLS(w.tls(inventory, svid.ID(orders.ID)).Client())))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	call := func() error {
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	w.set(func(w *world) { w.now = now.Add(11 * time.Minute) })
	if err := call(); err == nil {
		t.Fatal("a request was answered on the strength of an old handshake")
	}
}

func TestAnOldTLSVersionIsRefusedByTheConnectionState(t *testing.T) {
	w, _, orders, _ := tlsWorld(t)
	_, err := svid.FromConnectionState(tls.ConnectionState{Version: tls.VersionTLS12, PeerCertificates: orders.Certificates}, w, now)
	wantError(t, err, attest.Untrusted, "tls_version")
}

func TestTheContextCarriesThePeer(t *testing.T) {
	a := authority(t)
	got, err := svid.Verify(a.Mint(t, "/orders").Certificates, a.Source(), now)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := svid.FromContext(svid.NewContext(t.Context(), got)); !ok || p != got {
		t.Error("the peer was lost")
	}
	if _, ok := svid.FromContext(t.Context()); ok {
		t.Error("a peer out of nowhere")
	}
	if _, ok := svid.FromContext(svid.NewContext(t.Context(), nil)); ok {
		t.Error("nil is not a peer")
	}
}
