package issuer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

// caller is an administrator.
type caller struct {
	actor string // "uid 0 (root), pid 1", or a SPIFFE ID
	name  string // without what changes from call to call
	role  Role
}

type callerKey struct{}

// withCaller is the context of an admitted call.
func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf says who calls, and checks it: at every call, since a handshake is not
// a lease.
func (s *Server) callerOf(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{actor: "unknown", name: "unknown"}, errors.New("a call without a peer")
	}
	switch info := p.AuthInfo.(type) {
	case socketPeer:
		name, _, _ := strings.Cut(info.actor, ", pid ")
		return caller{actor: info.actor, name: name, role: Operator}, nil
	case adminPeer:
		id, err := s.adminTLS.verify(info.State.PeerCertificates, s.now(), s.ca.Bundle())
		if err != nil {
			return caller{actor: "an unknown client", name: "an unknown client"}, err
		}
		return caller{actor: id.String(), name: id.String(), role: s.adminTLS.roleOf(id)}, nil
	}
	return caller{actor: "unknown", name: "unknown"}, fmt.Errorf("a call over %T", p.AuthInfo)
}

// admitCall decides whether a call is made, and puts it on record.
func (s *Server) admitCall(ctx context.Context, rules map[string]methodRule, method string, req any) (caller, error) {
	c, err := s.callerOf(ctx)
	action := ledger.Action{Actor: c.actor, Method: method, Target: targetOf(req), Outcome: outcomeRefused}
	refuse := func(code codes.Code, detail, text string) (caller, error) {
		action.Detail = detail
		action.Actor = c.name
		s.audit.refused(ctx, action)
		return c, status.Error(code, text)
	}
	if err != nil {
		return refuse(codes.Unauthenticated, clip(err.Error(), 256), "the client certificate is no live SVID of the administrators")
	}
	if c.role != NoRole {
		action.Role = c.role.String()
	}
	rule, known := rules[method]
	switch {
	case !known:
		return refuse(codes.PermissionDenied, "no role may call it", "nobody may call this method")
	case c.role == NoRole:
		return refuse(codes.PermissionDenied, "no role is bound to it", fmt.Sprintf("no role is bound to %s: see administration.roles in the server's configuration", c.name))
	case c.role < rule.role:
		return refuse(codes.PermissionDenied, "it needs "+rule.role.String(), fmt.Sprintf("%s is %s, and this needs %s", c.name, c.role, rule.role))
	}
	bucket := c.name
	if rule.writes { // whoever only looks must not keep others of that name from acting
		bucket += " (writes)"
	}
	if err := s.allowAdminCall(bucket); err != nil {
		return refuse(codes.ResourceExhausted, "too many calls", fmt.Sprintf("too many calls of %s: try again in %s", c.name, retryOf(err)))
	}
	action.Outcome = outcomeAllowed
	if !rule.writes {
		action.Actor = c.name
		if err := s.audit.read(ctx, action); err != nil && c.actor == c.name {
			// At the socket an operator can look even so: that may be how the
			// fault is found.
			return c, status.Error(codes.Unavailable, "the call cannot be recorded, so it is not made")
		}
		return c, nil
	}
	if err := s.audit.record(ctx, action); err != nil {
		return c, status.Error(codes.Unavailable, "the call cannot be recorded, so it is not made")
	}
	return c, nil
}

// failedCall puts on record that a call which was allowed to change something did
// not.
func (s *Server) failedCall(ctx context.Context, rules map[string]methodRule, c caller, method string, req any, err error) {
	if err == nil || !rules[method].writes {
		return
	}
	st := status.Convert(err)
	_ = s.audit.record(ctx, ledger.Action{ // the log says if this failed
		Actor: c.actor, Role: c.role.String(), Method: method, Target: targetOf(req), Outcome: outcomeFailed,
		Detail: clip(st.Code().String()+": "+st.Message(), 512),
	})
}

// adminOptions are what every server of the admin services has.
func (s *Server) adminOptions() []grpc.ServerOption {
	r, rules := recovery{s.log, s.metrics}, methodRules()
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			c, err := s.admitCall(ctx, rules, info.FullMethod, req)
			if err != nil {
				return nil, err
			}
			resp, err := h(withCaller(ctx, c), req)
			s.failedCall(ctx, rules, c, info.FullMethod, req, err)
			return resp, err
		}, r.unary),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			c, err := s.admitCall(ss.Context(), rules, info.FullMethod, nil)
			if err != nil {
				return err
			}
			err = h(srv, &callerStream{ss, withCaller(ss.Context(), c)})
			s.failedCall(ss.Context(), rules, c, info.FullMethod, nil, err)
			return err
		}, r.stream),
		grpc.MaxRecvMsgSize(maxAdminMessage),
		grpc.WaitForHandlers(true),
	}
}

// callerStream is a stream whose context names the caller.
type callerStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *callerStream) Context() context.Context { return s.ctx }

// targetOf is what a request is about, for the record.
func targetOf(req any) string {
	switch r := req.(type) {
	case *assayv1.BanRequest:
		kind, value := banOf(r)
		out := string(kind) + " " + value
		if r.GetDryRun() {
			out += " (dry run)"
		}
		return clip(out, 1024)
	case *assayv1.RevokeSVIDsRequest:
		if r.GetSpiffeId() != "" {
			return clip(r.GetSpiffeId(), 256)
		}
		return clip(strings.Join(r.GetSerials(), " "), 1024)
	case *assayv1.DenyPolicyRequest:
		return "policy " + clip(hex.EncodeToString(r.GetDigest()), 64)
	case *assayv1.LiftPolicyRequest:
		return "policy " + clip(hex.EncodeToString(r.GetDigest()), 64)
	case *assayv1.SetFederationRequest:
		return clip(r.GetFederation().GetTrustDomain(), 256)
	case *assayv1.GetAgentRequest:
		return clip(r.GetInstance(), 256)
	case *assayv1.PrepareAuthorityRequest:
		return r.GetUse().String()
	case interface {
		GetUse() assayv1.AuthorityUse
		GetId() string
	}:
		return clip(r.GetUse().String()+" "+r.GetId(), 256)
	case interface{ GetId() string }:
		return clip(r.GetId(), 256)
	case interface{ GetTrustDomain() string }:
		return clip(r.GetTrustDomain(), 256)
	}
	return ""
}
