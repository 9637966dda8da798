package store

import (
	"context"
	"time"
)

// TPMStore remembers TPMs: which attestation key was activated beside which
// endorsement key, and which machines are the operator's. An EK is SHA-256 of the
// endorsement key's DER SubjectPublicKeyInfo.
type TPMStore interface {
	// TPMBinding reads one; ErrNotFound.
	TPMBinding(ctx context.Context, trustDomain string, ek [32]byte) (TPMBinding, error)
	// PutTPMBinding stores one, in place of the one before. Of TPMs that are not in
	// the inventory there are about MaxTPMBindings at most, and as many more as the
	// inventory has entries without a binding: now and then the oldest make room.
	PutTPMBinding(ctx context.Context, b TPMBinding) error
	// DeleteTPMBinding forgets one, if it is there.
	DeleteTPMBinding(ctx context.Context, trustDomain string, ek [32]byte) error
	// TPMInventory lists the inventory by group and EK.
	TPMInventory(ctx context.Context, trustDomain string) ([]TPMEntry, error)
	// PutTPMs adds entries, all or none. One that is there with the same group
	// and note is left as it is; with others it is replaced, or ErrConflict names
	// it. ActivatedAt is ignored.
	PutTPMs(ctx context.Context, entries []TPMEntry, replace bool) (added, replaced int, err error)
	// DeleteTPMs removes entries, all or none, with their bindings; ErrNotFound
	// names those that are not there.
	DeleteTPMs(ctx context.Context, trustDomain string, eks [][32]byte) error
}

// MaxTPMBindings bounds the bindings of TPMs that no operator listed: whoever has
// genuine ones can have them remembered. One that is forgotten shows its keys again.
const MaxTPMBindings = 250_000

// TPMBinding says that an attestation key lives beside an endorsement key.
type TPMBinding struct {
	TrustDomain string
	EK          [32]byte
	AK          []byte // the key's TPM name: nameAlg and digest
	// HasClock: the counters are known. They are those of the newest quote.
	HasClock       bool
	Reset, Restart uint32
	At             time.Time
}

// TPMEntry is a TPM in the operator's inventory.
type TPMEntry struct {
	TrustDomain string
	EK          [32]byte
	Group       string // policies match it as ek_inventory
	Note        string
	AddedAt     time.Time
	ActivatedAt time.Time // of its binding; zero where it has none
}
