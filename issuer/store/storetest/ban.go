package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// RunBans is the part of the suite about bans, revocations and the deny-list.
func RunBans(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, s store.Store) store.Store) {
	t.Run("ABanStandsUntilItIsLifted", func(t *testing.T) { bans(t, open(t), reopen) })
	t.Run("WhatIsRevokedStaysRevoked", func(t *testing.T) { revocations(t, open(t), reopen) })
	t.Run("APolicyIsDeniedUntilItIsLifted", func(t *testing.T) { deniedPolicies(t, open(t), reopen) })
	t.Run("DenyListsOnlyGrow", func(t *testing.T) { denyLists(t, open(t)) })
	t.Run("WhoHoldsWhatIsFound", func(t *testing.T) { held(t, open(t)) })
	t.Run("ListsComeInPages", func(t *testing.T) { pages(t, open(t)) })
	t.Run("NoPageIsLongerThanAPage", func(t *testing.T) { longPages(t, open(t)) })
}

func ban(id string, kind store.BanKind, value string) store.Ban {
	return store.Ban{TrustDomain: td, ID: id, Kind: kind, Value: value, Reason: "stolen", Actor: "uid 0", Since: start}
}

func bans(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	a, b := ban("ban-1", store.BanInstance, "aws-nitro:i-1"), ban("ban-2", store.BanExpr, "nitro.debug == true")
	b.Until, b.Since = start.Add(time.Hour), start.Add(time.Minute)
	must(t, s.AddBan(ctx, a))
	must(t, s.AddBan(ctx, b))
	if err := s.AddBan(ctx, a); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the same ID: %v", err)
	}
	for name, bad := range map[string]store.Ban{
		"a kind that is none": ban("ban-3", "colour", "red"), "no value": ban("ban-3", store.BanInstance, ""), "no ID": ban("", store.BanInstance, "x"),
		"an unknown trust domain": {TrustDomain: "other.example.org", ID: "ban-3", Kind: store.BanInstance, Value: "x", Since: start},
	} {
		if err := s.AddBan(ctx, bad); err == nil {
			t.Errorf("%s was stored", name)
		}
	}
	s = reopen(t, s)
	got, err := s.Bans(ctx, td, false)
	must(t, err)
	diff(t, []store.Ban{a, b}, got)
	if !b.Stands(b.Until.Add(-1)) || b.Stands(b.Until) || !a.Stands(start.AddDate(100, 0, 0)) {
		t.Error("a ban ends by its own date and no other")
	}

	lifted := store.Lifted{LiftedAt: start.Add(time.Hour), LiftedBy: "uid 1000", LiftReason: "it was found"}
	must(t, s.LiftBan(ctx, td, "ban-1", lifted))
	for _, id := range []string{"ban-1", "ban-9", ""} {
		if err := s.LiftBan(ctx, td, id, lifted); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("lifting %q: %v, want ErrNotFound", id, err)
		}
	}
	if err := s.LiftBan(ctx, "other.example.org", "ban-2", lifted); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("lifting another trust domain's: %v", err)
	}
	a.Lifted = lifted
	got, err = s.Bans(ctx, td, true)
	must(t, err)
	diff(t, []store.Ban{a, b}, got)
	got, err = s.Bans(ctx, td, false)
	must(t, err)
	diff(t, []store.Ban{b}, got)
	if a.Stands(start.Add(time.Minute)) {
		t.Error("a lifted ban stands")
	}
	none, err := s.Bans(ctx, "other.example.org", true)
	must(t, err)
	if len(none) != 0 {
		t.Errorf("another trust domain has %v", none)
	}
}

func revocations(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.Append(ctx, Batch("a", 1, 3)))
	rev := func(n uint64, by string) store.Revocation {
		id := Entry("a", n).Identities[0]
		return store.Revocation{TrustDomain: td, Serial: id.Serial, Ban: by, KeyThumbprint: id.KeyThumbprint, NotAfter: id.NotAfter, Reason: "stolen", Actor: "uid 0", At: start.Add(time.Duration(n) * time.Second)}
	}
	n, err := s.AddRevocations(ctx, []store.Revocation{rev(1, ""), rev(2, "ban-1")})
	must(t, err)
	again, err := s.AddRevocations(ctx, []store.Revocation{rev(1, ""), rev(2, "")})
	must(t, err)
	if n != 2 || again != 1 {
		t.Errorf("%d and %d were new, want 2 and 1", n, again)
	}
	stray := rev(3, "")
	stray.Serial = "ffff"
	if _, err := s.AddRevocations(ctx, []store.Revocation{rev(3, ""), stray}); err == nil {
		t.Error("a serial that is not on record was revoked")
	}
	s = reopen(t, s)
	got, err := s.Revocations(ctx, td, start)
	must(t, err)
	diff(t, []store.Revocation{rev(1, ""), rev(2, ""), rev(2, "ban-1")}, got)
	ended, err := s.Revocations(ctx, td, start.Add(time.Hour))
	must(t, err)
	if len(ended) != 0 {
		t.Errorf("what has ended is listed: %v", ended)
	}
}

func deniedPolicies(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	p := store.DeniedPolicy{TrustDomain: td, Digest: [32]byte{1}, Reason: "granted too much", Actor: "uid 0", At: start}
	other := store.DeniedPolicy{TrustDomain: td, Digest: [32]byte{2}, Reason: "this too", Actor: "uid 0", At: start.Add(time.Second)}
	must(t, s.DenyPolicy(ctx, p))
	must(t, s.DenyPolicy(ctx, other))
	again := p
	again.Reason = "another"
	must(t, s.DenyPolicy(ctx, again))
	denied := func(what string, want ...store.DeniedPolicy) {
		t.Helper()
		got, err := s.DeniedPolicies(ctx, td)
		must(t, err)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	denied("the same again", p, other)

	lifted := store.Lifted{LiftedAt: start.Add(time.Hour), LiftedBy: "uid 1000", LiftReason: "a mistake"}
	for name, err := range map[string]error{
		"another digest":       s.LiftPolicy(ctx, td, [32]byte{9}, lifted),
		"another trust domain": s.LiftPolicy(ctx, "other.example.org", p.Digest, lifted),
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("lifting that of %s: %v, want ErrNotFound", name, err)
		}
	}
	// Of those who lift it at once, one does.
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- s.LiftPolicy(ctx, td, p.Digest, lifted) }()
	}
	won := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrNotFound):
			t.Errorf("lifting it at once: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d lifted it", won, cap(errs))
	}
	s = reopen(t, s)
	denied("lifted", other)

	// It is denied again, by whom comes first.
	again.At = start.Add(2 * time.Hour)
	for range cap(errs) {
		go func() { errs <- s.DenyPolicy(ctx, again) }()
	}
	for range cap(errs) {
		must(t, <-errs)
	}
	denied("denied again", other, again)
	must(t, s.LiftPolicy(ctx, td, p.Digest, lifted))
	denied("lifted again", other)
}

func denyLists(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	if _, err := s.DenyList(ctx, td); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("none: %v, want ErrNotFound", err)
	}
	list := func(n uint64) store.SignedDenyList {
		return store.SignedDenyList{TrustDomain: td, Sequence: n, Body: fmt.Append(nil, "list ", n), At: start}
	}
	must(t, s.PutDenyList(ctx, list(2)))
	for _, n := range []uint64{0, 1, 2, 1 << 63} {
		err := s.PutDenyList(ctx, list(n))
		if err == nil || n > 0 && n < 3 && !errors.Is(err, store.ErrConflict) {
			t.Errorf("sequence %d after 2: %v", n, err)
		}
	}
	must(t, s.PutDenyList(ctx, list(7)))
	got, err := s.DenyList(ctx, td)
	must(t, err)
	diff(t, list(7), got)
	// Of those who come at once, one wins.
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- s.PutDenyList(ctx, list(8)) }()
	}
	won := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrConflict):
			t.Errorf("at once: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d won", won, cap(errs))
	}
}

func held(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.Append(ctx, Batch("a", 1, 5)))
	must(t, s.Append(ctx, Batch("b", 1, 2)))
	serials := func(f store.FindHeld) (out []string) {
		t.Helper()
		got, err := s.HeldIdentities(ctx, td, f)
		must(t, err)
		for _, h := range got {
			out = append(out, h.Serial)
		}
		return out
	}
	serial := func(chain string, n uint64) string { return Entry(chain, n).Identities[0].Serial }
	for name, tt := range map[string]struct {
		f    store.FindHeld
		want []string
	}{
		"everything, newest first": {store.FindHeld{}, []string{serial("a", 5), serial("a", 4), serial("a", 3), serial("a", 2), serial("b", 2), serial("a", 1), serial("b", 1)}},
		"at most":                  {store.FindHeld{Limit: 2}, []string{serial("a", 5), serial("a", 4)}},
		"by instance":              {store.FindHeld{Instance: "aws-nitro:i-2"}, []string{serial("a", 5), serial("a", 2), serial("b", 2)}},
		"by SPIFFE ID":             {store.FindHeld{SPIFFEID: "spiffe://" + td + "/w0"}, []string{serial("a", 4), serial("a", 2), serial("b", 2)}},
		"by serial":                {store.FindHeld{Serial: serial("b", 1)}, []string{serial("b", 1)}},
		"by platform":              {store.FindHeld{Prefix: "aws-nitro:", Limit: 1}, []string{serial("a", 5)}},
		"of another platform":      {store.FindHeld{Prefix: "tpm2:"}, nil},
		"not a prefix":             {store.FindHeld{Prefix: "aws%"}, nil},
		"since":                    {store.FindHeld{MadeAfter: start.Add(4 * time.Second)}, []string{serial("a", 5), serial("a", 4)}},
		"live":                     {store.FindHeld{EndsAfter: start.Add(time.Hour - 1), Limit: 1}, []string{serial("a", 5)}},
		"ended":                    {store.FindHeld{EndsAfter: start.Add(time.Hour)}, nil},
	} {
		if got := serials(tt.f); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	got, err := s.HeldIdentities(ctx, td, store.FindHeld{Serial: serial("a", 2)})
	must(t, err)
	e := Entry("a", 2)
	diff(t, []store.HeldIdentity{{Identity: e.Identities[0], Chain: "a", Sequence: 2, Reference: e.Reference, Instance: e.Instance, At: e.At}}, got)

	holders, err := s.Holders(ctx, td, store.FindHeld{})
	must(t, err)
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	end := start.Add(time.Hour)
	diff(t, []store.Holder{
		{Instance: "aws-nitro:i-2", First: at(2), Last: at(5), NotAfter: end, Attestations: 3},
		{Instance: "aws-nitro:i-1", First: at(1), Last: at(4), NotAfter: end, Attestations: 3},
		{Instance: "aws-nitro:i-0", First: at(3), Last: at(3), NotAfter: end, Attestations: 1},
	}, holders)
	one, err := s.Holders(ctx, td, store.FindHeld{SPIFFEID: "spiffe://" + td + "/w1", EndsAfter: start, Limit: 1})
	must(t, err)
	if len(one) != 1 || one[0].Instance != "aws-nitro:i-2" || one[0].Attestations != 1 {
		t.Errorf("by SPIFFE ID: %+v", one)
	}
	if other, err := s.Holders(ctx, "other.example.org", store.FindHeld{}); err != nil || len(other) != 0 {
		t.Errorf("another trust domain's: %v, %v", other, err)
	}
}
