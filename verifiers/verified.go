package verifiers

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
)

// Verified is evidence that was authenticated and found bound to a challenge.
// Only [Set.Verify] makes one. It is good for one authorization: copies share
// one spent flag, and the zero value was never good.
type Verified struct{ v *verified }

type verified struct {
	spent     atomic.Bool
	claims    attest.Claims
	evidence  attest.Evidence
	digest    [32]byte
	challenge attest.Challenge
	at        time.Time
}

// ErrSpent is returned when a Verified that was made elsewhere, or was already
// used, is used.
var ErrSpent = errors.New("verifiers: not the result of a verification, or already used")

// Spend uses the Verified up. It returns ErrSpent the second time, and for a
// zero value.
func (v *Verified) Spend() error {
	if v == nil || v.v == nil || !v.v.spent.CompareAndSwap(false, true) {
		return ErrSpent
	}
	return nil
}

// Claims returns the verified claims, or the zero Claims for a zero Verified.
// They share maps and slices with the Verified: do not change them.
func (v *Verified) Claims() attest.Claims {
	if v == nil || v.v == nil {
		return attest.Claims{}
	}
	return v.v.claims
}

// Challenge returns the challenge that the evidence answered.
func (v *Verified) Challenge() attest.Challenge {
	if v == nil || v.v == nil {
		return attest.Challenge{}
	}
	return v.v.challenge
}

// Evidence returns the evidence as it was received, with the endorsements that
// the verifier found elsewhere beside those that came along.
func (v *Verified) Evidence() attest.Evidence {
	if v == nil || v.v == nil {
		return attest.Evidence{}
	}
	return v.v.evidence
}

// EvidenceDigest is SHA-256 of the evidence body.
func (v *Verified) EvidenceDigest() [32]byte {
	if v == nil || v.v == nil {
		return [32]byte{}
	}
	return v.v.digest
}

// At is the server's time of the verification.
func (v *Verified) At() time.Time {
	if v == nil || v.v == nil {
		return time.Time{}
	}
	return v.v.at
}
