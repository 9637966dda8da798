package issuer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/lru"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy"
)

// heldFacts is what the ledger says of one SVID. It never changes.
type heldFacts struct {
	serial     string
	instance   attest.Instance
	claims     attest.Claims
	policy     ledger.Policy
	reference  string
	spiffeID   string
	thumbprint [32]byte          // SHA-256 of the key's SubjectPublicKeyInfo
	together   []ledger.Identity // all that were issued in the same attestation, this one too

	mu    sync.Mutex
	asked [32]byte // digest of the policy that entitled was asked of
	until time.Time
	gives given
	still bool
}

// given is what a policy gives the holder of an SVID now.
type given struct {
	policy.Identity
	// validUntil is when it stops if nothing changes (a reference value or a waiver
	// ends); nil for never.
	validUntil *time.Time
}

// ends is when a token of what is given ends at the latest, of evidence that was made
// at a time: it is no more than a certificate would be that was issued now.
func (g given) ends(evidence time.Time) time.Time {
	end := evidence.Add(g.MaxEvidenceAge)
	if g.validUntil != nil && g.validUntil.Before(end) {
		end = *g.validUntil
	}
	return end
}

// maxHeld is how many SVIDs are remembered: the memory of a few kB each saves two
// reads of the database at each call of one.
const maxHeld = 4096

// holdings remembers what the ledger says of the SVIDs that were shown last. What
// is in the ledger stays as it is, so nothing here grows old.
type holdings struct {
	known *lru.Cache[string, *heldFacts] // by serial
}

func newHoldings() *holdings { return &holdings{lru.New[string, *heldFacts](maxHeld)} }

// of finds an SVID by its serial number; the error satisfies isNotFound where the
// ledger has none.
func (h *holdings) of(ctx context.Context, l *ledger.Ledger, serial string) (*heldFacts, error) {
	if f, ok := h.known.Get(serial); ok {
		return f, nil
	}
	item, err := l.BySerial(ctx, serial)
	if err != nil {
		return nil, err
	}
	e := item.Entry
	f := &heldFacts{serial: serial, instance: e.Instance, claims: e.Claims, policy: e.Policy, reference: e.Reference, together: e.Identities}
	for _, id := range e.Identities {
		if id.Serial == serial && len(id.KeyThumbprint) == len(f.thumbprint) {
			f.spiffeID, f.thumbprint = id.SPIFFEID, [32]byte(id.KeyThumbprint)
		}
	}
	if f.spiffeID == "" {
		return nil, &attest.Error{Kind: attest.Internal, Check: "ledger", Err: fmt.Errorf("entry %d: the look-up table says that it is of serial %s, the entry does not", item.Sequence, serial)}
	}
	h.known.Put(serial, f)
	return f, nil
}

// entitlementLife is how long an answer of the policy in force is remembered:
// reference values come and go with time.
const entitlementLife = 10 * time.Second

// granted is what a policy gives the holder under this SPIFFE ID now; false for
// nothing.
func (f *heldFacts) granted(b *policy.Bundle, at time.Time) (given, bool) {
	digest := b.Digest()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == digest && at.Before(f.until) && !f.until.After(at.Add(entitlementLife)) {
		return f.gives, f.still
	}
	f.asked, f.until, f.gives, f.still = digest, at.Add(entitlementLife), given{}, false
	d, e := b.Judge(f.claims, at)
	for _, is := range e.Identities {
		if is.SPIFFEID == f.spiffeID {
			f.gives, f.still = given{is.Identity, d.ValidUntil}, true
		}
	}
	return f.gives, f.still
}
