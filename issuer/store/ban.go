package store

import (
	"context"
	"fmt"
	"time"
)

// BanStore keeps who is to hold no identity any more, what was taken back before
// its time, and the signed deny-list that says so to relying parties. Every change
// but that of the list itself is announced under TopicBans.
type BanStore interface {
	// AddBan stores a ban, which stands from then on. ErrConflict where the ID is
	// taken.
	AddBan(ctx context.Context, b Ban) error
	// LiftBan ends a ban, once; ErrNotFound where none of that ID stands.
	LiftBan(ctx context.Context, trustDomain, id string, l Lifted) error
	// Bans lists those that nobody lifted, oldest first; with lifted, all that were
	// ever made.
	Bans(ctx context.Context, trustDomain string, lifted bool) ([]Ban, error)

	// AddRevocations stores what is taken back, all or none. The same serial for
	// the same ban again is no error, and changes nothing. It returns how many were
	// new.
	AddRevocations(ctx context.Context, rs []Revocation) (int, error)
	// Revocations lists those of SVIDs that end after a time, oldest first.
	Revocations(ctx context.Context, trustDomain string, after time.Time) ([]Revocation, error)

	// DenyPolicy stores that results of a policy are not to be accepted. The same
	// digest again is no error, and changes nothing while it stands.
	DenyPolicy(ctx context.Context, p DeniedPolicy) error
	// LiftPolicy ends that, once; ErrNotFound where the policy is not denied. It may
	// be denied again.
	LiftPolicy(ctx context.Context, trustDomain string, digest [32]byte, l Lifted) error
	// DeniedPolicies lists those that are denied now, oldest first.
	DeniedPolicies(ctx context.Context, trustDomain string) ([]DeniedPolicy, error)

	// PutDenyList stores the newest list in place of the one before, whose sequence
	// must be lower: ErrConflict otherwise.
	PutDenyList(ctx context.Context, l SignedDenyList) error
	// DenyList reads it; ErrNotFound.
	DenyList(ctx context.Context, trustDomain string) (SignedDenyList, error)

	// HeldIdentities lists SVIDs that were allowed, the newest first, a page at a
	// time: see [EachHeld].
	HeldIdentities(ctx context.Context, trustDomain string, f FindHeld) ([]HeldIdentity, error)
	// Holders lists the instances that were ever allowed an SVID, the one that
	// attested last first, a page at a time: see [EachHolder].
	Holders(ctx context.Context, trustDomain string, f FindHeld) ([]Holder, error)
}

// BanKind is what a ban names.
type BanKind string

// The kinds of bans.
const (
	BanInstance BanKind = "instance"
	BanHardware BanKind = "hardware"
	BanExpr     BanKind = "expr"
	BanSPIFFEID BanKind = "spiffe_id"
)

// Ban keeps whoever matches from identities.
type Ban struct {
	TrustDomain string
	ID          string // "ban-" and 16 hex digits
	Kind        BanKind
	Value       string
	Reason      string
	Actor       string
	Since       time.Time
	Until       time.Time // zero: it does not end by itself
	Lifted                // zero while nobody lifted it
}

// Lifted is how a ban was ended, or the denial of a policy.
type Lifted struct {
	LiftedAt   time.Time
	LiftedBy   string
	LiftReason string
}

// Stands reports whether the ban counts at a time.
func (b Ban) Stands(at time.Time) bool {
	return b.LiftedAt.IsZero() && (b.Until.IsZero() || at.Before(b.Until))
}

func (b Ban) check() error {
	switch b.Kind {
	case BanInstance, BanHardware, BanExpr, BanSPIFFEID:
	default:
		return fmt.Errorf("store: %.20q is no kind of ban", b.Kind)
	}
	if b.ID == "" || b.Value == "" || b.Since.IsZero() || !b.LiftedAt.IsZero() {
		return fmt.Errorf("store: ban %q: an ID, a value and a beginning are needed, and no end", b.ID)
	}
	return nil
}

// CheckBan refuses what is no ban. Every implementation calls it before it writes.
func CheckBan(b Ban) error { return b.check() }

// Revocation is an SVID that is taken back before its end.
type Revocation struct {
	TrustDomain   string
	Serial        string // 32 digits of lower-case hex
	Ban           string // the ban that it fell under; empty: by itself
	KeyThumbprint [32]byte
	NotAfter      time.Time
	Reason        string
	Actor         string
	At            time.Time
}

// DeniedPolicy is a policy whose results are not to be accepted.
type DeniedPolicy struct {
	TrustDomain string
	Digest      [32]byte
	Reason      string
	Actor       string
	At          time.Time
}

// SignedDenyList is a signed list.
type SignedDenyList struct {
	TrustDomain string
	Sequence    uint64
	Body        []byte
	At          time.Time
}
