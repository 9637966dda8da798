package issuer

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
)

// DenyPolicy puts a policy's digest into the deny-list.
func (a *agents) DenyPolicy(ctx context.Context, req *assayv1.DenyPolicyRequest) (*assayv1.DenyPolicyResponse, error) {
	if err := reason(req.GetReason()); err != nil {
		return nil, err
	}
	if len(req.GetDigest()) != 32 {
		return nil, invalid("a policy's digest has 32 bytes, not %d", len(req.GetDigest()))
	}
	digest := [32]byte(req.GetDigest())
	if a.policy.Current().Digest() == digest {
		return nil, status.Error(codes.FailedPrecondition, "that is the policy in force: every SVID would be denied as soon as it is issued; push another first")
	}
	denied, err := a.bans.st.DeniedPolicies(ctx, a.td.Name())
	if err != nil {
		return nil, adminError(err)
	}
	if len(denied) >= maxDenied && !slices.ContainsFunc(denied, func(p store.DeniedPolicy) bool { return p.Digest == digest }) {
		return nil, status.Errorf(codes.FailedPrecondition, "%d policies are denied, which is as many as the deny-list may name", len(denied))
	}
	err = a.bans.st.DenyPolicy(ctx, store.DeniedPolicy{TrustDomain: a.td.Name(), Digest: digest, Reason: req.GetReason(), Actor: actorOf(ctx), At: a.now()})
	if err != nil {
		return nil, adminError(err)
	}
	a.log.WarnContext(ctx, "a policy's results are denied", "policy_digest", hex.EncodeToString(digest[:]), "reason", req.GetReason(), "actor", actorOf(ctx))
	a.settleBans(context.WithoutCancel(ctx))
	return &assayv1.DenyPolicyResponse{}, nil
}

// LiftPolicy takes a policy's digest off the deny-list. What it says is true from the
// next list on, which has a higher number: nobody who follows goes back by it.
func (a *agents) LiftPolicy(ctx context.Context, req *assayv1.LiftPolicyRequest) (*assayv1.LiftPolicyResponse, error) {
	if err := reason(req.GetReason()); err != nil {
		return nil, err
	}
	if len(req.GetDigest()) != 32 {
		return nil, invalid("a policy's digest has 32 bytes, not %d", len(req.GetDigest()))
	}
	digest := [32]byte(req.GetDigest())
	err := a.bans.st.LiftPolicy(ctx, a.td.Name(), digest, store.Lifted{LiftedAt: a.now(), LiftedBy: actorOf(ctx), LiftReason: req.GetReason()})
	if errors.Is(err, store.ErrNotFound) {
		return nil, status.Errorf(codes.NotFound, "the policy %x is not denied", digest)
	}
	if err != nil {
		return nil, adminError(err)
	}
	a.log.WarnContext(ctx, "a policy's results are no longer denied", "policy_digest", hex.EncodeToString(digest[:]), "reason", req.GetReason(), "actor", actorOf(ctx))
	a.settleBans(context.WithoutCancel(ctx))
	return &assayv1.LiftPolicyResponse{}, nil
}

// ListDeniedPolicies tells which policies are denied: at most maxDenied.
func (a *agents) ListDeniedPolicies(ctx context.Context, _ *assayv1.ListDeniedPoliciesRequest) (*assayv1.ListDeniedPoliciesResponse, error) {
	all, err := a.bans.st.DeniedPolicies(ctx, a.td.Name())
	if err != nil {
		return nil, adminError(err)
	}
	out := &assayv1.ListDeniedPoliciesResponse{}
	for _, p := range all {
		out.Policies = append(out.Policies, &assayv1.DeniedPolicy{Digest: p.Digest[:], Reason: clip(p.Reason, maxReason), Actor: clip(p.Actor, 512), SinceUnixMs: unixMilli(p.At)})
	}
	return out, nil
}

// GetDenyList returns the signed deny-list.
func (a *agents) GetDenyList(context.Context, *assayv1.GetDenyListRequest) (*assayv1.GetDenyListResponse, error) {
	doc, _, _, ok := a.DenyList()
	if !ok {
		text := "there is no deny-list yet"
		if p := a.denyListProblem.Load(); p != nil && p.err != nil {
			text += ": " + clip(p.err.Error(), 512)
		}
		return nil, status.Error(codes.FailedPrecondition, text)
	}
	b, err := a.trustBundle()
	if err != nil {
		return nil, adminError(err)
	}
	return &assayv1.GetDenyListResponse{DenyList: doc, Bundle: b}, nil
}
