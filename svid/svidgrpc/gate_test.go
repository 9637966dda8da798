package svidgrpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
	"github.com/assay-project/assay/svid/svidtest"
)

const audience = "orders"

// health answers who asks, in the words that a test can compare.
type health struct {
	healthpb.UnimplementedHealthServer
	next chan struct{} // a watch sends once for each
}

func (h *health) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	who, ok := svid.FromContext(ctx)
	if ok && who.ID.Path() == "/cart" {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_UNKNOWN}, nil
}

func (h *health) Watch(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	if _, ok := svid.FromContext(s.Context()); !ok {
		return status.Error(codes.Internal, "no peer in the context")
	}
	for range h.next {
		if err := s.Send(&healthpb.HealthCheckResponse{}); err != nil {
			return err
		}
	}
	return nil
}

type lab struct {
	authority *svidtest.Authority
	log       bytes.Buffer
	ahead     atomic.Int64 // seconds
	health    *health
	address   string
}

func newLab(t *testing.T, change func(*svidgrpc.Gate), require ...svid.Requirement) *lab {
	t.Helper()
	l := &lab{authority: svidtest.New(t, "example.test"), health: &health{next: make(chan struct{})}}
	g := &svidgrpc.Gate{
		Gate: svid.Gate{
			Source: l.authority.Source(), Require: require,
			Now: func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load()) * time.Second) },
		},
		Log: slog.New(slog.NewTextHandler(&l.log, nil)),
	}
	if change != nil {
		change(g)
	}
	s := grpc.NewServer(g.ServerOptions(l.authority.Mint(t, "/orders"))...)
	healthpb.RegisterHealthServer(s, l.health)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	l.address = "passthrough:///" + listener.Addr().String()
	return l
}

// client shows a certificate; nil is none.
func (l *lab) client(t *testing.T, own *x509svid.SVID, options ...grpc.DialOption) healthpb.HealthClient {
	t.Helper()
	var shown x509svid.Source
	if own != nil {
		shown = own
	}
	creds := svidgrpc.ClientCredentials(shown, l.authority.Source(), svid.MemberOf(l.authority.TrustDomain))
	conn, err := grpc.NewClient(l.address, append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return healthpb.NewHealthClient(conn)
}

type tokens struct {
	t *testing.T
	a *svidtest.Authority
}

func (s tokens) FetchJWTSVID(_ context.Context, p jwtsvid.Params) (*jwtsvid.SVID, error) {
	return jwtsvid.ParseInsecure(s.a.MintJWT(s.t, "/cart", p.Audience), []string{p.Audience})
}

func (s tokens) FetchJWTSVIDs(ctx context.Context, p jwtsvid.Params) ([]*jwtsvid.SVID, error) {
	one, err := s.FetchJWTSVID(ctx, p)
	return []*jwtsvid.SVID{one}, err
}

func TestAMethodKnowsTheAttestedClient(t *testing.T) {
	l := newLab(t, nil)
	r, err := l.client(t, l.authority.Mint(t, "/cart")).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", r, err)
	}
}

func TestATokenPassesWhereTokensAreTaken(t *testing.T) {
	l := newLab(t, func(g *svidgrpc.Gate) { g.Audience = audience })
	bearer := grpc.WithPerRPCCredentials(svidgrpc.Bearer{Source: tokens{t, l.authority}, Audience: audience})
	if _, err := l.client(t, nil, bearer).Check(t.Context(), &healthpb.HealthCheckRequest{}); err == nil {
		t.Error("a gate that takes no tokens took one")
	}
	authority := l.authority
	l = newLab(t, func(g *svidgrpc.Gate) { g.Tokens, g.Audience = authority.JWTBundle(t), audience })
	// The token is of the first lab's authority, whom the second lab's gate trusts.
	bearer = grpc.WithPerRPCCredentials(svidgrpc.Bearer{Source: tokens{t, authority}, Audience: audience})
	r, err := l.client(t, nil, bearer).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", r, err)
	}
	if _, err := l.client(t, nil).Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no SVID at all: %v", err)
	}
	twice := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer x", "authorization", "Bearer y")
	if _, err := l.client(t, nil).Check(twice, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("two tokens: %v", err)
	}
}

func TestWhatIsWantedIsInTheLogAndNotInTheAnswer(t *testing.T) {
	authority := svidtest.New(t, "example.test")
	l := newLab(t, func(g *svidgrpc.Gate) {
		g.Tokens, g.Audience = authority.JWTBundle(t), audience
		g.Require = []svid.Requirement{svid.Policy("prod")}
		g.Source = nil
	})
	bearer := grpc.WithPerRPCCredentials(svidgrpc.Bearer{Source: tokens{t, authority}, Audience: audience})
	_, err := l.client(t, nil, bearer).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.PermissionDenied || strings.Contains(err.Error(), "prod") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(l.log.String(), "check=policy") {
		t.Errorf("the log does not say why: %s", l.log.String())
	}
}

func TestAStreamDoesNotOutliveTheSVIDItBeganWith(t *testing.T) {
	l := newLab(t, nil)
	w, err := l.client(t, l.authority.Mint(t, "/cart")).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	l.health.next <- struct{}{}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	l.ahead.Store(int64((time.Hour + time.Minute) / time.Second))
	l.health.next <- struct{}{}
	if _, err := w.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("after its end: %v", err)
	}
}

func TestACallOnAnOldConnectionIsChecked(t *testing.T) {
	l := newLab(t, nil)
	c := l.client(t, l.authority.Mint(t, "/cart"))
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	l.ahead.Store(int64((time.Hour + time.Minute) / time.Second))
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("after its end: %v", err)
	}
}

func TestAnOpenMethodNeedsNoSVID(t *testing.T) {
	authority := svidtest.New(t, "example.test")
	for _, tokens := range []bool{true, false} {
		l := newLab(t, func(g *svidgrpc.Gate) {
			if tokens {
				g.Tokens, g.Audience = authority.JWTBundle(t), audience
			}
			g.Open = []string{healthpb.Health_Check_FullMethodName}
		})
		r, err := l.client(t, nil).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_UNKNOWN {
			t.Errorf("%v %v", r, err)
		}
		w, err := l.client(t, nil).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("the other method: %v", err)
		}
		// Nor does one that does not hold keep anybody out, or let anybody in.
		bad := l.client(t, svidtest.New(t, "example.test").Mint(t, "/cart"))
		if _, err := bad.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
		if w, err = bad.Watch(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("the other method, with a certificate that does not hold: %v", err)
		}
	}
}
