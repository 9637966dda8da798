package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/enclave-agent/sds"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// securityHeader must come with every call (SPIFFE Workload Endpoint, section
// 4.2.1): a server-side request forgery cannot set it.
const securityHeader = "workload.spiffe.io"

// maxWorkloadMessage bounds a request of a workload, 64 KiB.
const maxWorkloadMessage = 64 << 10

// maxWorkloadHeaders bounds the headers of a request; gRPC's own bound is 16 MiB for
// each call.
const maxWorkloadHeaders = 8 << 10

// stopGrace is how long a stop waits for calls to end.
const stopGrace = 2 * time.Second

// workloadAPI is the SPIFFE Workload API over what the agent holds. What it does
// not offer is Unimplemented, as the specification asks.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	held     *holdings
	gate     *gatekeeper
	crowd    *crowd
	stopping <-chan struct{}
}

// view is what the caller of ctx may have now, one identity at least; else the error
// is a status that says why it may have nothing. The channel is closed at the next
// change.
func (w *workloadAPI) view(ctx context.Context) (*offer, <-chan struct{}, error) {
	now, changed := w.held.offer()
	if len(now.parts) == 0 {
		return nil, changed, w.held.nothing(false)
	}
	may, err := w.gate.judge(ctx, now.svids())
	switch {
	case err != nil:
		return nil, changed, err
	case len(may) == 0:
		return nil, changed, w.held.nothing(true)
	}
	return now.only(may), changed, nil
}

// FetchX509SVID streams every SVID with its key and bundle, at once and again
// after every change; each message is the full state.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	var sent said
	return w.follow(s.Context(), func(now *offer) error {
		r := now.response()
		if len(r.GetSvids()) == 0 {
			return errResident()
		}
		if !sent.changes(r) {
			return nil
		}
		return s.Send(r)
	})
}

// said is what a stream was last told, as a digest: there may be thousands of streams.
type said struct {
	digest [sha256.Size]byte
	begun  bool
}

// changes takes the next message, and reports whether it says anything else.
func (t *said) changes(m proto.Message) bool {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return true // sending it will say so
	}
	digest := sha256.Sum256(b)
	if t.begun && digest == t.digest {
		return false
	}
	t.digest, t.begun = digest, true
	return true
}

// errResident is the honest answer about keys that cannot be handed out.
func errResident() error {
	return status.Error(codes.PermissionDenied, "this agent's keys live in the TPM and cannot be handed out: "+
		"use assay.agent.v1 on this socket (for Go, package agentclient), or set key_residency: software in the agent's configuration")
}

// FetchX509Bundles streams the X.509 bundles of the agent's trust domains and of those
// that they federate with, at once and after every change.
func (w *workloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, s grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var sent said
	return w.follow(s.Context(), func(now *offer) error {
		m := now.x509Bundles()
		if !sent.changes(m) {
			return nil
		}
		return s.Send(m)
	})
}

// FetchJWTBundles streams the JWT bundles likewise, each a JWK Set.
func (w *workloadAPI) FetchJWTBundles(_ *workload.JWTBundlesRequest, s grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	var sent said
	return w.follow(s.Context(), func(now *offer) error {
		m := now.jwtBundles()
		if !sent.changes(m) {
			return nil
		}
		return s.Send(m)
	})
}

// follow calls send with every offer until the caller goes or there is nothing to
// serve any more.
func (w *workloadAPI) follow(ctx context.Context, send func(*offer) error) error {
	for {
		now, changed, err := w.view(ctx)
		if err != nil {
			return err
		}
		if err := send(now); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-w.stopping:
			return status.Error(codes.Unavailable, "the agent is stopping")
		case <-changed:
		}
	}
}

// serve answers on the listener until ctx ends.
func (a *Agent) serve(ctx context.Context, l *socketListener) error {
	stopping := make(chan struct{})
	crowd := newCrowd()
	s := grpc.NewServer(
		grpc.Creds(newCallerCredentials(crowd)),
		grpc.MaxConcurrentStreams(maxCallsPerConnection),
		grpc.MaxRecvMsgSize(maxWorkloadMessage),
		// What a call may cost before anything of ours sees it: its headers, and as
		// much of a message as there is room for, which need not come.
		grpc.MaxHeaderListSize(maxWorkloadHeaders),
		grpc.StaticStreamWindowSize(maxWorkloadMessage),
		grpc.StaticConnWindowSize(maxWorkloadMessage),
		grpc.InTapHandle(crowd.tap),
		grpc.ChainUnaryInterceptor(recoverUnary(a.log), headerUnary, unreadUnary),
		grpc.ChainStreamInterceptor(recoverStream(a.log), headerStream, unreadStream),
	)
	api := &workloadAPI{held: a.holdings, gate: newGatekeeper(a.cfg.Processes, a.log), crowd: crowd, stopping: stopping}
	workload.RegisterSpiffeWorkloadAPIServer(s, api)
	agentv1.RegisterAgentServer(s, newAgentAPI(api, a))
	secretv3.RegisterSecretDiscoveryServiceServer(s, sds.New(api.secrets, stopping, a.log))
	healthpb.RegisterHealthServer(s, a.health.server)
	reflection.Register(s) // what is served here beside the Workload API (Workload Endpoint, section 7)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		_ = l.Close()
		return fmt.Errorf("the Workload API stopped: %w", err)
	case <-ctx.Done():
	}
	close(stopping)
	a.health.server.Shutdown()
	force := time.AfterFunc(stopGrace, s.Stop)
	s.GracefulStop()
	force.Stop()
	<-done
	return nil
}

// checkHeader wants the header exactly once, with the value "true". The health
// service beside the Workload API hands out nothing, and needs none; Envoy sets
// none, and asks in a way that no forged request of a browser or a web service can.
func checkHeader(ctx context.Context, method string) error {
	for _, service := range []string{healthpb.Health_ServiceDesc.ServiceName, secretv3.SecretDiscoveryService_ServiceDesc.ServiceName} {
		if strings.HasPrefix(method, "/"+service+"/") {
			return nil
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(securityHeader); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "the security header "+securityHeader+": true is missing")
	}
	return nil
}

func headerUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := checkHeader(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func headerStream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := checkHeader(s.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, s)
}

// gRPC does not recover panics: one bad call must not take the identities of
// the whole TEE away.
func recoverUnary(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
		defer recovered(log, info.FullMethod, &err)
		return next(ctx, req)
	}
}

func recoverStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		defer recovered(log, info.FullMethod, &err)
		return next(srv, s)
	}
}

func recovered(log *slog.Logger, method string, err *error) {
	if r := recover(); r != nil {
		log.Error("panic in a call", "method", method, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error")
	}
}
