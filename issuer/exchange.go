package issuer

import (
	"context"
	"errors"
	"time"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/verifiers"
)

// exchange is the second round that a verifier may ask for while it verifies
// (TPM credential activation): one question in the same stream, answered by the
// same deadline. While the client is waited for, others may take the place over,
// as before, and the place among those that verify is free. waited is how long that was, for the metrics. Checks:
// protocol_order (malformed), deadline (stale), admission and overload (unavailable).
func (a *attestation) exchange(p *place, t *turn, deadline time.Time) (x verifiers.Exchange, waited func() time.Duration) {
	var spent time.Duration
	asked := false
	x = func(ctx context.Context, challenge []byte) ([]byte, error) {
		if asked {
			return nil, internal("exchange", errors.New("a verifier asks a second time"))
		}
		asked = true
		if !p.wait() {
			return nil, errDisplaced()
		}
		start := time.Now()
		defer func() {
			spent = time.Since(start)
			a.took("activate", spent)
		}()
		err := a.stream.Send(&assayv1.AttestResponse{Message: &assayv1.AttestResponse_CredentialChallenge{
			CredentialChallenge: &assayv1.CredentialChallenge{Credential: challenge},
		}})
		if err != nil {
			return nil, receiveError(err)
		}
		msg, err := a.receiveBy(deadline)
		if err != nil {
			return nil, err
		}
		proof := msg.GetCredentialProof()
		if proof == nil {
			return nil, outOfOrder("the answer to a CredentialChallenge is not a CredentialProof")
		}
		if !p.keep() {
			return nil, errDisplaced()
		}
		if err := t.resume(ctx); err != nil {
			return nil, err
		}
		return proof.GetProof(), nil
	}
	return x, func() time.Duration { return spent }
}
