package issuer

import (
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// sentBundle is the bundle as agents get it, made once for each state of what it is
// made of. It never changes.
type sentBundle struct {
	of      bundleState
	message *assayv1.TrustBundle
}

// bundleState tells one state of the bundle from another.
type bundleState struct {
	sequence, federation, verifierKeys, denyList uint64
	x509, jwt                                    int // authorities that ended go without a new number
	hint                                         time.Duration
	foreign                                      int
}

// revision grows with each of the parts, which grow only, whichever server of the
// trust domain is asked: all of them are numbers of the database.
func (b bundleState) revision() uint64 {
	return b.sequence + b.federation + b.verifierKeys + b.denyList
}

// trustBundle is what relying parties in this trust domain check SVIDs with: its own
// authorities, the verifier keys and the deny-list, and beside them, each for itself,
// the bundles of the trust domains that it federates with. The message is shared: do
// not change it.
func (s *Server) trustBundle() (*assayv1.TrustBundle, error) {
	b := s.ca.Bundle()
	of := bundleState{verifierKeys: s.ca.VerifierKeys().Sequence, x509: len(b.X509Authorities()), jwt: len(b.JWTAuthorities())}
	if of.x509 == 0 {
		return nil, errors.New("the bundle has no X.509 authority")
	}
	of.sequence, _ = b.SequenceNumber()
	of.hint, _ = b.RefreshHint()
	var foreign []*spiffebundle.Bundle
	if s.federation != nil {
		foreign, of.federation = s.federation.Bundles()
		of.foreign = len(foreign)
	}
	denyList, sequence, _, ok := s.DenyList()
	if ok {
		of.denyList = sequence
	}
	if last := s.sent.Load(); last != nil && last.of == of {
		return last.message, nil
	}
	own, err := federatedBundle(b)
	if err != nil {
		return nil, err
	}
	out := &assayv1.TrustBundle{
		TrustDomain: s.td.Name(), X509Authorities: own.GetX509Authorities(), JwtAuthorities: own.GetJwtAuthorities(),
		Sequence: own.GetSequence(), RefreshHintSeconds: own.GetRefreshHintSeconds(),
		VerifierKeys: s.ca.VerifierKeysDocument(), DenyList: denyList, Revision: of.revision(),
	}
	for _, f := range foreign {
		m, err := federatedBundle(f)
		if err != nil {
			return nil, err
		}
		out.Federated = append(out.Federated, m)
	}
	s.sent.Store(&sentBundle{of, out})
	return out, nil
}

// federatedBundle is a bundle as a message.
func federatedBundle(b *spiffebundle.Bundle) (*assayv1.FederatedBundle, error) {
	out := &assayv1.FederatedBundle{TrustDomain: b.TrustDomain().Name()}
	for _, c := range b.X509Authorities() {
		out.X509Authorities = append(out.X509Authorities, c.Raw)
	}
	var err error
	if out.JwtAuthorities, err = federation.EncodeJWT(b); err != nil {
		return nil, err
	}
	out.Sequence, _ = b.SequenceNumber()
	if hint, ok := b.RefreshHint(); ok {
		out.RefreshHintSeconds = int64(hint / time.Second)
	}
	return out, nil
}
