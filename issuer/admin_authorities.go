package issuer

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
)

// authorities is the operator's service for the keys that sign.
type authorities struct {
	assayv1.UnimplementedAuthoritiesServer
	*Server
}

// Bounds of a request.
const (
	maxAuthorityReason = 256
	maxAuthorityID     = 64
	maxImportedChain   = 8
	maxImportedSize    = 64 << 10
)

// authorityError is the service's edge: the code says who must act, as the exit
// codes of `assay` do.
func authorityError(err error) error {
	code := codes.Internal
	var ae *attest.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "canceled")
	case errors.Is(err, store.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, ca.ErrPrepared):
		code = codes.Aborted
	case errors.Is(err, ca.ErrTooEarly):
		code = codes.FailedPrecondition
	case errors.Is(err, store.ErrUnavailable):
		code = codes.Unavailable
	case errors.As(err, &ae):
		switch ae.Kind {
		case attest.Malformed, attest.Untrusted: // of a certificate that was handed in
			code = codes.InvalidArgument
		case attest.Unavailable:
			code = codes.Unavailable
		case attest.Stale, attest.Denied, attest.Internal:
		}
	}
	text := err.Error()
	if hint := cli.Hint(err); hint != "" {
		text += "\nhint: " + hint
	}
	return status.Error(code, clip(text, 4096))
}

func useOf(u assayv1.AuthorityUse) (store.Use, error) {
	switch u {
	case assayv1.AuthorityUse_AUTHORITY_USE_X509:
		return store.X509, nil
	case assayv1.AuthorityUse_AUTHORITY_USE_JWT:
		return store.JWT, nil
	case assayv1.AuthorityUse_AUTHORITY_USE_VERIFIER:
		return store.Verifier, nil
	case assayv1.AuthorityUse_AUTHORITY_USE_DENY_LIST:
		return store.DenyList, nil
	case assayv1.AuthorityUse_AUTHORITY_USE_UNSPECIFIED:
	}
	return "", status.Error(codes.InvalidArgument, "name a use: x509, jwt, verifier or deny-list")
}

func protoUse(u store.Use) assayv1.AuthorityUse {
	switch u {
	case store.X509:
		return assayv1.AuthorityUse_AUTHORITY_USE_X509
	case store.JWT:
		return assayv1.AuthorityUse_AUTHORITY_USE_JWT
	case store.Verifier:
		return assayv1.AuthorityUse_AUTHORITY_USE_VERIFIER
	case store.DenyList:
		return assayv1.AuthorityUse_AUTHORITY_USE_DENY_LIST
	}
	return assayv1.AuthorityUse_AUTHORITY_USE_UNSPECIFIED
}

func protoState(s store.State) assayv1.AuthorityState {
	switch s {
	case store.Requested:
		return assayv1.AuthorityState_AUTHORITY_STATE_REQUESTED
	case store.Prepared, store.Published:
		return assayv1.AuthorityState_AUTHORITY_STATE_PREPARED
	case store.Active:
		return assayv1.AuthorityState_AUTHORITY_STATE_ACTIVE
	case store.Retired:
		return assayv1.AuthorityState_AUTHORITY_STATE_RETIRED
	case store.Tainted:
		return assayv1.AuthorityState_AUTHORITY_STATE_TAINTED
	case store.Revoked:
		return assayv1.AuthorityState_AUTHORITY_STATE_REVOKED
	}
	return assayv1.AuthorityState_AUTHORITY_STATE_UNSPECIFIED
}

func protoAuthority(a ca.AuthorityInfo) *assayv1.Authority {
	return &assayv1.Authority{
		Use: protoUse(a.Use), Id: a.ID, Server: a.Server, State: protoState(a.State), NotBeforeUnixMs: a.NotBefore.UnixMilli(), NotAfterUnixMs: a.NotAfter.UnixMilli(),
		PublishedUnixMs: unixMilli(a.Published), UsableUnixMs: unixMilli(a.Usable), LastSvidUnixMs: unixMilli(a.LastSVID),
		Public: a.Public, KeyId: a.KeyID, Reason: a.Reason, Actor: a.Actor,
	}
}

func authorityResponse(a ca.AuthorityInfo, err error) (*assayv1.AuthorityResponse, error) {
	if err != nil {
		return nil, authorityError(err)
	}
	return &assayv1.AuthorityResponse{Authority: protoAuthority(a)}, nil
}

// ListAuthorities tells of every authority of the trust domain.
func (a *authorities) ListAuthorities(_ context.Context, req *assayv1.ListAuthoritiesRequest) (*assayv1.ListAuthoritiesResponse, error) {
	out := &assayv1.ListAuthoritiesResponse{Server: a.ca.Server(), PropagationSeconds: int64(a.ca.Propagation() / time.Second)}
	for _, info := range a.ca.Authorities() {
		if p := protoAuthority(info); req.GetUse() == assayv1.AuthorityUse_AUTHORITY_USE_UNSPECIFIED || p.GetUse() == req.GetUse() {
			out.Authorities = append(out.Authorities, p)
		}
	}
	return out, nil
}

// authorityRequest checks what names an authority.
func authorityRequest(use assayv1.AuthorityUse, id string) (store.Use, error) {
	u, err := useOf(use)
	if err != nil {
		return "", err
	}
	if id == "" || len(id) > maxAuthorityID {
		return "", status.Error(codes.InvalidArgument, "name an authority by its id")
	}
	return u, nil
}

func authorityReason(reason string) error {
	if len(reason) > maxAuthorityReason {
		return status.Errorf(codes.InvalidArgument, "a reason has at most %d bytes, not %d", maxAuthorityReason, len(reason))
	}
	return nil
}

// PrepareAuthority makes the next authority of this server.
func (a *authorities) PrepareAuthority(ctx context.Context, req *assayv1.PrepareAuthorityRequest) (*assayv1.AuthorityResponse, error) {
	use, err := useOf(req.GetUse())
	if err != nil {
		return nil, err
	}
	return authorityResponse(a.ca.Prepare(ctx, use, actorOf(ctx)))
}

// ActivateAuthority has a prepared authority of this server sign from now on.
func (a *authorities) ActivateAuthority(ctx context.Context, req *assayv1.ActivateAuthorityRequest) (*assayv1.AuthorityResponse, error) {
	use, err := authorityRequest(req.GetUse(), req.GetId())
	if err != nil {
		return nil, err
	}
	return authorityResponse(a.ca.Activate(ctx, use, req.GetId(), actorOf(ctx)))
}

// TaintAuthority says that an authority's key is not to be trusted any more.
func (a *authorities) TaintAuthority(ctx context.Context, req *assayv1.TaintAuthorityRequest) (*assayv1.AuthorityResponse, error) {
	use, err := authorityRequest(req.GetUse(), req.GetId())
	if err == nil {
		err = authorityReason(req.GetReason())
	}
	if err != nil {
		return nil, err
	}
	return authorityResponse(a.ca.Taint(ctx, use, req.GetId(), req.GetReason(), actorOf(ctx), req.GetForce()))
}

// RevokeAuthority takes an authority out of the bundle.
func (a *authorities) RevokeAuthority(ctx context.Context, req *assayv1.RevokeAuthorityRequest) (*assayv1.AuthorityResponse, error) {
	use, err := authorityRequest(req.GetUse(), req.GetId())
	if err == nil {
		err = authorityReason(req.GetReason())
	}
	if err != nil {
		return nil, err
	}
	return authorityResponse(a.ca.Revoke(ctx, use, req.GetId(), req.GetReason(), actorOf(ctx)))
}

// GetAuthorityCSR returns a certificate request for the upstream CA.
func (a *authorities) GetAuthorityCSR(ctx context.Context, req *assayv1.GetAuthorityCSRRequest) (*assayv1.GetAuthorityCSRResponse, error) {
	if _, err := authorityRequest(assayv1.AuthorityUse_AUTHORITY_USE_X509, req.GetId()); err != nil {
		return nil, err
	}
	csr, err := a.ca.CSR(ctx, req.GetId())
	if err != nil {
		return nil, authorityError(err)
	}
	return &assayv1.GetAuthorityCSRResponse{Csr: csr}, nil
}

// ImportAuthority hands in what the upstream CA made of a request.
func (a *authorities) ImportAuthority(ctx context.Context, req *assayv1.ImportAuthorityRequest) (*assayv1.AuthorityResponse, error) {
	if _, err := authorityRequest(assayv1.AuthorityUse_AUTHORITY_USE_X509, req.GetId()); err != nil {
		return nil, err
	}
	size := 0
	for _, der := range req.GetChain() {
		size += len(der)
	}
	if n := len(req.GetChain()); n == 0 || n > maxImportedChain || size > maxImportedSize {
		return nil, status.Errorf(codes.InvalidArgument, "%d certificates of %d bytes, want 1 to %d of at most %d", n, size, maxImportedChain, maxImportedSize)
	}
	return authorityResponse(a.ca.Import(ctx, req.GetId(), req.GetChain(), actorOf(ctx)))
}
