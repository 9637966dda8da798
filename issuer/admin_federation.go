package issuer

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
)

// federations is the service of administration beside Admin that is about other
// trust domains.
type federations struct {
	assayv1.UnimplementedFederationsServer
	*Server
}

// there is what is administered, or why nothing is.
func (f *federations) there() (*federation.Federations, error) {
	if f.federation == nil {
		return nil, status.Error(codes.FailedPrecondition, "this server federates with nobody")
	}
	return f.federation, nil
}

// federationError is this service's edge: operators see what happened.
func federationError(err error) error {
	var e *attest.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, "there is no such federation")
	case errors.Is(err, store.ErrConflict):
		return status.Error(codes.Aborted, "the federation was changed by somebody else at the same time: look, and try again")
	case errors.Is(err, store.ErrUnavailable):
		return status.Error(codes.Unavailable, clip(err.Error(), 1024))
	case errors.As(err, &e):
		text := e.Error()
		if e.Hint != "" {
			text += " (" + e.Hint + ")"
		}
		return status.Error(codes.InvalidArgument, clip(text, 1024))
	}
	return adminError(err)
}

// ListFederations tells of every foreign trust domain.
func (f *federations) ListFederations(ctx context.Context, _ *assayv1.ListFederationsRequest) (*assayv1.ListFederationsResponse, error) {
	fs, err := f.there()
	if err != nil {
		return nil, err
	}
	list, err := fs.List(ctx)
	if err != nil {
		return nil, federationError(err)
	}
	out := &assayv1.ListFederationsResponse{}
	for _, s := range list {
		out.Federations = append(out.Federations, federationMessage(s))
	}
	return out, nil
}

// SetFederation begins to federate, or changes how. What is read of the request is
// what an operator decides; the rest of the message is for answers.
func (f *federations) SetFederation(ctx context.Context, req *assayv1.SetFederationRequest) (*assayv1.FederationResponse, error) {
	fs, err := f.there()
	if err != nil {
		return nil, err
	}
	m := req.GetFederation()
	if m == nil {
		return nil, status.Error(codes.InvalidArgument, "no federation is named")
	}
	s, err := fs.Set(ctx, federation.Relation{
		TrustDomain: m.GetTrustDomain(), URL: m.GetUrl(), Profile: federation.Profile(m.GetProfile()),
		EndpointID: m.GetEndpointId(), WebRoots: m.GetWebRoots(), Bundle: m.GetBundle(),
	}, actorOf(ctx))
	if err != nil {
		return nil, federationError(err)
	}
	return &assayv1.FederationResponse{Federation: federationMessage(s)}, nil
}

// DeleteFederation ends a federation: at once here, and with the next push at agents.
func (f *federations) DeleteFederation(ctx context.Context, req *assayv1.DeleteFederationRequest) (*assayv1.DeleteFederationResponse, error) {
	fs, err := f.there()
	if err != nil {
		return nil, err
	}
	if err := fs.Delete(ctx, req.GetTrustDomain(), actorOf(ctx)); err != nil {
		return nil, federationError(err)
	}
	return &assayv1.DeleteFederationResponse{}, nil
}

// RefreshFederation fetches a bundle now.
func (f *federations) RefreshFederation(ctx context.Context, req *assayv1.RefreshFederationRequest) (*assayv1.FederationResponse, error) {
	fs, err := f.there()
	if err != nil {
		return nil, err
	}
	s, err := fs.Refresh(ctx, req.GetTrustDomain())
	var e *attest.Error
	switch {
	case errors.As(err, &e) && e.Check == "federation_profile":
		return nil, status.Error(codes.FailedPrecondition, clip(e.Error(), 1024))
	case errors.As(err, &e): // of the endpoint
		text := e.Error()
		if e.Hint != "" {
			text += " (" + e.Hint + ")"
		}
		return nil, status.Error(codes.Unavailable, clip(text, 1024))
	case err != nil:
		return nil, federationError(err)
	}
	return &assayv1.FederationResponse{Federation: federationMessage(s)}, nil
}

func federationMessage(s federation.Status) *assayv1.Federation {
	return &assayv1.Federation{
		TrustDomain: s.TrustDomain, Url: s.URL, Profile: string(s.Profile), EndpointId: s.EndpointID, WebRoots: s.WebRoots,
		Bundle: s.Bundle, Sequence: s.Sequence, FetchedUnixMs: millis(s.FetchedAt), NextUnixMs: millis(s.NextAt), Error: s.Error,
	}
}
