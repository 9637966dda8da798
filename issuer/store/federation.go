package store

import (
	"context"
	"time"
)

// FederationStore keeps how bundles of other trust domains are had, and the last
// one of each. What the rows mean, and who may have written them, is decided in
// issuer/federation: rows are signed there.
type FederationStore interface {
	// Federations lists those of a trust domain by name, with the revision of the
	// whole list, which grows with every change but those of FederationChecked.
	Federations(ctx context.Context, trustDomain string) ([]Federation, uint64, error)
	// PutFederation stores one in place of the one before. Its Version must be one
	// more than that of the stored one, and 1 where there is none; otherwise
	// ErrConflict.
	PutFederation(ctx context.Context, f Federation) error
	// DeleteFederation removes one; ErrNotFound.
	DeleteFederation(ctx context.Context, trustDomain, name string) error
	// ClaimFederation makes it the caller's turn to fetch: where NextAt is not
	// after due, it is set to until. false: it is somebody else's turn, or the
	// federation is gone.
	ClaimFederation(ctx context.Context, trustDomain, name string, due, until time.Time) (bool, error)
	// FederationChecked stores how a fetch ended that brought nothing new: NextAt,
	// CheckedAt, Failures and Error. f.Version must be the stored one, otherwise
	// ErrConflict.
	FederationChecked(ctx context.Context, f Federation) error
}

// Federation is one foreign trust domain whose bundle is had.
type Federation struct {
	TrustDomain string // ours
	Name        string // of the foreign one
	// Version counts the changes of this row: of what was set, and of the bundle.
	Version uint64

	// What an operator set, signed by the server that took it.
	URL        string // empty: the bundle is handed in
	Profile    string // "https_web" or "https_spiffe"; empty without URL
	EndpointID string // https_spiffe
	WebRoots   []byte // https_web: PEM; empty is the system's
	SetAt      time.Time
	SetBy      string
	SetServer  string
	SetSeal    []byte

	// The last good bundle, as it came, signed by the server that got it. Empty: none yet.
	Bundle       []byte
	FetchedAt    time.Time
	BundleServer string
	BundleSeal   []byte

	// How it goes. Not signed: nothing is trusted because of it.
	NextAt    time.Time // when the next fetch is due
	CheckedAt time.Time // when the last one ended
	Failures  int       // since the last one that succeeded
	Error     string    // of the last one; empty when it succeeded
}
