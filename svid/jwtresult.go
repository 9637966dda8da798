package svid

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// ResultOf is the attestation result in a certificate whose chain the caller has
// verified: for an issuer, which is asked for a token by one of its own X.509-SVIDs.
// The result is signed by one of the verifier keys and is about this certificate and
// ID; it makes those checks of [Verify] that come after the chain, and no demand.
func ResultOf(leaf *x509.Certificate, id spiffeid.ID, keys *VerifierKeys, at time.Time) (*Result, error) {
	if leaf == nil || keys == nil || at.IsZero() {
		return nil, fail(attest.Internal, "verify", "a certificate, verifier keys and a time are needed")
	}
	a := &Attested{ID: id, Certificate: leaf, VerifiedAt: at}
	if td := id.TrustDomain(); keys.TrustDomain != td {
		return nil, fail(attest.Untrusted, "verifier_keys", "%s: %w", td, errNoKeys)
	}
	if err := keys.current(at); err != nil {
		return nil, err
	}
	if err := a.verifyResult(keys, nil); err != nil {
		return nil, err
	}
	if err := a.Check(at, Simulated(), MinTier(Contraindicated)); err != nil {
		return nil, err
	}
	return &a.Result, nil
}
