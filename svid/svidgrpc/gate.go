package svidgrpc

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/internal/lease"
)

// Gate is [svid.Gate] in front of methods.
type Gate struct {
	svid.Gate
	// Log is told why a handshake or a call is refused; nil is slog.Default().
	// Strangers write what it is told: clip and count it like any log of refusals.
	Log *slog.Logger
	// Refused, if set, is told too: to count refusals, by [attest.CheckOf]. The method
	// is empty for a handshake.
	Refused func(method string, err error)
	// Open are methods that anybody may call, by their full names, such as
	// "/grpc.health.v1.Health/Check". They run without a peer in the context. Nothing
	// is demanded in the handshake then.
	Open []string
}

// Unary is an interceptor: grpc.UnaryInterceptor(gate.Unary). What does not pass is
// UNAUTHENTICATED (no SVID, or one that does not hold), PERMISSION_DENIED (it
// holds, and does not meet the requirements), UNAVAILABLE or INTERNAL, with a
// constant text: what is wanted is in the log.
func (g *Gate) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if g.open(info.FullMethod) {
		return next(ctx, req)
	}
	who, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(svid.NewContext(ctx, who), req)
}

// Stream is Unary for streams. Every message is checked anew: a stream that
// outlives the SVID it began with ends.
func (g *Gate) Stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if g.open(info.FullMethod) {
		return next(srv, s)
	}
	who, err := g.admit(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &stream{ServerStream: s, gate: g, who: who, method: info.FullMethod, ctx: svid.NewContext(s.Context(), who)})
}

func (g *Gate) open(method string) bool {
	for _, m := range g.Open {
		if m == method {
			return true
		}
	}
	return false
}

func (g *Gate) admit(ctx context.Context, method string) (*svid.Attested, error) {
	var state *tls.ConnectionState
	if p, ok := peer.FromContext(ctx); ok {
		var err error
		if state, err = stateOf(p.AuthInfo); err != nil {
			return nil, g.refuse(ctx, method, err)
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	who, err := g.Admit(state, md.Get("authorization"))
	if err != nil {
		return nil, g.refuse(ctx, method, err)
	}
	return who, nil
}

// tell logs a refusal. The method is a stranger's.
func (g *Gate) tell(ctx context.Context, from net.Addr, method string, err error, message string) {
	log := g.Log
	if log == nil {
		log = slog.Default()
	}
	address := ""
	if from != nil {
		address = from.String()
	}
	log.WarnContext(ctx, message, "method", lease.Clip(method), "kind", attest.KindOf(err).String(), "check", attest.CheckOf(err), "error", err.Error(), "peer", address)
	if g.Refused != nil {
		g.Refused(method, err)
	}
}

func (g *Gate) refuse(ctx context.Context, method string, err error) error {
	var from net.Addr
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr
	}
	g.tell(ctx, from, method, err, "a call is refused")
	switch attest.KindOf(err) {
	case attest.Malformed, attest.Untrusted, attest.Stale:
		return status.Error(codes.Unauthenticated, "an attested SVID is wanted")
	case attest.Denied:
		return status.Error(codes.PermissionDenied, "the SVID does not meet the requirements")
	case attest.Unavailable:
		return status.Error(codes.Unavailable, "the SVID cannot be checked now")
	case attest.Internal:
	}
	return status.Error(codes.Internal, "the SVID cannot be checked")
}

// stream checks its peer again with each message.
type stream struct {
	grpc.ServerStream
	gate   *Gate
	who    *svid.Attested
	method string
	ctx    context.Context //nolint:containedctx // that is how a stream carries its context
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) again() error {
	if err := s.gate.Again(s.who); err != nil {
		return s.gate.refuse(s.ctx, s.method, err)
	}
	return nil
}

// RecvMsg implements [grpc.ServerStream]. What came from a peer that no longer
// passes is not handed on.
func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.again()
}

// SendMsg implements [grpc.ServerStream].
func (s *stream) SendMsg(m any) error {
	if err := s.again(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}
