package ledger

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Recorded is a grant whose entry is durable. Only [Ledger.Record] makes one.
// It is good for one issuance: copies share one spent flag, and the zero value
// was never good.
type Recorded struct{ r *recorded }

type recorded struct {
	spent       atomic.Bool
	trustDomain string
	chain       string
	sequence    uint64
	hash        [32]byte
	entry       Entry
	publish     []string
	issuances   []Issuance
}

// Issuance is one SVID that the record allows.
type Issuance struct {
	Key      int    // index of the key in the challenge
	SPKI     []byte // the key, DER SubjectPublicKeyInfo, as the evidence vouched for it
	Serial   [16]byte
	Identity policy.Identity
	NotAfter time.Time // the authority may end it earlier
}

// ErrSpent is returned when a Recorded that was made elsewhere, or was already
// used, is used.
var ErrSpent = errors.New("ledger: not a durable record, or already used")

// Spend uses the Recorded up. It returns ErrSpent the second time, and for a
// zero value.
func (r *Recorded) Spend() error {
	if r == nil || r.r == nil || !r.r.spent.CompareAndSwap(false, true) {
		return ErrSpent
	}
	return nil
}

// get returns the record, or an empty one for a zero Recorded.
func (r *Recorded) get() *recorded {
	if r == nil || r.r == nil {
		return &recorded{}
	}
	return r.r
}

// TrustDomain is the trust domain of the ledger that holds the record.
func (r *Recorded) TrustDomain() string { return r.get().trustDomain }

// Sequence is the position of the entry in its chain, from 1.
func (r *Recorded) Sequence() uint64 { return r.get().sequence }

// Reference names the attestation, for agent and operator.
func (r *Recorded) Reference() string { return r.get().entry.Reference }

// Time is the server's time of the record: the issue time of its SVIDs.
func (r *Recorded) Time() time.Time { return r.get().entry.Time }

// Claims are the verified claims. Do not change what they share.
func (r *Recorded) Claims() attest.Claims { return r.get().entry.Claims }

// EvidenceDigest is SHA-256 of the evidence body.
func (r *Recorded) EvidenceDigest() [32]byte {
	var out [32]byte
	copy(out[:], r.get().entry.EvidenceDigest)
	return out
}

// Decision is why the grant was given.
func (r *Recorded) Decision() policy.Decision { return r.get().entry.Decision }

// Publish lists the claims that the attestation result shows.
func (r *Recorded) Publish() []string { return r.get().publish }

// Issuances lists the SVIDs that may be signed. Do not change what they share.
func (r *Recorded) Issuances() []Issuance { return r.get().issuances }
