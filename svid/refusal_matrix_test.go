package svid_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
	"github.com/assay-project/assay/svid/svidhttp"
	"github.com/assay-project/assay/svid/svidtest"
)

// wrong is one way in which a peer's SVID does not hold. The kind is that of the
// check; none at all is the SVID with nothing wrong, which has to pass everywhere.
type wrong struct {
	name      string
	kind      attest.Kind
	check     string
	mint      func(t *testing.T, l *refusals) *x509svid.SVID
	simulated bool // of a simulated trust domain
	tokens    []svidtest.Option
	// once says that crypto/tls resumes no session with such a certificate, which
	// the test makes sure of; the full handshake that takes its place refuses it.
	once bool
}

// The matrix: what is wrong, and the check that has to say so.
func matrix() []wrong {
	option := func(options ...svidtest.Option) func(*testing.T, *refusals) *x509svid.SVID {
		return func(t *testing.T, l *refusals) *x509svid.SVID { return l.authority.Mint(t, "/orders", options...) }
	}
	return []wrong{
		{name: "nothing", mint: option()},
		{name: "spliced, of another key", kind: attest.Untrusted, check: "result_key", mint: func(t *testing.T, l *refusals) *x509svid.SVID {
			return l.authority.Mint(t, "/orders", svidtest.ResultOf(t, l.authority.Mint(t, "/orders")))
		}},
		{name: "spliced, of another name", kind: attest.Untrusted, check: "result_subject", mint: func(t *testing.T, l *refusals) *x509svid.SVID {
			key := svidtest.NewKey(t)
			return l.authority.Mint(t, "/orders", svidtest.Key(key), svidtest.ResultOf(t, l.authority.Mint(t, "/cart", svidtest.Key(key))))
		}},
		{name: "stale, by its evidence", kind: attest.Stale, check: "max_age", mint: option(svidtest.Age(3 * time.Hour)), tokens: []svidtest.Option{svidtest.Age(3 * time.Hour)}},
		{name: "stale, by its certificate", kind: attest.Stale, check: "chain_validity", once: true, mint: option(svidtest.Template(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-30*time.Minute), time.Now().Add(-time.Minute)
		}))},
		{name: "simulated", kind: attest.Denied, check: "simulated", simulated: true, mint: option(), tokens: []svidtest.Option{}},
		{name: "wrong tier", kind: attest.Denied, check: "tier", mint: option(svidtest.Debug()), tokens: []svidtest.Option{svidtest.Debug()}},
		{name: "wrong tier, though not contraindicated", kind: attest.Denied, check: "tier", mint: option(svidtest.Grace()), tokens: []svidtest.Option{svidtest.Grace()}},
		{name: "wrong key", kind: attest.Untrusted, check: "result_signature", mint: wrongKey},
		{name: "unknown verifier", kind: attest.Untrusted, check: "verifier_key", mint: func(t *testing.T, l *refusals) *x509svid.SVID {
			return l.authority.Mint(t, "/orders", svidtest.VerifierKey(svidtest.NewKey(t)))
		}},
		{name: "not attested", kind: attest.Untrusted, check: "result_missing", mint: option(svidtest.Unattested())},
		{name: "another image", kind: attest.Denied, check: "pcr0", mint: option(svidtest.PCR(0, svidtest.Digest("another"))), tokens: []svidtest.Option{svidtest.PCR(0, svidtest.Digest("another"))}},
		{name: "another authority", kind: attest.Untrusted, check: "chain", mint: func(t *testing.T, _ *refusals) *x509svid.SVID {
			return svidtest.New(t, "example.test").Mint(t, "/orders")
		}},
		{name: "denied", kind: attest.Denied, check: "denied", mint: func(t *testing.T, l *refusals) *x509svid.SVID {
			s := l.authority.Mint(t, "/orders")
			l.deny(t, s)
			return s
		}},
	}
}

// wrongKey is a result that names a known verifier key and was signed by another
// one.
func wrongKey(t *testing.T, l *refusals) *x509svid.SVID {
	t.Helper()
	stranger, leaf := svidtest.NewKey(t), svidtest.NewKey(t)
	u, err := svid.ResultFrom(l.authority.Mint(t, "/orders", svidtest.Key(leaf), svidtest.VerifierKey(stranger)).Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	named, err := svid.ThumbprintOf(l.authority.VerifierKeys().Keys[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	cwt := bytes.Replace(u.CWT, u.KeyID[:], named[:], 1)
	if bytes.Equal(cwt, u.CWT) {
		t.Fatal("the result does not name its key: the test shows nothing")
	}
	return l.authority.Mint(t, "/orders", svidtest.Key(leaf), svidtest.CWT(cwt))
}

// refusals is a relying party and what it trusts.
type refusals struct {
	authority *svidtest.Authority
	own       *x509svid.SVID
	list      *svid.DenyList
	require   []svid.Requirement
}

func newRefusals(t *testing.T, w wrong) *refusals {
	t.Helper()
	td := "example.test"
	if w.simulated {
		td = "simulated.example.test"
	}
	l := &refusals{authority: svidtest.New(t, td)}
	l.own = l.authority.Mint(t, "/inventory")
	l.list = followed(t, l.authority)
	if err := l.list.Update(l.authority.DenyList(t, svid.Denials{}), time.Now()); err != nil {
		t.Fatal(err)
	}
	l.require = []svid.Requirement{
		svid.MemberOf(l.authority.TrustDomain), svid.MaxAge(2 * time.Hour), svid.MinTier(svid.Affirming),
		svid.PCR(0, svidtest.Digest("image")), svid.NotDenied(l.list),
	}
	return l
}

func (l *refusals) deny(t *testing.T, s *x509svid.SVID) {
	t.Helper()
	var serial [svid.SerialSize]byte
	s.Certificates[0].SerialNumber.FillBytes(serial[:])
	if err := l.list.Update(l.authority.DenyList(t, svid.Denials{Sequence: 2, Serials: [][svid.SerialSize]byte{serial}}), time.Now()); err != nil {
		t.Fatal(err)
	}
}

func (l *refusals) gate() svid.Gate {
	return svid.Gate{Source: l.authority.Source(), Require: l.require}
}

// expect compares an error with what the row wants.
func (w wrong) expect(t *testing.T, err error) {
	t.Helper()
	if w.check == "" {
		if err != nil {
			t.Fatalf("the SVID with nothing wrong is refused: %v", err)
		}
		return
	}
	wantError(t, err, w.kind, w.check)
}

// showing is the configuration of whoever shows the SVID: it accepts anybody, and
// lets its sessions be resumed.
func showing(own *x509svid.SVID) *tls.Config {
	var raw [][]byte
	for _, c := range own.Certificates {
		raw = append(raw, c.Raw)
	}
	cert := tls.Certificate{Certificate: raw, PrivateKey: own.PrivateKey}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, ClientAuth: tls.RequireAnyClientCert, ServerName: "peer",
		ClientSessionCache:   tls.NewLRUClientSessionCache(4),
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
}

// end is one way to ask a peer for an attested SVID in the handshake.
type end struct {
	name   string
	server bool
	config func(t *testing.T, l *refusals) *tls.Config
}

func ends() []end {
	return []end{
		{"svid.ServerTLS", true, func(_ *testing.T, l *refusals) *tls.Config {
			return svid.ServerTLS(l.own, l.authority.Source(), l.require...)
		}},
		{"svid.ClientTLS", false, func(_ *testing.T, l *refusals) *tls.Config {
			return svid.ClientTLS(l.own, l.authority.Source(), l.require...)
		}},
		{"svid.Gate", true, func(_ *testing.T, l *refusals) *tls.Config { g := l.gate(); return g.ServerTLS(l.own) }},
		{"svid.Gate that takes tokens too", true, func(t *testing.T, l *refusals) *tls.Config {
			g := l.gate()
			g.Tokens, g.Audience = l.authority.JWTBundle(t), "inventory"
			return g.ServerTLS(l.own)
		}},
		{"svidhttp.Gate", true, func(_ *testing.T, l *refusals) *tls.Config { return (&svidhttp.Gate{Gate: l.gate()}).TLS(l.own) }},
	}
}

// meet connects the end that verifies with the peer, and returns what the end
// says, and whether the session was a resumed one.
func (e end) meet(t *testing.T, verifier, peer *tls.Config) (err error, resumed bool) {
	t.Helper()
	verifier = verifier.Clone()
	if e.server {
		verifier.SetSessionTicketKeys([][32]byte{{1}})
	}
	verify := verifier.VerifyConnection
	verifier.VerifyConnection = func(cs tls.ConnectionState) error {
		resumed = cs.DidResume
		if verify == nil {
			return nil
		}
		return verify(cs)
	}
	if e.server {
		_, err = connect(t, peer, verifier)
	} else {
		err, _ = connect(t, verifier, peer)
	}
	return err, resumed
}

func TestEachRefusalOnFreshAndOnResumedSessions(t *testing.T) {
	for _, w := range matrix() {
		for _, e := range ends() {
			t.Run(w.name+"/"+e.name, func(t *testing.T) {
				l := newRefusals(t, w)
				bad := showing(w.mint(t, l))
				strict := e.config(t, l)
				strict.ServerName, strict.ClientSessionCache = "peer", tls.NewLRUClientSessionCache(4)

				err, resumed := e.meet(t, strict, bad)
				w.expect(t, err)
				if resumed {
					t.Fatal("the first session was a resumed one")
				}

				// A session that was opened by somebody who asked for nothing.
				lenient := strict.Clone()
				lenient.VerifyConnection = nil
				for range 2 {
					if err, _ = e.meet(t, lenient, bad); err != nil {
						t.Fatal(err)
					}
				}
				err, resumed = e.meet(t, strict, bad)
				w.expect(t, err)
				// A server does not take up the session of a client that it would refuse.
				if taken := !w.once && (!e.server || w.check == ""); resumed != taken {
					t.Fatalf("resumed: %t; the test shows something else than it says", resumed)
				}
			})
		}
	}
}

func TestEachRefusalThroughTheTransport(t *testing.T) {
	for _, w := range matrix() {
		t.Run(w.name, func(t *testing.T) {
			l := newRefusals(t, w)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			asked := false
			s := &http.Server{
				TLSConfig: showing(w.mint(t, l)), ReadHeaderTimeout: time.Minute,
				Handler:  http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }),
				ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
			}
			go func() { _ = s.ServeTLS(listener, "", "") }()
			defer func() { _ = s.Close() }()
			c := &http.Client{Transport: svidhttp.Transport(l.own, l.authority.Source(), l.require...)}
			defer c.CloseIdleConnections()
			resp, err := c.Get("https://" + listener.Addr().String()) //nolint:noctx // a test's
			if err == nil {
				_ = resp.Body.Close()
			}
			w.expect(t, err)
			if asked != (w.check == "") {
				t.Errorf("the server was asked: %t", asked)
			}
		})
	}
}

func TestEachRefusalOfAChainAndOfAConnection(t *testing.T) {
	for _, w := range matrix() {
		t.Run(w.name, func(t *testing.T) {
			l := newRefusals(t, w)
			chain := w.mint(t, l).Certificates
			src := l.authority.Source()
			for range 2 { // the second time with what the source remembers
				_, err := svid.Verify(chain, src, time.Now(), l.require...)
				w.expect(t, err)
				for _, resumed := range []bool{false, true} {
					cs := tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, DidResume: resumed, PeerCertificates: chain}
					_, err = svid.FromConnectionState(cs, src, time.Now(), l.require...)
					w.expect(t, err)
					g := svid.Gate{Source: src, Require: l.require}
					_, err = g.Admit(&cs, nil)
					w.expect(t, err)
				}
			}
		})
	}
}

// Two results are refused by whoever sees them first: crypto/tls parses no such
// certificate, and so opens no session that could be resumed; where the
// certificates come from elsewhere, it is the check of package svid.
func TestTwoResultsAreRefusedOnTheWireAndInHand(t *testing.T) {
	l := newRefusals(t, wrong{})
	good := l.authority.Mint(t, "/orders")
	two := twoResults(t, good)
	for _, e := range ends() {
		err, _ := e.meet(t, e.config(t, l), showing(two))
		if err == nil || !strings.Contains(err.Error(), "duplicate extension") {
			t.Errorf("%s: %v", e.name, err)
		}
		lenient := e.config(t, l)
		lenient.VerifyConnection = nil
		if err, _ = e.meet(t, lenient, showing(two)); err == nil {
			t.Errorf("%s: a session was opened that could be resumed", e.name)
		}
	}
	in := *good.Certificates[0]
	for _, e := range good.Certificates[0].Extensions {
		if e.Id.Equal(svid.OID()) {
			in.Extensions = append(in.Extensions[:len(in.Extensions):len(in.Extensions)], e)
		}
	}
	for _, resumed := range []bool{false, true} {
		cs := tls.ConnectionState{Version: tls.VersionTLS13, DidResume: resumed, PeerCertificates: []*x509.Certificate{&in}}
		_, err := svid.FromConnectionState(cs, l.authority.Source(), time.Now(), l.require...)
		wantError(t, err, attest.Malformed, "result_duplicate")
		g := l.gate()
		_, err = g.Admit(&cs, nil)
		wantError(t, err, attest.Malformed, "result_duplicate")
	}
}

// twoResults is a certificate that holds the result twice. Nobody's CA made it:
// it is refused before that could matter.
func twoResults(t *testing.T, s *x509svid.SVID) *x509svid.SVID {
	t.Helper()
	one := s.Certificates[0]
	c := &x509.Certificate{SerialNumber: one.SerialNumber, NotBefore: one.NotBefore, NotAfter: one.NotAfter, URIs: one.URIs, KeyUsage: one.KeyUsage}
	for _, e := range one.Extensions {
		if e.Id.Equal(svid.OID()) {
			c.ExtraExtensions = append(c.ExtraExtensions, e, e)
		}
	}
	key, ok := s.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("a key of type %T", s.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: s.ID, Certificates: []*x509.Certificate{{Raw: der}}, PrivateKey: key}
}

// records are the lines of a log, which servers write meanwhile.
type records struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *records) Write(b []byte) (int, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.b.Write(b) }

func (r *records) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(r, nil)) }

// last is the kind and the check of the last line.
func (r *records) last(t *testing.T) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(r.b.Bytes()), []byte("\n"))
	var line struct{ Kind, Check string }
	if err := json.Unmarshal(lines[len(lines)-1], &line); err != nil {
		t.Fatalf("%v: %s", err, r.b.String())
	}
	return line.Kind + " " + line.Check
}

// anyone is TLS that lets everybody in who shows some certificate, so that what
// stands behind it has to refuse. It tells whether a session was resumed.
func anyone(own *x509svid.SVID, resumed chan<- bool) *tls.Config {
	cfg := showing(own)
	cfg.NextProtos = []string{"h2", "http/1.1"}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { resumed <- cs.DidResume; return nil }
	return cfg
}

func httpStatus(k attest.Kind) int {
	if k == attest.Denied {
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

func TestEachRefusalOfARequest(t *testing.T) {
	for _, w := range matrix() {
		t.Run(w.name, func(t *testing.T) {
			l := newRefusals(t, w)
			var log records
			gate := &svidhttp.Gate{Gate: l.gate(), Log: log.logger()}
			resumed := make(chan bool, 8)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{
				Handler:   gate.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }),
				TLSConfig: anyone(l.own, resumed), ReadHeaderTimeout: time.Minute,
			}
			go func() { _ = server.ServeTLS(listener, "", "") }()
			t.Cleanup(func() { _ = server.Close() })

			shown := showing(w.mint(t, l))
			for i := range 3 {
				tr := &http.Transport{TLSClientConfig: shown, DisableKeepAlives: true}
				resp, err := (&http.Client{Transport: tr}).Get("https://" + listener.Addr().String()) //nolint:noctx // a test's
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if did := <-resumed; did != (i > 0 && !w.once) {
					t.Fatalf("connection %d resumed: %t", i, did)
				}
				if w.check == "" {
					if resp.StatusCode != http.StatusOK || string(body) != "served" {
						t.Errorf("%d %s: %s", resp.StatusCode, body, log.b.String())
					}
					continue
				}
				if want := httpStatus(w.kind); resp.StatusCode != want || strings.Contains(string(body), "served") {
					t.Errorf("%d %s, want %d", resp.StatusCode, body, want)
				}
				if got, want := log.last(t), w.kind.String()+" "+w.check; got != want {
					t.Errorf("the log says %s, want %s", got, want)
				}
			}
		})
	}
}

// alive answers every call.
type alive struct {
	healthpb.UnimplementedHealthServer
}

func (alive) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, nil
}

func (alive) Watch(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	return s.Send(&healthpb.HealthCheckResponse{})
}

func TestEachRefusalOfACall(t *testing.T) {
	for _, w := range matrix() {
		t.Run(w.name, func(t *testing.T) {
			l := newRefusals(t, w)
			var log records
			gate := &svidgrpc.Gate{Gate: l.gate(), Log: log.logger()}
			resumed := make(chan bool, 8)
			server := grpc.NewServer(grpc.Creds(credentials.NewTLS(anyone(l.own, resumed))), grpc.UnaryInterceptor(gate.Unary), grpc.StreamInterceptor(gate.Stream))
			healthpb.RegisterHealthServer(server, alive{})
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(server.Stop)

			shown := showing(w.mint(t, l))
			for i := range 3 {
				conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(shown)))
				if err != nil {
					t.Fatal(err)
				}
				c := healthpb.NewHealthClient(conn)
				for method, call := range map[string]func() error{
					"unary": func() error { _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); return err },
					"stream": func() error {
						s, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
						if err == nil {
							_, err = s.Recv()
						}
						return err
					},
				} {
					err := call()
					if w.check == "" {
						if err != nil {
							t.Errorf("%s: %v", method, err)
						}
						continue
					}
					want := codes.Unauthenticated
					if w.kind == attest.Denied {
						want = codes.PermissionDenied
					}
					if status.Code(err) != want {
						t.Errorf("%s: %v, want %s", method, err, want)
					}
					if got, want := log.last(t), w.kind.String()+" "+w.check; got != want {
						t.Errorf("%s: the log says %s, want %s", method, got, want)
					}
				}
				_ = conn.Close()
				if did := <-resumed; did != (i > 0 && !w.once) {
					t.Fatalf("connection %d resumed: %t", i, did)
				}
			}
		})
	}
}

// A gRPC client refuses its server in the handshake.
func TestEachRefusalOfAGRPCServer(t *testing.T) {
	for _, w := range matrix() {
		t.Run(w.name, func(t *testing.T) {
			l := newRefusals(t, w)
			server := grpc.NewServer(grpc.Creds(credentials.NewTLS(anyone(w.mint(t, l), make(chan bool, 64)))))
			healthpb.RegisterHealthServer(server, alive{})
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(server.Stop)
			conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(),
				grpc.WithTransportCredentials(svidgrpc.ClientCredentials(l.own, l.authority.Source(), l.require...)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
			switch {
			case w.check == "" && err != nil:
				t.Error(err)
			case w.check != "" && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), w.check+": ")):
				t.Errorf("%v, want check %s", err, w.check)
			}
		})
	}
}

func TestEachRefusalOfAToken(t *testing.T) {
	for _, w := range matrix() {
		if w.tokens == nil && w.check != "" {
			continue // it is about certificates
		}
		t.Run(w.name, func(t *testing.T) {
			l := newRefusals(t, w)
			g := svid.Gate{Tokens: l.authority.JWTBundle(t), Audience: "inventory", Require: l.require}
			token := l.authority.MintJWT(t, "/orders", "inventory", w.tokens...)
			_, err := svid.VerifyJWT(token, g.Tokens, g.Audience, time.Now(), l.require...)
			w.expect(t, err)
			_, err = g.Admit(nil, []string{"Bearer " + token})
			w.expect(t, err)
		})
	}
	t.Run("of others", func(t *testing.T) {
		l, other := newRefusals(t, wrong{}), svidtest.New(t, "example.test")
		g := svid.Gate{Tokens: l.authority.JWTBundle(t), Audience: "inventory", Require: l.require}
		for _, tc := range []struct {
			name, token string
			kind        attest.Kind
			check       string
		}{
			{"of an unknown authority", other.MintJWT(t, "/orders", "inventory"), attest.Untrusted, "token_key"},
			{"for somebody else", l.authority.MintJWT(t, "/orders", "cart"), attest.Untrusted, "token_audience"},
			{"spliced", spliced(t, l.authority.MintJWT(t, "/orders", "inventory"), l.authority.MintJWT(t, "/orders", "inventory")), attest.Untrusted, "token_signature"},
		} {
			_, err := g.Admit(nil, []string{"Bearer " + tc.token})
			if attest.KindOf(err) != tc.kind || attest.CheckOf(err) != tc.check {
				t.Errorf("%s: %v, want %s %s", tc.name, err, tc.kind, tc.check)
			}
		}
	})
}

// spliced has the claims of one token and the signature of another.
func spliced(t *testing.T, claims, signature string) string {
	t.Helper()
	a, b := strings.Split(claims, "."), strings.Split(signature, ".")
	if len(a) != 3 || len(b) != 3 {
		t.Fatal("not tokens")
	}
	return fmt.Sprintf("%s.%s.%s", a[0], a[1], b[2])
}
