package verifiers

import (
	"context"
	"time"

	"github.com/assay-project/assay/attest"
)

// Verifier knows one platform's evidence: bytes and roots to claims. It knows
// nothing of policy or SVIDs. Implementations are safe for concurrent use.
type Verifier interface {
	// Platform is the platform whose evidence this verifier reads.
	Platform() attest.Platform
	// Simulated reports whether the verifier's roots are a simulator's. A
	// verifier never holds roots of both kinds.
	Simulated() bool
	// Authenticate checks structure, signature and chain of the evidence at the
	// given time, and returns its claims. The error is an *attest.Error that
	// names the check; claims and error are never both returned.
	Authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error)
	// Bound checks that the claims carry the binding where this platform has
	// its place for it. The error is an *attest.Error of kind Untrusted.
	Bound(c *attest.Claims, want attest.Binding) error
}

// Exchange is a second round in the same stream, for platforms that need one
// (TPM credential activation). It is nil where no second round is possible.
type Exchange func(ctx context.Context, challenge []byte) (proof []byte, err error)

// Completer is implemented by verifiers that look beyond what the attester
// brought, such as into collateral. AuthenticateComplete is Authenticate, and
// also returns the evidence together with everything that vouched for it: what is
// recorded can be verified again by itself.
type Completer interface {
	AuthenticateComplete(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, attest.Evidence, error)
}

// Activator is implemented by verifiers that may need a second round. In
// [Set.Verify], AuthenticatePending stands in for Authenticate: it checks all that
// can be checked before that round, and its claims alone vouch for nothing, which
// is why Authenticate refuses where only the round would tell. Activate runs after
// Bound, and before a Verified exists; x may be nil.
type Activator interface {
	AuthenticatePending(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error)
	Activate(ctx context.Context, ev attest.Evidence, c *attest.Claims, want attest.Binding, x Exchange, at time.Time) error
}
