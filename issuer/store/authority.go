package store

import (
	"context"
	"fmt"
	"time"
)

// AuthorityStore knows which keys sign what, and which servers may say so. The
// store compares no signatures: whoever reads (issuer/ca) does, because who can
// write the database must not be able to name an authority.
type AuthorityStore interface {
	// AddAuthority stores a new authority and increments the trust domain's
	// bundle sequence in the same transaction. ErrConflict where the ID is taken,
	// and, for one that begins as Active, where the trust domain has another
	// authority of that use: only the first signs at once.
	AddAuthority(ctx context.Context, a Authority) error
	// SignAuthority gives an authority its signature, where it has none: rows that
	// were written before there were any. Nothing else of it changes. The same
	// again is no error; ErrNotFound, ErrConflict.
	SignAuthority(ctx context.Context, a Authority) error
	// ChangeAuthority stores what became of an authority, and increments the bundle
	// sequence. ErrConflict where this server has said so before, ErrNotFound
	// without such an authority.
	ChangeAuthority(ctx context.Context, c AuthorityChange) error
	// Authorities lists those of one use, oldest first.
	Authorities(ctx context.Context, trustDomain string, use Use) ([]Authority, error)
	// AuthorityState reads everything about the authorities of a trust domain as it
	// was at one moment; ErrNotFound without the trust domain.
	AuthorityState(ctx context.Context, trustDomain string) (AuthorityState, error)
	// AddMember stores that a server belongs to the trust domain. The same row
	// again is no error, another endorsement for the same name is ErrConflict.
	AddMember(ctx context.Context, m Member) error
	// Members lists the servers of a trust domain, by name.
	Members(ctx context.Context, trustDomain string) ([]Member, error)
	// PutDocument stores a signed document; its sequence must be greater than
	// that of every document of the same kind (ErrConflict).
	PutDocument(ctx context.Context, d Document) error
	// LatestDocument reads the one with the highest sequence; ErrNotFound.
	LatestDocument(ctx context.Context, trustDomain, kind string) (Document, error)
}

// Use is what an authority signs.
type Use string

// The uses.
const (
	X509     Use = "x509"      // X.509-SVIDs
	JWT      Use = "jwt"       // JWT-SVIDs
	Verifier Use = "verifier"  // attestation results
	DenyList Use = "deny-list" // deny-lists
)

// State is where an authority is in its life. An authority begins as Requested,
// Prepared, or, the first of a trust domain, Active; every later state is an
// [AuthorityChange].
type State string

// The states, from the weakest: an authority's state is the strongest that it
// was given.
const (
	Requested State = "requested" // waits for the upstream CA's certificate
	Prepared  State = "prepared"  // does not sign
	Published State = "published" // its owner has seen that others can know it
	Active    State = "active"    // signs
	Retired   State = "retired"   // signs no more; what it signed is good to its end
	Tainted   State = "tainted"   // not to be trusted any more
	Revoked   State = "revoked"   // out of the bundle
)

// Authority is a signing key's public side. The private key is in a ring under
// KeyName. It is written once; Signature is that of the server's checkpoint key
// over everything else.
type Authority struct {
	TrustDomain         string
	Use                 Use
	ID                  string // lower-case hex, unique within trust domain and use
	Server              string // the server that owns the key: the name of its chain
	KeyName             string
	State               State  // where it begins
	Public              []byte // X.509: certificates, DER, its own first, its trust anchor last; one that is requested: the PKCS#10 request; otherwise SubjectPublicKeyInfo, DER
	NotBefore, NotAfter time.Time
	CreatedAt           time.Time
	Signature           []byte // empty in rows of before there were any
}

// AuthorityChange says what became of an authority. It is written once, and
// signed by the server that says so.
type AuthorityChange struct {
	TrustDomain string
	Use         Use
	ID          string
	State       State
	Server      string // who says so
	At          time.Time
	EndsAt      time.Time // Retired: when the last of what it signed ends; otherwise zero
	Reason      string
	Actor       string
	Body        []byte // Prepared after Requested: the certificates, as in Authority.Public
	Signature   []byte
}

// Member is a server of the trust domain.
type Member struct {
	TrustDomain string
	Server      string
	Endorsement []byte // a certificate over its checkpoint key, by the bootstrap root; DER
	JoinedAt    time.Time
}

// AuthorityState is everything about a trust domain's authorities at one moment.
type AuthorityState struct {
	BundleSequence uint64
	Authorities    []Authority       // oldest first
	Changes        []AuthorityChange // oldest first
	Members        []Member          // by name
}

// Document is a signed document, such as that of the verifier keys.
type Document struct {
	TrustDomain string
	Kind        string // "verifier-keys"
	Sequence    uint64
	Body        []byte
	CreatedAt   time.Time
	// Follows is the sequence of the document that this one was made from, or
	// FollowsNone: PutDocument is ErrConflict where there is another by now. Zero
	// follows on any. It is not stored.
	Follows uint64
}

// FollowsNone is Document.Follows of the first document of its kind.
const FollowsNone = ^uint64(0)

// CheckOrder refuses a document that does not come next after the newest one of
// its kind, if there is any. Every implementation asks it in the transaction that
// stores the document.
func (d Document) CheckOrder(some bool, last uint64) error {
	switch {
	case some && last >= d.Sequence:
		return fmt.Errorf("%w: document %s has sequence %d, got %d", ErrConflict, d.Kind, last, d.Sequence)
	case some && d.Follows != 0 && d.Follows != last, !some && d.Follows != 0 && d.Follows != FollowsNone:
		return fmt.Errorf("%w: document %s was made without knowing of %d", ErrConflict, d.Kind, last)
	}
	return nil
}
