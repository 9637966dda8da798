package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// The faultyServer speaks the protocol over real TLS and gRPC and says what a
// test wants it to say: what a real server cannot be made to answer. It checks
// no evidence. The road through the real server is in issuer_test.go.

var testDomain = spiffeid.RequireTrustDomainFromString("simulated.example.org")

// heard is one attestation as the server saw it.
type heard struct {
	hello    *assayv1.Hello
	evidence *assayv1.Evidence
	peer     string
}

type faultyServer struct {
	assayv1.UnimplementedAttestationServer
	t         testing.TB
	td        spiffeid.TrustDomain
	bootstrap *authority
	ca        *authority
	leaf      tls.Certificate
	address   string
	grpc      *grpc.Server
	served    chan error
	leave     chan struct{} // closed to end watches

	mu        sync.Mutex
	life      time.Duration
	ids       []string // granted, in policy order
	challenge func(*assayv1.AttestResponse)
	issue     func(*assayv1.AttestResponse)
	certify   func(i int, tmpl *x509.Certificate)
	refuse    func(*assayv1.Hello) *assayv1.Denied // before the challenge
	after     func() *assayv1.AttestResponse       // sent after Issued
	unproved  *assayv1.Denied                      // after evidence of a renewal
	round     func(grpc.BidiStreamingServer[assayv1.AttestRequest, assayv1.AttestResponse], *assayv1.Evidence) error
	sequence  uint64
	attempts  []heard
	watching  int
	unwatched error // what a watch is told instead
	events    chan *assayv1.WatchEvent
	jwks      []byte // the JWT authorities
	mint      func(*assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error)
}

func newFaultyServer(t testing.TB) *faultyServer { return newFaultyServerIn(t, testDomain) }

func newFaultyServerIn(t testing.TB, td spiffeid.TrustDomain) *faultyServer {
	t.Helper()
	s := &faultyServer{
		t: t, td: td, bootstrap: newAuthorityIn(t, "bootstrap", td), ca: newAuthorityIn(t, "ca", td), life: time.Hour,
		ids: []string{"spiffe://" + td.Name() + "/orders"}, events: make(chan *assayv1.WatchEvent, 16), sequence: 1,
		address: "127.0.0.1:0",
	}
	s.leaf = s.bootstrap.serverLeaf(t, nil)
	return s
}

// start listens where it listened before, or on a fresh port.
func (s *faultyServer) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.leaf}, ClientAuth: tls.RequestClientCert,
	})))
	assayv1.RegisterAttestationServer(s.grpc, s)
	s.served, s.leave = make(chan error, 1), make(chan struct{})
	go func(g *grpc.Server, done chan error) { done <- g.Serve(l) }(s.grpc, s.served)
	s.t.Cleanup(s.stop)
}

func (s *faultyServer) stop() {
	if s.grpc == nil {
		return
	}
	close(s.leave)
	s.grpc.Stop()
	<-s.served
	s.grpc = nil
}

func (s *faultyServer) with(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *faultyServer) heard() []heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]heard(nil), s.attempts...)
}

func deny(d *assayv1.Denied) error {
	st, err := status.New(codes.PermissionDenied, "refused").WithDetails(d)
	if err != nil {
		return err
	}
	return st.Err()
}

func (s *faultyServer) Attest(stream grpc.BidiStreamingServer[assayv1.AttestRequest, assayv1.AttestResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHello()
	p, _ := peer.FromContext(stream.Context())
	s.mu.Lock()
	s.attempts = append(s.attempts, heard{hello: h, peer: p.Addr.String()})
	n := len(s.attempts) - 1
	refuse, challenge, issue, after, unproved, round := s.refuse, s.challenge, s.issue, s.after, s.unproved, s.round
	s.mu.Unlock()
	if refuse != nil {
		if d := refuse(h); d != nil {
			return deny(d)
		}
	}
	nonce := make([]byte, attest.NonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	now := time.Now()
	c := &assayv1.AttestResponse{Message: &assayv1.AttestResponse_Challenge{Challenge: &assayv1.Challenge{
		Nonce: nonce, TimeUnixMs: now.UnixMilli(), DeadlineUnixMs: now.Add(time.Minute).UnixMilli(),
	}}}
	if challenge != nil {
		challenge(c)
	}
	if err := stream.Send(c); err != nil {
		return err
	}
	second, err := stream.Recv()
	if err != nil {
		return err
	}
	s.with(func() { s.attempts[n].evidence = second.GetEvidence() })
	if unproved != nil && h.GetPurpose() == assayv1.Purpose_PURPOSE_RENEW {
		return deny(unproved)
	}
	if round != nil {
		if err := round(stream, second.GetEvidence()); err != nil {
			return err
		}
	}
	out, err := s.issued(h)
	if err != nil {
		return err
	}
	if issue != nil {
		issue(out)
	}
	if err := stream.Send(out); err != nil {
		return err
	}
	if after != nil {
		return stream.Send(after())
	}
	return nil
}

func (s *faultyServer) issued(h *assayv1.Hello) (*assayv1.AttestResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := &assayv1.Issued{Bundle: s.bundle(), Reference: "as-0000000000"}
	for i, k := range h.GetKeys() {
		if i >= len(s.ids) {
			break
		}
		csr, err := x509.ParseCertificateRequest(k.GetCsr())
		if err != nil {
			return nil, err
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, err
		}
		tmpl := leafTemplate(s.ids[i], s.life)
		if s.certify != nil {
			s.certify(i, tmpl)
		}
		der, err := s.ca.sign(tmpl, csr.PublicKey)
		if err != nil {
			return nil, err
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		is.Svids = append(is.Svids, &assayv1.X509SVID{Key: uint32(i), SpiffeId: s.ids[i], Chain: [][]byte{der}, NotAfterUnixMs: leaf.NotAfter.UnixMilli()})
	}
	is.More = uint32(max(0, len(s.ids)-len(h.GetKeys())))
	return &assayv1.AttestResponse{Message: &assayv1.AttestResponse_Issued{Issued: is}}, nil
}

func (s *faultyServer) bundle() *assayv1.TrustBundle {
	return &assayv1.TrustBundle{TrustDomain: s.td.Name(), X509Authorities: [][]byte{s.ca.cert.Raw}, JwtAuthorities: s.jwks, Sequence: s.sequence}
}

// Watch wants a live SVID, sends the bundle, and then what the test has for it.
func (s *faultyServer) Watch(_ *assayv1.WatchRequest, stream grpc.ServerStreamingServer[assayv1.WatchEvent]) error {
	p, _ := peer.FromContext(stream.Context())
	certs := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	if len(certs) == 0 || time.Now().After(certs[0].NotAfter) {
		return status.Error(codes.Unauthenticated, "no live SVID")
	}
	s.mu.Lock()
	s.watching++
	if err := s.unwatched; err != nil {
		s.mu.Unlock()
		return err
	}
	first := &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: s.bundle()}}
	s.mu.Unlock()
	if err := stream.Send(first); err != nil {
		return err
	}
	for {
		select {
		case e := <-s.events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-s.leave:
			return nil
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// clone is a deep copy of a message.
func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

// shortDir is a temporary directory whose path leaves room for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// simulatedNSM is a simulator's NSM behind a socket.
func simulatedNSM(t testing.TB) (*Nitro, *simnitro.Authority) {
	t.Helper()
	auth, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := auth.Launch(simnitro.Launch{Image: simnitro.ImageFromSeed("orders")})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(shortDir(t), "nsm.sock")
	l, err := simnitro.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return NewNitroSocket(path), auth
}

// membership is the server's trust domain, for an agent that is in others too.
func (s *faultyServer) membership(t testing.TB) Membership {
	t.Helper()
	return Membership{TrustDomain: s.td, Server: s.address, BootstrapRoots: s.bootstrap.roots(t)}
}

// testConfig is an agent for the server.
func (s *faultyServer) config(t testing.TB) Config {
	t.Helper()
	nsm, _ := simulatedNSM(t)
	return Config{
		TrustDomain: s.td, Server: s.address, BootstrapRoots: s.bootstrap.roots(t), Attester: nsm,
		Socket: filepath.Join(shortDir(t), "agent.sock"), Log: testLog(t),
	}
}

// runAgent runs an agent until the test ends or stop is called.
func runAgent(t testing.TB, cfg Config) (a *Agent, stop func()) {
	t.Helper()
	listening := make(chan string, 1)
	cfg.Listening = func(addr string) { listening <- addr }
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	select {
	case <-listening:
	case err := <-done:
		done <- err
		t.Fatalf("the agent did not start: %v", err)
	}
	return a, stop
}

// eventually waits for something that takes network and time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	eventuallyWithin(t, 20*time.Second, what, ok)
}

func eventuallyWithin(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to pass that %s", what)
}

// testLog logs to the test.
func testLog(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() { w.mu.Lock(); w.done = true; w.mu.Unlock() })
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct {
	t    testing.TB
	mu   sync.Mutex
	done bool
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.t.Log(string(bytes.TrimSpace(b)))
	}
	return len(b), nil
}

// wantCheck wants an error of the named check.
func wantCheck(t testing.TB, err error, kind attest.Kind, check string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want the check %s to refuse it", check)
	}
	if attest.CheckOf(err) != check || attest.KindOf(err) != kind {
		t.Fatalf("refused by %s/%s (%v), want %s/%s", attest.KindOf(err), attest.CheckOf(err), err, kind, check)
	}
}

var errTest = errors.New("an error of the test")

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("test set-up: ", err))
	}
	return v
}

func marshal(m proto.Message) ([]byte, error)   { return proto.Marshal(m) }
func unmarshal(b []byte, m proto.Message) error { return proto.Unmarshal(b, m) }

func idFrom(s string) (spiffeid.ID, error) { return spiffeid.FromString(s) }

func domain(s string) (spiffeid.TrustDomain, error) {
	if s == "" {
		return spiffeid.TrustDomain{}, nil
	}
	return spiffeid.TrustDomainFromString(s)
}

// bundleWatch receives the number of authorities of every update.
type bundleWatch chan int

func (w bundleWatch) OnX509BundlesUpdate(set *x509bundle.Set) {
	n := 0
	for _, b := range set.Bundles() {
		n += len(b.X509Authorities())
	}
	w <- n
}

// want waits for an update to n authorities.
func (w bundleWatch) want(t testing.TB, n int) {
	t.Helper()
	select {
	case got := <-w:
		if got != n {
			t.Fatalf("an update to %d authorities, want %d", got, n)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no update to %d authorities", n)
	}
}

func (w bundleWatch) OnX509BundlesWatchError(error) {}

// handshake is one mutual TLS handshake between two users of the source; it
// returns the serial number of the SVID that the client showed.
func handshake(src *workloadapi.X509Source) (string, error) {
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	server := tls.Server(far, tlsconfig.MTLSServerConfig(src, src, tlsconfig.AuthorizeAny()))
	client := tls.Client(near, tlsconfig.MTLSClientConfig(src, src, tlsconfig.AuthorizeAny()))
	done := make(chan error, 1)
	go func() {
		err := client.Handshake()
		if err == nil {
			_, err = client.Read(make([]byte, 1)) // TLS 1.3: the server's verdict comes after the client's handshake
		}
		done <- err
	}()
	err := server.Handshake()
	if err == nil {
		_, err = server.Write([]byte{1})
	} else {
		_ = far.Close()
	}
	if cerr := <-done; err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	return server.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func asError(err error) *attest.Error {
	var e *attest.Error
	if !errors.As(err, &e) {
		return &attest.Error{}
	}
	return e
}
