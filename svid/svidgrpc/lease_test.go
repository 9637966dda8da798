package svidgrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
	"github.com/assay-project/assay/svid/svidtest"
)

// renewing is an agent: its SVID is renewed at half its life.
type renewing struct {
	t   *testing.T
	a   *svidtest.Authority
	ttl time.Duration

	mu  sync.Mutex
	now *x509svid.SVID
}

func (r *renewing) GetX509SVID() (*x509svid.SVID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil || time.Until(r.now.Certificates[0].NotAfter) < r.ttl/2 {
		r.now = r.a.Mint(r.t, "/orders", svidtest.TTL(r.ttl))
	}
	return r.now, nil
}

// counting is a health service that knows its clients' certificates and connections.
type counting struct {
	healthpb.UnimplementedHealthServer
	mu      sync.Mutex
	calls   int
	from    map[string]bool
	serials map[string]bool
	last    string
}

func (c *counting) note(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from == nil {
		c.from, c.serials = map[string]bool{}, map[string]bool{}
	}
	c.calls++
	if p, ok := peer.FromContext(ctx); ok {
		c.from[p.Addr.String()] = true
	}
	if who, ok := svid.FromContext(ctx); ok {
		c.last = who.Serial()
		c.serials[c.last] = true
	}
}

func (c *counting) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	c.note(ctx)
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (c *counting) Watch(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	c.note(s.Context())
	if err := s.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	<-s.Context().Done() // and is silent
	return s.Context().Err()
}

func listen(t *testing.T, service healthpb.HealthServer, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(s, service)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return "passthrough:///" + l.Addr().String()
}

func dial(t *testing.T, address string, creds credentials.TransportCredentials, options ...grpc.DialOption) healthpb.HealthClient {
	t.Helper()
	c, err := grpc.NewClient(address, append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return healthpb.NewHealthClient(c)
}

func check(ctx context.Context, c healthpb.HealthClient) error {
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Whoever renews in time makes no call that fails: ours and go-spiffe's clients before
// our gate, which asks for new connections; and ours before a server that never does,
// but looks at each call, as who writes svid.FromConnectionState in a method does.
func TestAClientThatRenewsIsNeverRefused(t *testing.T) {
	for _, server := range []string{"a gate", "a server that asks for no new connections"} {
		for _, client := range []string{"ours", "go-spiffe's"} {
			if server != "a gate" && client != "ours" {
				continue
			}
			t.Run(client+" before "+server, func(t *testing.T) {
				t.Parallel()
				a := svidtest.New(t, "example.test")
				gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source(), Require: []svid.Requirement{svid.MaxAge(5 * time.Second)}}, Log: quiet()}
				its := &renewing{t: t, a: a, ttl: 2 * time.Second}
				options := gate.ServerOptions(its)
				if server != "a gate" {
					options = append(options, grpc.Creds(credentials.NewTLS(gate.ServerTLS(its))))
				}
				seen := &counting{}
				address := listen(t, seen, options...)
				own := &renewing{t: t, a: a, ttl: 2 * time.Second}
				id := spiffeid.RequireFromPath(a.TrustDomain, "/orders")
				creds := svidgrpc.ClientCredentials(own, a.Source(), svid.ID(id))
				if client != "ours" {
					creds = grpccredentials.MTLSClientCredentials(own, a.Bundle(), tlsconfig.AuthorizeID(id))
				}
				c := dial(t, address, creds)
				for range 30 {
					if err := check(t.Context(), c); err != nil {
						t.Error(err)
					}
					time.Sleep(140 * time.Millisecond)
				}
				if seen.calls != 30 || len(seen.from) > 10 || len(seen.serials) < 2 {
					t.Errorf("%d calls, %d connections, %d certificates", seen.calls, len(seen.from), len(seen.serials))
				}
			})
		}
	}
}

// Calls that overlap, so that there is never a moment without one.
func TestAClientThatRenewsUnderLoadIsNeverRefused(t *testing.T) {
	t.Parallel()
	a := svidtest.New(t, "example.test")
	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source()}, Log: quiet()}
	seen := &counting{}
	server := &renewing{t: t, a: a, ttl: 2 * time.Second}
	c := dial(t, listen(t, seen, gate.ServerOptions(server)...), svidgrpc.ClientCredentials(&renewing{t: t, a: a, ttl: 2 * time.Second}, a.Source(), svid.MemberOf(a.TrustDomain)))
	end := time.Now().Add(5 * time.Second)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for time.Now().Before(end) {
				if err := check(t.Context(), c); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
	if len(seen.from) < 3 || len(seen.from) > 20 {
		t.Errorf("%d calls over %d connections", seen.calls, len(seen.from))
	}
}

// renewer can be told to renew.
type renewer struct{ now atomic.Pointer[x509svid.SVID] }

func (r *renewer) GetX509SVID() (*x509svid.SVID, error) { return r.now.Load(), nil }

func TestAClientThatHasRenewedIsSoonSeenWithItsNewCertificate(t *testing.T) {
	t.Parallel()
	a := svidtest.New(t, "example.test")
	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source()}, Log: quiet()}
	seen := &counting{}
	own := &renewer{}
	own.now.Store(a.Mint(t, "/orders"))
	c := dial(t, listen(t, seen, gate.ServerOptions(a.Mint(t, "/inventory"))...), svidgrpc.ClientCredentials(own, a.Source(), svid.MemberOf(a.TrustDomain)))
	if err := check(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	own.now.Store(a.Mint(t, "/orders"))
	want := fmt.Sprintf("%032x", own.now.Load().Certificates[0].SerialNumber)
	for range 100 {
		if err := check(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if seen.last == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("it is seen with its old certificate")
}

// denying is a deny-list that can be made to name somebody.
func denying(t *testing.T, a *svidtest.Authority) (*svid.DenyList, func(*x509svid.SVID)) {
	t.Helper()
	list, err := svid.NewDenyList(a.TrustDomain, a.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	put := func(d svid.Denials) {
		t.Helper()
		if err := list.Update(a.DenyList(t, d), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	put(svid.Denials{})
	return list, func(s *x509svid.SVID) {
		t.Helper()
		var serial [svid.SerialSize]byte
		s.Certificates[0].SerialNumber.FillBytes(serial[:])
		put(svid.Denials{Sequence: 2, Serials: [][svid.SerialSize]byte{serial}})
	}
}

// takingAnything is a server that asks nobody for anything.
func takingAnything(own *x509svid.SVID) grpc.ServerOption {
	return grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, GetCertificate: tlsconfig.GetCertificate(own)}))
}

func TestAServerThatIsDeniedGetsNoFurtherCallOrToken(t *testing.T) {
	a := svidtest.New(t, "example.test")
	denied, deny := denying(t, a)
	server := a.Mint(t, "/inventory")
	seen := &counting{}
	c := dial(t, listen(t, seen, takingAnything(server)), svidgrpc.ClientCredentials(nil, a.Source(), svid.ID(server.ID), svid.NotDenied(denied)),
		grpc.WithPerRPCCredentials(svidgrpc.Bearer{Source: tokens{t, a}, Audience: audience}))
	if err := check(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	deny(server)
	if err := check(t.Context(), c); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if seen.calls != 1 {
		t.Errorf("the server was called %d times", seen.calls)
	}
}

func TestAServerWhoseSVIDHasExpiredGetsNoFurtherCall(t *testing.T) {
	t.Parallel()
	a := svidtest.New(t, "example.test")
	server := a.Mint(t, "/inventory", svidtest.TTL(2*time.Second))
	seen := &counting{}
	c := dial(t, listen(t, seen, takingAnything(server)), svidgrpc.ClientCredentials(a.Mint(t, "/orders"), a.Source(), svid.ID(server.ID)))
	if err := check(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(server.Certificates[0].NotAfter) + 10*time.Millisecond)
	if err := check(t.Context(), c); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if seen.calls != 1 {
		t.Errorf("the server was called %d times", seen.calls)
	}
}

// A stream that says nothing has no message that could be checked: its connection
// ends, whichever end's peer has expired.
func TestASilentStreamEndsWithTheSVIDItBeganWith(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, a *svidtest.Authority) (own *x509svid.SVID, options []grpc.ServerOption){
		"the client's": func(t *testing.T, a *svidtest.Authority) (*x509svid.SVID, []grpc.ServerOption) {
			t.Helper()
			gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source()}, Log: quiet()}
			return a.Mint(t, "/orders", svidtest.TTL(2*time.Second)), gate.ServerOptions(a.Mint(t, "/inventory"))
		},
		"the server's": func(t *testing.T, a *svidtest.Authority) (*x509svid.SVID, []grpc.ServerOption) {
			t.Helper()
			return a.Mint(t, "/orders"), []grpc.ServerOption{takingAnything(a.Mint(t, "/inventory", svidtest.TTL(2*time.Second)))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := svidtest.New(t, "example.test")
			own, options := end(t, a)
			c := dial(t, listen(t, &counting{}, options...), svidgrpc.ClientCredentials(own, a.Source(), svid.MemberOf(a.TrustDomain)))
			w, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Recv(); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if _, err := w.Recv(); err == nil || time.Since(begun) > 4*time.Second {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
	}
}

// "Use either's credentials."
func TestGoSPIFFEsCredentialsShowTheCertificate(t *testing.T) {
	a := svidtest.New(t, "example.test")
	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source(), Tokens: a.JWTBundle(t), Audience: audience}, Log: quiet()}
	seen := &counting{}
	own := a.Mint(t, "/inventory")
	address := listen(t, seen, grpc.Creds(grpccredentials.MTLSServerCredentials(own, a.Bundle(), tlsconfig.AuthorizeAny())), grpc.UnaryInterceptor(gate.Unary), grpc.StreamInterceptor(gate.Stream))
	call := func(ctx context.Context, options ...svidtest.Option) error {
		return check(ctx, dial(t, address, grpccredentials.MTLSClientCredentials(a.Mint(t, "/orders", options...), a.Bundle(), tlsconfig.AuthorizeAny())))
	}
	if err := call(t.Context()); err != nil || len(seen.serials) != 1 {
		t.Errorf("an attested client: %v", err)
	}
	token := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+a.MintJWT(t, "/orders", audience))
	if err := call(token, svidtest.Unattested()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a certificate that does not hold, and a token: %v", err)
	}
}

// hiding credentials wrap what TLS says of the peer.
type hiding struct {
	credentials.TransportCredentials
	wrap func(credentials.AuthInfo) credentials.AuthInfo
}

func (h hiding) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ServerHandshake(c)
	return conn, h.wrap(info), err
}

type (
	shows struct{ credentials.AuthInfo }
	hides struct{ inner credentials.AuthInfo }
)

func (hides) AuthType() string { return "mine" }

func TestWhatHidesTheCertificateIsRefusedAndNotMadeGoodByAToken(t *testing.T) {
	a := svidtest.New(t, "example.test")
	own := a.Mint(t, "/inventory")
	token := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+a.MintJWT(t, "/orders", audience))
	for name, tc := range map[string]struct {
		wrap  func(credentials.AuthInfo) credentials.AuthInfo
		code  codes.Code
		check string
	}{
		"shown":                 {func(i credentials.AuthInfo) credentials.AuthInfo { return shows{i} }, codes.OK, ""},
		"shown, twice wrapped":  {func(i credentials.AuthInfo) credentials.AuthInfo { return &shows{shows{i}} }, codes.OK, ""},
		"hidden":                {func(i credentials.AuthInfo) credentials.AuthInfo { return hides{i} }, codes.Internal, "transport"},
		"hidden in what is not": {func(i credentials.AuthInfo) credentials.AuthInfo { return shows{&hides{i}} }, codes.Internal, "transport"},
		"a nil pointer":         {func(credentials.AuthInfo) credentials.AuthInfo { return (*shows)(nil) }, codes.Internal, "transport"},
	} {
		var told []error
		gate := &svidgrpc.Gate{
			Gate: svid.Gate{Source: a.Source(), Tokens: a.JWTBundle(t), Audience: audience}, Log: quiet(),
			Refused: func(_ string, err error) { told = append(told, err) },
		}
		creds := hiding{credentials.NewTLS(gate.ServerTLS(own)), tc.wrap}
		address := listen(t, &counting{}, grpc.Creds(creds), grpc.UnaryInterceptor(gate.Unary))
		err := check(token, dial(t, address, svidgrpc.ClientCredentials(a.Mint(t, "/orders"), a.Source(), svid.ID(own.ID))))
		if status.Code(err) != tc.code || (tc.check != "") != (len(told) == 1) || len(told) == 1 && attest.CheckOf(told[0]) != tc.check {
			t.Errorf("%s: %v, %v", name, err, told)
		}
	}
	// Credentials that never had one are not refused for it.
	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source(), Tokens: a.JWTBundle(t), Audience: audience}, Log: quiet()}
	for name, options := range map[string][]grpc.ServerOption{"none": nil, "insecure": {grpc.Creds(insecure.NewCredentials())}} {
		address := listen(t, &counting{}, append(options, grpc.UnaryInterceptor(gate.Unary))...)
		if err := check(token, dial(t, address, insecure.NewCredentials())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheOptionsOfAServerLeaveNoMethodOpen(t *testing.T) {
	a := svidtest.New(t, "example.test")
	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source(), Tokens: a.JWTBundle(t), Audience: audience}, Log: quiet()}
	own := a.Mint(t, "/inventory")
	c := dial(t, listen(t, &counting{}, gate.ServerOptions(own)...), svidgrpc.ClientCredentials(nil, a.Source(), svid.ID(own.ID)))
	if err := check(t.Context(), c); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call: %v", err)
	}
	w, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stream: %v", err)
	}
}

func TestAHandshakeThatIsRefusedIsTold(t *testing.T) {
	a := svidtest.New(t, "example.test")
	told := make(chan error, 8)
	gate := &svidgrpc.Gate{
		Gate: svid.Gate{Source: a.Source(), Require: []svid.Requirement{svid.Owned()}}, Log: quiet(),
		Refused: func(method string, err error) {
			if method == "" {
				told <- err
			}
		},
	}
	own := a.Mint(t, "/inventory")
	c := dial(t, listen(t, &counting{}, gate.ServerOptions(own)...), svidgrpc.ClientCredentials(a.Mint(t, "/orders", svidtest.Unowned()), a.Source(), svid.ID(own.ID)))
	if err := check(t.Context(), c); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if err := <-told; attest.CheckOf(err) != "instance-identity" {
		t.Errorf("%v", err)
	}
}

func TestASourceOfTokensThatIsANilPointerIsNone(t *testing.T) {
	a := svidtest.New(t, "example.test")
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+a.MintJWT(t, "/orders", audience)))
	for _, tokens := range []jwtbundle.Source{(*workloadapi.JWTSource)(nil), (*jwtbundle.Set)(nil)} {
		gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source(), Tokens: tokens, Audience: audience}, Log: quiet()}
		_, err := gate.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/x/y"}, func(context.Context, any) (any, error) { return nil, nil })
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v", err)
		}
	}
}

// It has nothing better to show, and somebody takes it all the same: a method that
// is open, or a server whose clock is behind.
func TestAClientWhoseSVIDHasEndedKeepsItsConnection(t *testing.T) {
	t.Parallel()
	a := svidtest.New(t, "example.test")
	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: a.Source()}, Log: quiet(), Open: []string{healthpb.Health_Check_FullMethodName}}
	address := listen(t, &counting{}, gate.ServerOptions(a.Mint(t, "/orders", svidtest.TTL(time.Hour)))...)
	end := time.Now().Add(-10 * time.Second)
	ended := a.Mint(t, "/inventory", svidtest.Template(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = end.Add(-time.Hour), end }))
	var dialled atomic.Int64
	c := dial(t, address, svidgrpc.ClientCredentials(ended, a.Source(), svid.MemberOf(a.TrustDomain)), grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
		dialled.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", to)
	}))
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := check(ctx, c); err != nil {
			t.Errorf("an open method: %v", err)
		}
		cancel()
		time.Sleep(100 * time.Millisecond)
	}
	if n := dialled.Load(); n != 1 {
		t.Errorf("%d connections for 5 calls", n)
	}
}
