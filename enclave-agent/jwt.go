package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	attested "github.com/assay-project/assay/svid"
)

// The JWT-SVID profile of the Workload API (SPIFFE Workload API, section 6).

// FetchJWTSVID returns a token for the audiences, of one identity or of all that
// the caller may have and policy grants tokens for these audiences.
func (w *workloadAPI) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	audiences, err := checkAudiences(r.GetAudience())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if r.GetSpiffeId() != "" {
		if _, err := spiffeid.FromString(r.GetSpiffeId()); err != nil {
			return nil, status.Error(codes.InvalidArgument, "the SPIFFE ID: "+clip(err.Error()))
		}
	}
	now, _, err := w.view(ctx)
	if err != nil {
		return nil, err
	}
	wanted := now.named(r.GetSpiffeId())
	if len(wanted) == 0 {
		return nil, w.held.without(r.GetSpiffeId())
	}
	tokens, err := mintAll(ctx, wanted, audiences, now.hints())
	if err != nil {
		return nil, err
	}
	return &workload.JWTSVIDResponse{Svids: tokens}, nil
}

// checkAudiences takes what the server would take, and leaves out repetitions.
func checkAudiences(in []string) (out []string, err error) {
	for _, a := range in {
		switch {
		case a == "" || len(a) > maxTokenAudience:
			return nil, fmt.Errorf("an audience has 1 to %d bytes, got %d", maxTokenAudience, len(a))
		case strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, fmt.Errorf("an audience is printable ASCII without spaces, got %q", clip(a))
		case !slices.Contains(out, a):
			out = append(out, a)
		}
	}
	if len(out) == 0 || len(out) > maxTokenAudiences {
		return nil, fmt.Errorf("%d audiences, want 1 to %d", len(out), maxTokenAudiences)
	}
	return out, nil
}

// ValidateJWTSVID checks a token for a workload that does not want to: whether it
// is a JWT-SVID, of a trust domain that this one knows, for the audience, and not
// expired. What a token says of attestation is among the claims; package svid checks
// it.
func (w *workloadAPI) ValidateJWTSVID(ctx context.Context, r *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if r.GetAudience() == "" || r.GetSvid() == "" {
		return nil, status.Error(codes.InvalidArgument, "audience and svid are required")
	}
	now, _, err := w.view(ctx)
	if err != nil {
		return nil, err
	}
	s, err := now.validate(r.GetSvid(), r.GetAudience())
	var away *awayError
	if errors.As(err, &away) {
		if why := w.held.in(away.td).nothing(); status.Code(why) == codes.Unavailable {
			return nil, why // it passes, and says nothing of the token
		}
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "not a valid JWT-SVID: %s", clip(err.Error())) // which begins with the check
	}
	claims := &structpb.Struct{}
	if err := claims.UnmarshalJSON(s.Payload); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the token's claims cannot be handed on: "+clip(err.Error()))
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: s.ID.String(), Claims: claims}, nil
}

// validate checks a token by the bundle of its trust domain, at the time of the server
// that the bundle is from.
func (o *offer) validate(token, audience string) (s *attested.JWTSVID, err error) {
	for _, p := range o.parts {
		s, err = attested.VerifyJWTSVID(token, jwtSource{o, p.of}, audience, p.of.time.now())
		if !errors.Is(err, errUnknownDomain) {
			break
		}
	}
	return s, err
}

// jwtSource is what an offer has of one of the agent's servers, as a source of
// go-spiffe's.
type jwtSource struct {
	*offer
	of *member
}

// GetJWTBundleForTrustDomain implements jwtbundle.Source.
func (s jwtSource) GetJWTBundleForTrustDomain(td spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	for b, p := range s.bundles() {
		if b.td == td && p.of == s.of {
			return b.jwt.bundle, nil
		}
	}
	if s.own[td] && !slices.ContainsFunc(s.parts, func(p part) bool { return p.bundle.td == td }) {
		return nil, &awayError{td}
	}
	return nil, errUnknownDomain
}

// awayError is a trust domain of the agent's own, of which nothing is served now.
type awayError struct{ td spiffeid.TrustDomain }

func (e *awayError) Error() string { return errUnknownDomain.Error() + " now" }

var errUnknownDomain = errors.New("this agent has no bundle of that trust domain")

// forgetTokens closes the minter's connections when the agent stops.
func (m *member) forgetTokens(ctx context.Context) error {
	<-ctx.Done()
	m.tokens.close()
	return nil
}
