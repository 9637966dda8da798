package issuer

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

// shown is what is known of a connection: its TLS state, and the server of the
// trust domain whose certificate it was shown.
type shown struct {
	credentials.TLSInfo
	server *Server
}

// serverOf is the server of the trust domain that a connection belongs to.
func serverOf(ctx context.Context) (*Server, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(shown); ok && info.server != nil {
			return info.server, nil
		}
	}
	return nil, status.Error(codes.Internal, "a fault of the server")
}

// dispatch is the attestation service of all trust domains: it hands each call
// to the server that its connection belongs to.
type dispatch struct {
	assayv1.UnimplementedAttestationServer
}

// enter finds the server of a call. leave says that the call has ended.
func enter(ctx context.Context) (s *Server, leave func(), err error) {
	if s, err = serverOf(ctx); err != nil {
		return nil, nil, err
	}
	if !s.streams.enter() {
		return nil, nil, refusal(overloaded("stopping", "the trust domain is being stopped"), ledger.NewReference())
	}
	return s, s.streams.leave, nil
}

// Attest implements the service.
func (dispatch) Attest(stream assayv1.Attestation_AttestServer) error {
	s, leave, err := enter(stream.Context())
	if err != nil {
		return err
	}
	defer leave()
	return s.Attest(stream)
}

// Watch implements the service.
func (dispatch) Watch(r *assayv1.WatchRequest, stream assayv1.Attestation_WatchServer) error {
	s, leave, err := enter(stream.Context())
	if err != nil {
		return err
	}
	defer leave()
	return s.Watch(r, stream)
}

// MintJWTSVID implements the service.
func (dispatch) MintJWTSVID(ctx context.Context, r *assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
	s, leave, err := enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.MintJWTSVID(ctx, r)
}

// recoverUnary and recoverStream answer the panics of a handler for the trust
// domain that it served.
func recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	s, err := serverOf(ctx)
	if err != nil {
		return nil, err
	}
	return recovery{s.log, s.metrics}.unary(ctx, req, info, h)
}

func recoverStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	s, err := serverOf(ss.Context())
	if err != nil {
		return err
	}
	return recovery{s.log, s.metrics}.stream(srv, ss, info, h)
}

// probe answers health checks of the connection's trust domain and nothing else:
// a watch costs a stranger nothing and holds memory here for as long as they
// like.
type probe struct {
	healthpb.UnimplementedHealthServer
}

// Check implements the health service: not serving is who cannot attest now.
func (probe) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s, err := serverOf(ctx)
	if err != nil {
		return nil, err
	}
	switch r.GetService() {
	case "", assayv1.Attestation_ServiceDesc.ServiceName:
	default:
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	if s.ready() != nil {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// calls counts those that a server has to finish before its data is closed.
type calls struct {
	mu     sync.Mutex
	n      int
	closed bool
	empty  chan struct{} // closed when it is closed and n is 0
}

// enter is false when no more are taken.
func (c *calls) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.n++
	return true
}

func (c *calls) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 && c.empty != nil {
		close(c.empty)
	}
}

// close takes no more, and waits until all have left. After the limit cut is
// called, which makes them leave.
func (c *calls) close(limit time.Duration, cut func()) {
	c.mu.Lock()
	c.closed = true
	if c.n == 0 || c.empty != nil {
		c.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	c.empty = empty
	c.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-empty:
		return
	case <-timer.C:
	}
	cut()
	<-empty
}

var errStopping = errors.New("stopping")
