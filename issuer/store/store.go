package store

import (
	"context"
	"errors"
	"time"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound: no such row.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict: the row exists with other content, or the chain's head is
	// not the one that an append builds on.
	ErrConflict = errors.New("store: conflict")
)

// Store is what the ledger and the authorities need of a database.
// Implementations are safe for concurrent use. A write that returned nil is
// durable: it survives the loss of the machine's power.
type Store interface {
	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
	// Close releases it. Writes that returned are durable without it.
	Close() error

	TrustDomainStore
	AuthorityStore
	PolicyStore
	TPMStore
	FederationStore
	BanStore
	LedgerStore
	LedgerReader
}

// TrustDomainStore holds what is fixed for the life of a trust domain.
type TrustDomainStore interface {
	// InitTrustDomain stores the row. The same row again is no error, another
	// kind under the same name is ErrConflict.
	InitTrustDomain(ctx context.Context, td TrustDomain) error
	// TrustDomain reads one; ErrNotFound.
	TrustDomain(ctx context.Context, name string) (TrustDomain, error)
	// TrustDomains lists all, by name.
	TrustDomains(ctx context.Context) ([]TrustDomain, error)
}

// TrustDomain is one trust domain that the issuer serves.
type TrustDomain struct {
	Name      string // "attested.example.org"
	Simulated bool   // of simulators, or of hardware: for life
	CreatedAt time.Time
	// BundleSequence grows with every change of the authorities that relying
	// parties see.
	BundleSequence uint64
}

// PolicyStore remembers the policies that were in force, and those that were
// refused.
type PolicyStore interface {
	// PutPolicy stores that a policy is in force from now on. The newest
	// revision of its name again is no error, and no change unless another
	// policy was in force in between; the same revision with another digest, or
	// a lower one, is ErrConflict.
	PutPolicy(ctx context.Context, c PolicyChange) error
	// RefusePolicy stores that a policy was refused. Of a document that could not
	// be read, name and revision are empty.
	RefusePolicy(ctx context.Context, c PolicyChange) error
	// LatestPolicy reads the highest revision of a name; ErrNotFound.
	LatestPolicy(ctx context.Context, trustDomain, name string) (Policy, error)
	// PolicyChanges reads the changes that match, newest first.
	PolicyChanges(ctx context.Context, trustDomain string, f FindPolicy) ([]PolicyChange, error)
	// PrunePolicyChanges drops the documents of policies that were in force
	// beyond that many bytes, oldest first and the newest never, and all but the
	// newest of the refused changes.
	PrunePolicyChanges(ctx context.Context, trustDomain string, documents int64, refused int) error
}

// Policy is a revision of a policy that was in force.
type Policy struct {
	TrustDomain string
	Name        string
	Revision    uint64   // at most 2^63-1
	Digest      [32]byte // SHA-256 of the source
	At          time.Time
}

// PolicyChange is one change of the policy in force, or one that was refused.
type PolicyChange struct {
	Policy
	ID      uint64 // drawn by the store, ascending; ignored when written
	Source  string // "file", "push", "revert"
	Actor   string // who did it, as far as the server knows
	Note    string // why, in the actor's words
	Signers []string
	Refused bool   // set by the store
	Detail  string // why it was refused
	Size    int64  // of the document, in bytes; the store knows it of one that is kept
	Kept    bool   // the document is stored; ignored when written
	// Server is the name of the server that put it into force, and Signature its
	// word for it, by which others take it over. Both are empty in what was
	// refused, and in rows of before there were several.
	Server    string
	Signature []byte
	// Document is what was given, a policy or a signed one; nil when it is not
	// kept, or was not asked for.
	Document []byte
}

// FindPolicy selects changes. Zero fields select everything.
type FindPolicy struct {
	Outcome   PolicyOutcome
	Name      string
	Revision  uint64
	Digest    *[32]byte
	Before    uint64 // ID less than
	Documents bool   // read the documents too
	Limit     int    // required, > 0
}

// PolicyOutcome selects changes by what became of them.
type PolicyOutcome int

// The outcomes of a change.
const (
	PolicyAny PolicyOutcome = iota
	PolicyInForce
	PolicyRefused
)

// LedgerStore is the writing side of the ledger.
type LedgerStore interface {
	// Head reads the end of a chain: the zero Head for a chain without entries.
	Head(ctx context.Context, trustDomain, chain string) (Head, error)
	// Append writes a batch in one transaction: all of it is durable, or none.
	// The first entry must follow on the stored head, and each on the one
	// before it; otherwise ErrConflict, and nothing is written.
	Append(ctx context.Context, b Batch) error
	// Usage sums what the bounded tables hold.
	Usage(ctx context.Context, trustDomain string) (Usage, error)
	// Prune deletes evidence, certificates and denials older than the time, event
	// logs that no evidence names any more, and then the oldest denials beyond
	// maxDenials. Entries are never pruned.
	Prune(ctx context.Context, trustDomain string, before time.Time, maxDenials int) (Pruned, error)
}

// Head is the end of a chain.
type Head struct {
	Sequence uint64 // of the last entry; 0 = none
	Hash     [32]byte
}

// Batch is what one transaction writes. Every part may be empty.
type Batch struct {
	TrustDomain  string
	Chain        string
	Previous     Head // what Entries[0] builds on
	Entries      []Entry
	Denials      []Denial
	Evidence     []Evidence // those whose digest is stored already are skipped
	Certificates []Certificate
	Checkpoints  []Checkpoint
}

// Entry is one link of the chain. Payload is kept byte for byte; the other
// fields but Hash repeat parts of it for look-ups, and are not covered by the
// hash: a reader who verifies compares them with the payload.
type Entry struct {
	Chain          string // set by look-ups; that of the batch counts when it is written
	Sequence       uint64
	Outcome        string // what it is a record of: "granted", …; never empty
	Hash           [32]byte
	Payload        []byte
	At             time.Time
	Reference      string
	Instance       string
	EvidenceDigest [32]byte
	Identities     []Identity
}

// Identity is one SVID that an entry allows.
type Identity struct {
	Serial        string // lower-case hex, unique within the trust domain
	SPIFFEID      string
	KeyThumbprint [32]byte // unique within the trust domain
	NotAfter      time.Time
}

// Denial is one refusal by policy, outside the chain.
type Denial struct {
	ID             uint64 // drawn by the store, ascending; ignored when written
	At             time.Time
	Reference      string
	Instance       string
	EvidenceDigest [32]byte
	Payload        []byte
}

// Evidence is what an attester sent, kept so that a draft policy can be tried
// on it.
type Evidence struct {
	Digest       [32]byte
	Platform     string
	Instance     string
	Denied       bool // it came with a denial, and counts against that budget
	Body         []byte
	Endorsements [][]byte
	EventLog     []byte // stored once, whatever came with it; nil without one
	At           time.Time
}

// Size is what the evidence counts against the budget, in bytes, without the
// event log.
func (e Evidence) Size() int64 {
	n := int64(len(e.Body))
	for _, b := range e.Endorsements {
		n += int64(len(b))
	}
	return n
}

// Certificate is an SVID as issued: it holds the attestation result.
type Certificate struct {
	Serial string
	DER    []byte
	At     time.Time
}

// Checkpoint is a signed head.
type Checkpoint struct {
	Size uint64 // entries that it covers
	Note []byte
	At   time.Time
}

// Usage is what the bounded tables hold.
type Usage struct {
	Denials        int64 // rows
	DenialBytes    int64 // of their payloads
	Evidence       int64 // bytes, of issuances; event logs count once
	DeniedEvidence int64 // bytes, of denials; likewise
}

// Pruned counts what Prune deleted, in rows.
type Pruned struct{ Evidence, EventLogs, Certificates, Denials int64 }

// LedgerReader is the reading side of the ledger.
type LedgerReader interface {
	// Chains lists the chains of the trust domain that have an entry or a
	// checkpoint, by name.
	Chains(ctx context.Context, trustDomain string) ([]string, error)
	// Entries reads up to limit entries with sequence numbers greater than
	// after, ascending. Identities are not filled in.
	Entries(ctx context.Context, trustDomain, chain string, after uint64, limit int) ([]Entry, error)
	// Entry reads one by sequence number; ErrNotFound.
	Entry(ctx context.Context, trustDomain, chain string, sequence uint64) (Entry, error)
	// EntryIdentities reads the look-up rows of one entry, in their order.
	EntryIdentities(ctx context.Context, trustDomain, chain string, sequence uint64) ([]Identity, error)
	// KeysOnRecord returns those of the key thumbprints that an entry of the
	// trust domain names. It sees every append that returned before.
	KeysOnRecord(ctx context.Context, trustDomain string, thumbprints [][32]byte) (map[[32]byte]bool, error)
	// StrayIdentities counts the identities of the trust domain that belong to
	// no entry: none, unless another program wrote to the database.
	StrayIdentities(ctx context.Context, trustDomain string) (int, error)
	// HasSerial reports whether an entry of the trust domain names the serial.
	HasSerial(ctx context.Context, trustDomain, serial string) (bool, error)
	// FindEntries reads the entries that match, newest first unless f says otherwise:
	// by sequence in one chain, by time where chain is empty and all are looked
	// through. Identities are not filled in.
	FindEntries(ctx context.Context, trustDomain, chain string, f Find) ([]Entry, error)
	// FindDenials reads the denials that match, newest first unless f says
	// otherwise; a SPIFFEID or Serial matches none.
	FindDenials(ctx context.Context, trustDomain string, f Find) ([]Denial, error)
	// Evidence reads one by digest; ErrNotFound.
	Evidence(ctx context.Context, trustDomain string, digest [32]byte) (Evidence, error)
	// Certificate reads one by serial; ErrNotFound.
	Certificate(ctx context.Context, trustDomain, serial string) (Certificate, error)
	// Checkpoints reads up to limit of a chain that cover more entries than a size,
	// ascending by size.
	Checkpoints(ctx context.Context, trustDomain, chain string, beyond uint64, limit int) ([]Checkpoint, error)
	// LastCheckpoint reads the one with the greatest size; ErrNotFound.
	LastCheckpoint(ctx context.Context, trustDomain, chain string) (Checkpoint, error)
}

// Find selects entries or denials. Zero fields select everything.
type Find struct {
	Outcome   string // of entries
	Reference string
	Instance  string
	SPIFFEID  string
	Serial    string
	After     uint64    // sequence (entries of one chain) or ID (denials) greater than
	Below     uint64    // likewise, less than
	Before    time.Time // strictly older than
	Oldest    bool      // oldest first instead of newest first
	Limit     int       // required, > 0
}
