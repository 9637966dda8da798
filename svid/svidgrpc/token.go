package svidgrpc

import (
	"context"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/credentials"
)

// Bearer shows a JWT-SVID with every call: grpc.WithPerRPCCredentials. It asks the
// source for each: go-spiffe's workloadapi.JWTSource hands the question to the agent,
// which keeps tokens while they are good.
type Bearer struct {
	Source   jwtsvid.Source
	Audience string
}

var _ credentials.PerRPCCredentials = Bearer{}

// GetRequestMetadata implements [credentials.PerRPCCredentials].
func (b Bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.Source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: b.Audience})
	if err != nil {
		return nil, fmt.Errorf("svidgrpc: no JWT-SVID for %q: %w", b.Audience, err)
	}
	return map[string]string{"authorization": "Bearer " + token.Marshal()}, nil
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials]: whoever
// reads a token can use it.
func (b Bearer) RequireTransportSecurity() bool { return true }
