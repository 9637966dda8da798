package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

func anAuthority(id string) store.Authority {
	return store.Authority{
		TrustDomain: td, Use: store.X509, ID: id, Server: "main", KeyName: "x509-ca-" + id, State: store.Prepared,
		Public: []byte{1}, NotBefore: start, NotAfter: start.Add(time.Hour), CreatedAt: start, Signature: []byte{9},
	}
}

func sequence(t *testing.T, s store.Store) uint64 {
	t.Helper()
	row, err := s.TrustDomain(t.Context(), td)
	must(t, err)
	return row.BundleSequence
}

func authorities(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	a, b := anAuthority("aa"), anAuthority("bb")
	b.CreatedAt = start.Add(time.Minute)
	must(t, s.AddAuthority(ctx, a))
	must(t, s.AddAuthority(ctx, b))
	if err := s.AddAuthority(ctx, a); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the same ID: %v, want ErrConflict", err)
	}
	got, err := s.Authorities(ctx, td, store.X509)
	must(t, err)
	diff(t, []store.Authority{a, b}, got)
	none, err := s.Authorities(ctx, td, store.Verifier)
	must(t, err)
	if len(none) != 0 {
		t.Errorf("authorities of another use: %v", none)
	}
	if n := sequence(t, s); n != 2 {
		t.Errorf("bundle sequence %d, want 2", n)
	}
	a.TrustDomain = "other.example.org"
	if err := s.AddAuthority(ctx, a); err == nil {
		t.Error("an authority of an unknown trust domain was stored")
	}
}

// Of servers that start together on an empty database one makes the authority
// that signs at once.
func firstAuthority(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	won := atOnce(t, "first authorities", 6, func(ctx context.Context, i int) error {
		a := anAuthority(fmt.Sprintf("%02x", i))
		a.State = store.Active
		return s.AddAuthority(ctx, a)
	})
	all, err := s.Authorities(ctx, td, store.X509)
	must(t, err)
	if won != 1 || len(all) != 1 {
		t.Errorf("%d first authorities were added, %d are there", won, len(all))
	}
	verifier := anAuthority("v")
	verifier.Use, verifier.State = store.Verifier, store.Active
	must(t, s.AddAuthority(ctx, verifier)) // another use has a first of its own
	must(t, s.AddAuthority(ctx, anAuthority("ff")))
}

func authorityChanges(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	a := anAuthority("aa")
	must(t, s.AddAuthority(ctx, a))
	published := store.AuthorityChange{TrustDomain: td, Use: a.Use, ID: a.ID, State: store.Published, Server: "main", At: start, Body: []byte{}, Signature: []byte{1}}
	retired := published
	retired.State, retired.At, retired.EndsAt, retired.Reason, retired.Actor, retired.Body = store.Retired, start.Add(time.Minute), start.Add(time.Hour), "rotated", "uid 0", []byte{7}
	byOther := retired
	byOther.Server, byOther.At = "other", start.Add(2*time.Minute)
	for _, c := range []store.AuthorityChange{published, retired, byOther} {
		must(t, s.ChangeAuthority(ctx, c))
	}
	if err := s.ChangeAuthority(ctx, retired); !errors.Is(err, store.ErrConflict) {
		t.Errorf("said again: %v, want ErrConflict", err)
	}
	unknown := published
	unknown.ID = "bb"
	if err := s.ChangeAuthority(ctx, unknown); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of an unknown authority: %v, want ErrNotFound", err)
	}
	if n := sequence(t, s); n != 4 {
		t.Errorf("bundle sequence %d, want 4", n)
	}
	s = reopen(t, s)
	got, err := s.AuthorityState(ctx, td)
	must(t, err)
	diff(t, store.AuthorityState{BundleSequence: 4, Authorities: []store.Authority{a}, Changes: []store.AuthorityChange{published, retired, byOther}}, got)
	if _, err := s.AuthorityState(ctx, "other.example.org"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another trust domain: %v, want ErrNotFound", err)
	}
}

func signAuthority(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	a := anAuthority("aa")
	a.Signature = nil
	must(t, s.AddAuthority(ctx, a))
	a.Signature = []byte{1, 2}
	must(t, s.SignAuthority(ctx, a))
	must(t, s.SignAuthority(ctx, a)) // the same again
	other := a
	other.Signature = []byte{3}
	if err := s.SignAuthority(ctx, other); !errors.Is(err, store.ErrConflict) {
		t.Errorf("another signature: %v, want ErrConflict", err)
	}
	other.ID = "bb"
	if err := s.SignAuthority(ctx, other); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown: %v, want ErrNotFound", err)
	}
	got, err := s.Authorities(ctx, td, store.X509)
	must(t, err)
	diff(t, []store.Authority{a}, got)
}

func members(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	b := store.Member{TrustDomain: td, Server: "b", Endorsement: []byte{2}, JoinedAt: start}
	a := store.Member{TrustDomain: td, Server: "a", Endorsement: []byte{1}, JoinedAt: start.Add(time.Hour)}
	must(t, s.AddMember(ctx, b))
	must(t, s.AddMember(ctx, a))
	must(t, s.AddMember(ctx, a))
	other := a
	other.Endorsement = []byte{9}
	if err := s.AddMember(ctx, other); !errors.Is(err, store.ErrConflict) {
		t.Errorf("another server of that name: %v, want ErrConflict", err)
	}
	other.TrustDomain = "other.example.org"
	if err := s.AddMember(ctx, other); err == nil {
		t.Error("a member of an unknown trust domain was stored")
	}
	got, err := s.AuthorityState(ctx, td)
	must(t, err)
	diff(t, []store.Member{a, b}, got.Members)
	alone, err := s.Members(ctx, td)
	must(t, err)
	diff(t, got.Members, alone)
}

func documents(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	if _, err := s.LatestDocument(ctx, td, "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("none: %v, want ErrNotFound", err)
	}
	doc := func(sequence, follows uint64) store.Document {
		return store.Document{TrustDomain: td, Kind: "k", Sequence: sequence, Body: []byte{byte(sequence)}, CreatedAt: start, Follows: follows}
	}
	if err := s.PutDocument(ctx, doc(1, 7)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("after one that is not there: %v, want ErrConflict", err)
	}
	must(t, s.PutDocument(ctx, doc(1, store.FollowsNone)))
	must(t, s.PutDocument(ctx, doc(5, 1)))
	for name, d := range map[string]store.Document{
		"sequence 3": doc(3, 0), "sequence 5": doc(5, 0), "made from 1": doc(6, 1), "made from none": doc(6, store.FollowsNone), "made from 6": doc(7, 6),
	} {
		if err := s.PutDocument(ctx, d); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s after 5: %v, want ErrConflict", name, err)
		}
	}
	got, err := s.LatestDocument(ctx, td, "k")
	must(t, err)
	diff(t, doc(5, 0), got)
	must(t, s.PutDocument(ctx, doc(6, 0)))
}
