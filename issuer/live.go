package issuer

import (
	"context"
	"crypto/sha256"
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
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// errNotLive is an SVID that is not, or no longer, one of ours. It is all that a
// client is told.
var errNotLive = errors.New("not a live SVID of this trust domain")

// takenBack is why an SVID that would be live is not: it is errNotLive, and says
// what the holder is asked for.
type takenBack struct {
	reason assayv1.Reattest_Reason
	why    string // for operators
}

func (t *takenBack) Error() string { return errNotLive.Error() + ": " + t.why }
func (t *takenBack) Unwrap() error { return errNotLive }

// livePeerFacts is a live SVID, and what the ledger says of it.
type livePeerFacts struct {
	*heldFacts
	ID   spiffeid.ID
	Cert *x509.Certificate
}

// liveSVID checks that a certificate is an X.509-SVID that this trust domain
// issued, that it is valid now, and that nothing has happened since that ends it:
//
//   - its signature is by an authority of the bundle, and that is not tainted;
//   - the ledger knows its serial number, SPIFFE ID and key: a certificate that the
//     CA's key signed and the ledger does not know is a sign of theft;
//   - it was not revoked, and its holder is not banned.
//
// None of it reads the database for an SVID that was shown lately. Possession of
// its key is for the caller to prove. The error is errNotLive, or one of kind
// Unavailable or Internal when that cannot be told.
func (s *Server) liveSVID(ctx context.Context, cert *x509.Certificate, at time.Time) (*livePeerFacts, error) {
	id, _, err := x509svid.Verify([]*x509.Certificate{cert}, s.ca.Issuers(), x509svid.WithTime(at))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errNotLive, err)
	case !id.MemberOf(s.td) || id.Path() == "" || strings.HasPrefix(id.Path(), reservedPath+"/"):
		return nil, fmt.Errorf("%w: %s is no workload's", errNotLive, id)
	}
	serial := fmt.Sprintf("%032x", cert.SerialNumber)
	facts, err := s.held.of(ctx, s.ledger, serial)
	switch {
	case isNotFound(err):
		return nil, fmt.Errorf("%w: its serial number is not in the ledger", errNotLive)
	case err != nil:
		return nil, err
	case facts.spiffeID != id.String() || facts.thumbprint != sha256.Sum256(cert.RawSubjectPublicKeyInfo):
		return nil, fmt.Errorf("%w: the ledger has its serial number for another name or key", errNotLive)
	}
	if err := s.stands(cert, facts, at); err != nil {
		return nil, err
	}
	return &livePeerFacts{heldFacts: facts, ID: id, Cert: cert}, nil
}

// stands checks that nothing has happened that ends an SVID of ours early.
func (s *Server) stands(cert *x509.Certificate, facts *heldFacts, at time.Time) error {
	if s.ca.TaintedBy(cert) {
		return &takenBack{assayv1.Reattest_REASON_AUTHORITY_ROTATED, "its authority is tainted"}
	}
	if err := s.bans.stale(); err != nil {
		return err
	}
	return s.permitted(facts, facts.spiffeID, facts.serial, at)
}

// standTogether checks likewise those SVIDs that were issued in the same attestation
// and have not ended: an agent watches with one of them.
func (s *Server) standTogether(cert *x509.Certificate, facts *heldFacts, at time.Time) error {
	if err := s.stands(cert, facts, at); err != nil {
		return err
	}
	for _, id := range facts.together {
		if !at.Before(id.NotAfter) {
			continue
		}
		if err := s.permitted(facts, id.SPIFFEID, id.Serial, at); err != nil {
			return err
		}
	}
	return nil
}

// permitted checks that neither the holder nor the SVID was banned or revoked.
func (s *Server) permitted(facts *heldFacts, spiffeID, serial string, at time.Time) error {
	set := s.bans.current.Load()
	if b := set.hit(at, facts.claims, spiffeID); b != nil {
		return &takenBack{assayv1.Reattest_REASON_BANNED, "its holder falls under " + b.ID}
	}
	switch ban, revoked := set.revocation(at, serial); {
	case revoked && ban != "":
		return &takenBack{assayv1.Reattest_REASON_BANNED, "it was taken back with " + ban}
	case revoked:
		return &takenBack{assayv1.Reattest_REASON_OPERATOR, "it was revoked"}
	}
	return nil
}

// livePeer is the caller's live SVID, whose key it proved in the TLS handshake. It
// is checked in every RPC that needs one: a handshake is not a lease. The error is
// a status.
func (s *Server) livePeer(ctx context.Context) (*livePeerFacts, error) {
	state, address, err := tlsState(ctx)
	if err != nil {
		return nil, status.Error(codes.Internal, "a fault of the server")
	}
	if len(state.PeerCertificates) == 0 {
		return nil, status.Error(codes.Unauthenticated, "this needs a client certificate: the live X.509-SVID")
	}
	p, err := s.liveSVID(ctx, state.PeerCertificates[0], s.now())
	if err != nil {
		return nil, s.notLive(ctx, err)
	}
	s.vouched(address, p.instance)
	return p, nil
}

// notLive is what a client is told whose SVID is not live, or of which that cannot
// be said.
func (s *Server) notLive(ctx context.Context, err error) error {
	if errors.Is(err, errNotLive) {
		return status.Error(codes.Unauthenticated, "the client certificate is "+errNotLive.Error())
	}
	s.log.ErrorContext(ctx, "whether an SVID is live cannot be told", "error", err)
	if attest.KindOf(err) == attest.Unavailable {
		return status.Error(codes.Unavailable, "the server cannot do this now")
	}
	return status.Error(codes.Internal, "a fault of the server")
}

// peerSVID is livePeer for who needs no more than name and certificate.
func (s *Server) peerSVID(ctx context.Context) (spiffeid.ID, *x509.Certificate, error) {
	p, err := s.livePeer(ctx)
	if err != nil {
		return spiffeid.ID{}, nil, err
	}
	return p.ID, p.Cert, nil
}
