package svid_test

import (
	"crypto"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
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

// change is what happens while a connection is open, and the check that has to
// notice it at the next request.
type change struct {
	name  string
	kind  attest.Kind
	check string
	make  func(t *testing.T, w *world, a *svidtest.Authority, client *x509svid.SVID, list *svid.DenyList)
}

func changes() []change {
	later := func(d time.Duration) func(*testing.T, *world, *svidtest.Authority, *x509svid.SVID, *svid.DenyList) {
		return func(_ *testing.T, w *world, _ *svidtest.Authority, _ *x509svid.SVID, _ *svid.DenyList) {
			w.set(func(w *world) { w.now = now.Add(d) })
		}
	}
	return []change{
		{"the evidence grows too old", attest.Stale, "max_age", later(21 * time.Minute)},
		{"the certificate expires", attest.Stale, "chain_validity", later(61 * time.Minute)},
		{"the SVID is denied", attest.Denied, "denied", func(t *testing.T, _ *world, a *svidtest.Authority, client *x509svid.SVID, list *svid.DenyList) {
			var serial [svid.SerialSize]byte
			client.Certificates[0].SerialNumber.FillBytes(serial[:])
			if err := list.Update(a.DenyList(t, svid.Denials{Sequence: 2, Serials: [][svid.SerialSize]byte{serial}}), now); err != nil {
				t.Fatal(err)
			}
		}},
		{"the policy is denied", attest.Denied, "denied", func(t *testing.T, _ *world, a *svidtest.Authority, client *x509svid.SVID, list *svid.DenyList) {
			u, err := svid.ResultFrom(client.Certificates[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := list.Update(a.DenyList(t, svid.Denials{Sequence: 2, Policies: [][32]byte{[32]byte(u.Result.PolicyDigest)}}), now); err != nil {
				t.Fatal(err)
			}
		}},
		{"the deny-list is not updated", attest.Stale, "deny_list_expired", later(11 * time.Minute)},
		{"the authority is withdrawn", attest.Untrusted, "chain", func(t *testing.T, w *world, _ *svidtest.Authority, _ *x509svid.SVID, _ *svid.DenyList) {
			other := authority(t)
			w.set(func(w *world) { w.bundle = other.Bundle() })
		}},
		{"the verifier key is withdrawn", attest.Untrusted, "verifier_key", func(t *testing.T, w *world, _ *svidtest.Authority, _ *x509svid.SVID, _ *svid.DenyList) {
			other := authority(t)
			w.set(func(w *world) { w.keys = other.VerifierKeys() })
		}},
		{"the verifier keys are not updated", attest.Stale, "verifier_keys_expired", func(_ *testing.T, w *world, a *svidtest.Authority, _ *x509svid.SVID, _ *svid.DenyList) {
			k := a.VerifierKeys()
			k.NextUpdate = now
			w.set(func(w *world) { w.keys = k })
		}},
	}
}

// gated is a gate whose world can change, and a client that passes it.
func gated(t *testing.T) (svid.Gate, *world, *svidtest.Authority, *x509svid.SVID, *svid.DenyList) {
	t.Helper()
	w, a, client, _ := tlsWorld(t)
	list := followed(t, a)
	if err := list.Update(a.DenyList(t, svid.Denials{NextUpdate: now.Add(10 * time.Minute)}), now); err != nil {
		t.Fatal(err)
	}
	// Age is asked for first, so that it is what fails after the list has ended too.
	g := svid.Gate{Source: svid.NewLiveSource(w, w), Require: []svid.Requirement{svid.MaxAge(20 * time.Minute), svid.NotDenied(list)}, Now: w.Now}
	return g, w, a, client, list
}

func TestEveryRequestIsCheckedAnew(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			gate, w, a, own, list := gated(t)
			var log records
			g := &svidhttp.Gate{Gate: gate, Log: log.logger()}
			var served, connections atomic.Int32
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{
				Handler:   g.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }),
				TLSConfig: g.TLS(a.Mint(t, "/inventory")), ReadHeaderTimeout: time.Minute,
				ConnState: func(_ net.Conn, s http.ConnState) {
					if s == http.StateNew {
						connections.Add(1)
					}
				},
			}
			go func() { _ = server.ServeTLS(listener, "", "") }()
			t.Cleanup(func() { _ = server.Close() })
			tr := &http.Transport{TLSClientConfig: showing(own)}
			t.Cleanup(tr.CloseIdleConnections)
			get := func() int {
				t.Helper()
				resp, err := (&http.Client{Transport: tr}).Get("https://" + listener.Addr().String()) //nolint:noctx // a test's
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				return resp.StatusCode
			}
			for range 2 {
				if code := get(); code != http.StatusOK {
					t.Fatalf("before: %d %s", code, log.b.String())
				}
			}
			c.make(t, w, a, own, list)
			if code, want := get(), httpStatus(c.kind); code != want {
				t.Errorf("after: %d, want %d", code, want)
			}
			if got, want := log.last(t), c.kind.String()+" "+c.check; got != want {
				t.Errorf("the log says %s, want %s", got, want)
			}
			if served.Load() != 2 || connections.Load() != 1 {
				t.Errorf("%d requests were served, on %d connections", served.Load(), connections.Load())
			}
		})
	}
}

// echo is a stream in both directions, and a call.
func echo(handled *atomic.Int32) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "test.Echo", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Echo", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			for {
				m := new(healthpb.HealthCheckRequest)
				if err := s.RecvMsg(m); err != nil {
					return err
				}
				handled.Add(1)
				if err := s.SendMsg(m); err != nil {
					return err
				}
			}
		},
	}}}
}

func TestEveryCallAndEveryMessageIsCheckedAnew(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			gate, w, a, own, list := gated(t)
			var log records
			g := &svidgrpc.Gate{Gate: gate, Log: log.logger()}
			var handled atomic.Int32
			server := grpc.NewServer(grpc.Creds(g.Credentials(a.Mint(t, "/inventory"))), grpc.UnaryInterceptor(g.Unary), grpc.StreamInterceptor(g.Stream))
			healthpb.RegisterHealthServer(server, alive{})
			server.RegisterService(echo(&handled), nil)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(server.Stop)
			conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(showing(own))))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Echo")
			if err != nil {
				t.Fatal(err)
			}
			say := func() error {
				if err := stream.SendMsg(&healthpb.HealthCheckRequest{}); err != nil {
					return err
				}
				return stream.RecvMsg(new(healthpb.HealthCheckRequest))
			}
			call := func() error {
				_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
				return err
			}
			for range 2 {
				for _, err := range []error{say(), call()} {
					if err != nil {
						t.Fatalf("before: %v %s", err, log.b.String())
					}
				}
			}
			c.make(t, w, a, own, list)
			want := codes.Unauthenticated
			if c.kind == attest.Denied {
				want = codes.PermissionDenied
			}
			for name, do := range map[string]func() error{"message": say, "call": call} {
				if err := do(); status.Code(err) != want {
					t.Errorf("%s after: %v, want %s", name, err, want)
				}
				if got, want := log.last(t), c.kind.String()+" "+c.check; got != want {
					t.Errorf("%s: the log says %s, want %s", name, got, want)
				}
			}
			if handled.Load() != 2 {
				t.Errorf("%d messages were handed on", handled.Load())
			}
		})
	}
}

func TestATokenIsCheckedAgain(t *testing.T) {
	a := authority(t)
	list := followed(t, a)
	if err := list.Update(a.DenyList(t, svid.Denials{}), now); err != nil {
		t.Fatal(err)
	}
	ours, at := a.JWTBundle(t), now
	bundle := jwtbundle.New(a.TrustDomain)
	bundle.SetJWTAuthorities(ours.JWTAuthorities())
	g := svid.Gate{Tokens: bundle, Audience: "inventory", Require: []svid.Requirement{svid.MaxAge(20 * time.Minute), svid.NotDenied(list)}, Now: func() time.Time { return at }}
	who, err := g.Admit(nil, []string{"bearer " + a.MintJWT(t, "/orders", "inventory", svidtest.TTL(30*time.Minute))})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Again(who); err != nil {
		t.Fatal(err)
	}
	at = now.Add(21 * time.Minute)
	wantError(t, g.Again(who), attest.Stale, "max_age")
	at = now.Add(30 * time.Minute)
	wantError(t, g.Again(who), attest.Stale, "token_expired")
	at = now
	bundle.SetJWTAuthorities(nil)
	wantError(t, g.Again(who), attest.Untrusted, "token_key")
	for kid := range ours.JWTAuthorities() {
		bundle.SetJWTAuthorities(map[string]crypto.PublicKey{kid: svidtest.NewKey(t).Public()})
	}
	wantError(t, g.Again(who), attest.Untrusted, "token_key")
	bundle.SetJWTAuthorities(ours.JWTAuthorities())
	var serial [svid.SerialSize]byte
	if _, err := hex.Decode(serial[:], []byte(who.Token.Serial)); err != nil {
		t.Fatal(err)
	}
	if err := list.Update(a.DenyList(t, svid.Denials{Sequence: 2, Serials: [][svid.SerialSize]byte{serial}}), now); err != nil {
		t.Fatal(err)
	}
	if err := g.Again(who); attest.CheckOf(err) != "denied" || !strings.Contains(err.Error(), "minted for") {
		t.Errorf("the SVID that it was minted for is denied: %v", err)
	}
	wantError(t, g.Again(nil), attest.Internal, "verify")
}
