package svidgrpc

import (
	"context"
	"crypto/tls"
	"log/slog"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// Gate is [svid.Gate] in front of methods.
type Gate struct {
	svid.Gate
	// Log is told why a call is refused; nil is slog.Default().
	Log *slog.Logger
	// Open are methods that anybody may call, by their full names, such as
	// "/grpc.health.v1.Health/Check". They run without a peer in the context.
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
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			state = &info.State
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	who, err := g.Admit(state, md.Get("authorization"))
	if err != nil {
		return nil, g.refuse(ctx, method, err)
	}
	return who, nil
}

func (g *Gate) refuse(ctx context.Context, method string, err error) error {
	log := g.Log
	if log == nil {
		log = slog.Default()
	}
	address := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		address = p.Addr.String()
	}
	log.WarnContext(ctx, "a call is refused", "method", method, "kind", attest.KindOf(err).String(), "check", attest.CheckOf(err), "error", err.Error(), "peer", address)
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

// Credentials are those of the server behind the gate ([svid.Gate.ServerTLS]).
func (g *Gate) Credentials(own x509svid.Source) credentials.TransportCredentials {
	return credentials.NewTLS(g.ServerTLS(own))
}

// ClientCredentials are those of a client which shows its own SVID and demands an
// attested SVID of the server, whose name is its SPIFFE ID: require svid.ID, or
// svid.MemberOf.
func ClientCredentials(own x509svid.Source, src svid.Source, require ...svid.Requirement) credentials.TransportCredentials {
	return credentials.NewTLS(svid.ClientTLS(own, src, require...))
}
