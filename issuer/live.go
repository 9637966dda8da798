package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
)

// errNotLive is an SVID that is not, or no longer, one of ours.
var errNotLive = errors.New("not a live SVID of this trust domain")

// liveSVID checks that a certificate is an X.509-SVID that this trust domain
// issued, that it is valid now, and that the ledger knows it. A certificate
// that the CA's key signed and the ledger does not know is a sign of theft,
// and is refused. Possession of its key is for the caller to prove.
//
// The error is errNotLive, or one of kind Unavailable or Internal when the
// ledger cannot be asked.
func (s *Server) liveSVID(ctx context.Context, cert *x509.Certificate, at time.Time) (spiffeid.ID, error) {
	id, _, err := x509svid.Verify([]*x509.Certificate{cert}, s.ca.Bundle(), x509svid.WithTime(at))
	switch {
	case err != nil:
		return spiffeid.ID{}, fmt.Errorf("%w: %w", errNotLive, err)
	case !id.MemberOf(s.td) || id.Path() == "" || strings.HasPrefix(id.Path(), reservedPath+"/"):
		return spiffeid.ID{}, fmt.Errorf("%w: %s is no workload's", errNotLive, id)
	}
	known, err := s.ledger.HasSerial(ctx, fmt.Sprintf("%032x", cert.SerialNumber))
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case !known:
		return spiffeid.ID{}, fmt.Errorf("%w: its serial number is not in the ledger", errNotLive)
	}
	return id, nil
}

// peerSVID is the caller's live SVID, whose key it proved in the TLS handshake.
// It is checked in every RPC that needs one: a handshake is not a lease.
func (s *Server) peerSVID(ctx context.Context) (spiffeid.ID, *x509.Certificate, error) {
	state, address, err := tlsState(ctx)
	if err != nil {
		return spiffeid.ID{}, nil, status.Error(codes.Internal, "a fault of the server")
	}
	if len(state.PeerCertificates) == 0 {
		return spiffeid.ID{}, nil, status.Error(codes.Unauthenticated, "this needs a client certificate: the live X.509-SVID")
	}
	cert := state.PeerCertificates[0]
	id, err := s.liveSVID(ctx, cert, s.now())
	switch {
	case errors.Is(err, errNotLive):
		return spiffeid.ID{}, nil, status.Error(codes.Unauthenticated, "the client certificate is "+errNotLive.Error())
	case err != nil:
		s.log.ErrorContext(ctx, "the ledger cannot be asked about a serial number", "error", err)
		if attest.KindOf(err) == attest.Unavailable {
			return spiffeid.ID{}, nil, status.Error(codes.Unavailable, "the server cannot do this now")
		}
		return spiffeid.ID{}, nil, status.Error(codes.Internal, "a fault of the server")
	}
	s.vouched(address)
	return id, cert, nil
}
