package agent

import (
	"context"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// callAgent is a client of the published proto, without go-spiffe's client.
func callAgent(t *testing.T, a *Agent) (*grpc.ClientConn, workload.SpiffeWorkloadAPIClient) {
	t.Helper()
	c, err := grpc.NewClient("unix://"+a.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, workload.NewSpiffeWorkloadAPIClient(c)
}

func withHeader(ctx context.Context, values ...string) context.Context {
	md := metadata.MD{}
	md.Set(securityHeader, values...)
	return metadata.NewOutgoingContext(ctx, md)
}

func TestACallWithoutTheSecurityHeaderIsInvalid(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	for name, ctx := range map[string]context.Context{
		"no header":   context.Background(),
		"false":       withHeader(context.Background(), "false"),
		"empty":       withHeader(context.Background(), ""),
		"twice":       withHeader(context.Background(), "true", "true"),
		"capital":     withHeader(context.Background(), "True"),
		"another one": metadata.AppendToOutgoingContext(context.Background(), "x-workload.spiffe.io", "true"),
	} {
		for method, call := range methods(c) {
			if err := call(ctx); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s, %s: %v, want InvalidArgument", name, method, err)
			}
		}
	}
}

// The server is one of a version that mints no tokens.
func TestWithTheHeaderEveryProfileButWITIsServed(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	want := map[string]codes.Code{
		"FetchX509SVID": codes.OK, "FetchX509Bundles": codes.OK,
		"FetchJWTSVID": codes.Unimplemented, "FetchJWTBundles": codes.OK, "ValidateJWTSVID": codes.InvalidArgument,
		"FetchWITSVID": codes.Unimplemented, "FetchWITBundles": codes.Unimplemented,
	}
	for method, call := range methods(c) {
		if err := call(withHeader(context.Background(), "true")); status.Code(err) != want[method] {
			t.Errorf("%s: %v, want %s", method, err, want[method])
		}
	}
}

func TestWithoutAnIdentityX509IsDenied(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	cfg := s.config(t)
	s.stop()
	a, _ := runAgent(t, cfg)
	_, c := callAgent(t, a)
	for _, method := range []string{"FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"} {
		if err := methods(c)[method](withHeader(context.Background(), "true")); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", method, err)
		}
	}
}

// methods calls each method of the Workload API and waits for its first answer.
func methods(c workload.SpiffeWorkloadAPIClient) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"FetchX509SVID": func(ctx context.Context) error {
			return first(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[workload.X509SVIDResponse], error) {
				return c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
			})
		},
		"FetchX509Bundles": func(ctx context.Context) error {
			return first(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[workload.X509BundlesResponse], error) {
				return c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
			})
		},
		"FetchJWTSVID": func(ctx context.Context) error {
			_, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"x"}})
			return err
		},
		"FetchJWTBundles": func(ctx context.Context) error {
			return first(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[workload.JWTBundlesResponse], error) {
				return c.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
			})
		},
		"ValidateJWTSVID": func(ctx context.Context) error {
			_, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "x", Svid: "y"})
			return err
		},
		"FetchWITSVID": func(ctx context.Context) error {
			return first(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[workload.WITSVIDResponse], error) {
				return c.FetchWITSVID(ctx, &workload.WITSVIDRequest{})
			})
		},
		"FetchWITBundles": func(ctx context.Context) error {
			return first(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[workload.WITBundlesResponse], error) {
				return c.FetchWITBundles(ctx, &workload.WITBundlesRequest{})
			})
		},
	}
}

func first[M any](ctx context.Context, open func(context.Context) (grpc.ServerStreamingClient[M], error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := open(ctx)
	if err != nil {
		return err
	}
	_, err = s.Recv()
	return err
}

func TestTheStreamOfAnSVIDThatEndsIsClosedAsDenied(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.life = 2 * time.Second
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	ctx, cancel := context.WithTimeout(withHeader(context.Background(), "true"), 10*time.Second)
	defer cancel()
	stream := must(c.FetchX509SVID(ctx, &workload.X509SVIDRequest{}))
	s.stop()
	for {
		if _, err := stream.Recv(); err != nil {
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("ended in %v, want PermissionDenied", err)
			}
			return
		}
	}
}

func TestAStopEndsStreamsAndRemovesTheSocket(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, stop := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	stream := must(c.FetchX509SVID(withHeader(context.Background(), "true"), &workload.X509SVIDRequest{}))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	if d := time.Since(began); d > stopGrace {
		t.Errorf("the stop took %s", d)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended in %v", err)
	}
	if err := exists(a.cfg.Socket); err == nil {
		t.Error("the socket is still there")
	}
}

func TestAPanicInACallIsAnErrorOfThatCallAlone(t *testing.T) {
	t.Parallel()
	log := testLog(t)
	info := &grpc.UnaryServerInfo{FullMethod: "/x/y"}
	_, err := recoverUnary(log)(context.Background(), nil, info, func(context.Context, any) (any, error) { panic(errTest) })
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	err = recoverStream(log)(nil, nil, &grpc.StreamServerInfo{FullMethod: "/x/y"}, func(any, grpc.ServerStream) error { panic(errTest) })
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
}

func TestHealthTellsTheStateWithoutTheHeader(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.refuse = nil
	s.start()
	clock := &setClock{}
	cfg := s.config(t)
	cfg.Clock = clock
	a, _ := runAgent(t, cfg)
	conn, _ := callAgent(t, a)
	h := healthpb.NewHealthClient(conn)
	is := func(service string, want healthpb.HealthCheckResponse_ServingStatus) func() bool {
		return func() bool {
			r, err := h.Check(context.Background(), &healthpb.HealthCheckRequest{Service: service})
			return err == nil && r.Status == want
		}
	}
	good, bad := healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING
	for _, svc := range []string{HealthOverall, HealthIdentity, HealthClock, HealthServer, HealthPolicy} {
		eventually(t, "health is good for "+svc, is(svc, good))
	}
	clock.set(time.Hour)
	eventually(t, "the clock is reported", is(HealthClock, bad))
	eventually(t, "nothing is served", is(HealthOverall, bad))
	eventually(t, "the identity is still held", is(HealthIdentity, good))
	clock.set(0)
	eventually(t, "health is good again", is(HealthOverall, good))
	s.stop()
	a.members[0].plan.advance(a.members[0].time.now())
	eventually(t, "the server is reported", is(HealthServer, bad))
}
