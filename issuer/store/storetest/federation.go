package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// RunFederations is the part of the suite about [store.FederationStore].
func RunFederations(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, s store.Store) store.Store) {
	t.Run("FederationsAreKeptWithTheirLastBundle", func(t *testing.T) { federations(t, open(t), reopen) })
	t.Run("AFederationIsFetchedByOneServerAtATime", func(t *testing.T) { claims(t, open(t)) })
	t.Run("AFetchOfAnOlderFederationLeavesNoTrace", func(t *testing.T) { checked(t, open(t)) })
}

func foreign(name string, version uint64) store.Federation {
	return store.Federation{
		TrustDomain: td, Name: name, Version: version,
		URL: "https://" + name + "/bundle", Profile: "https_web", WebRoots: []byte("PEM"), SetAt: start, SetBy: "uid 0", SetServer: "main", SetSeal: []byte{1},
		Bundle: []byte(`{"keys":[]}`), FetchedAt: start.Add(time.Second), BundleServer: "b", BundleSeal: []byte{2, 3},
		NextAt: start.Add(time.Minute), CheckedAt: start.Add(2 * time.Second), Failures: 3, Error: "no route",
	}
}

func listed(t *testing.T, s store.FederationStore, revision uint64, want ...store.Federation) {
	t.Helper()
	got, n, err := s.Federations(context.WithoutCancel(t.Context()), td)
	must(t, err)
	diff(t, want, got)
	if n != revision {
		t.Errorf("revision %d, want %d", n, revision)
	}
}

func federations(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	f := s
	listed(t, f, 0)
	b, a := foreign("b.example", 1), foreign("a.example", 1)
	a.Bundle, a.FetchedAt, a.BundleServer, a.BundleSeal = []byte{}, time.Time{}, "", []byte{}
	must(t, f.PutFederation(ctx, b))
	must(t, f.PutFederation(ctx, a))
	listed(t, f, 2, a, b)
	for _, version := range []uint64{0, 1, 3} {
		late := foreign("b.example", version)
		late.URL = "https://elsewhere/"
		if err := f.PutFederation(ctx, late); !errors.Is(err, store.ErrConflict) {
			t.Errorf("version %d after 1: %v, want ErrConflict", version, err)
		}
	}
	next := foreign("b.example", 2)
	next.URL, next.Profile, next.EndpointID = "https://b/x", "https_spiffe", "spiffe://b.example/assay/bundle"
	must(t, f.PutFederation(ctx, next))
	s = reopen(t, s)
	f = s
	listed(t, f, 3, a, next)
	if got, n, err := f.Federations(ctx, "other.example.org"); err != nil || len(got) != 0 || n != 0 {
		t.Errorf("of another trust domain: %v, %d, %v", got, n, err)
	}
	must(t, f.DeleteFederation(ctx, td, "a.example"))
	if err := f.DeleteFederation(ctx, td, "a.example"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted twice: %v, want ErrNotFound", err)
	}
	// What is set anew begins anew, and the revision never goes back.
	must(t, f.PutFederation(ctx, a))
	listed(t, f, 5, a, next)
	stray := foreign("c.example", 1)
	stray.TrustDomain = "unknown.example.org"
	if err := f.PutFederation(ctx, stray); err == nil {
		t.Error("a federation of an unknown trust domain was stored")
	}
}

func claims(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	f := s
	row := foreign("b.example", 1)
	must(t, f.PutFederation(ctx, row))
	if mine, err := f.ClaimFederation(ctx, td, "b.example", row.NextAt.Add(-time.Microsecond), row.NextAt.Add(time.Hour)); mine || err != nil {
		t.Errorf("claimed before it was due: %t, %v", mine, err)
	}
	won := atOnce(t, "claims", 6, func(ctx context.Context, i int) error {
		mine, err := f.ClaimFederation(ctx, td, "b.example", row.NextAt, row.NextAt.Add(time.Duration(i+1)*time.Minute))
		if err == nil && !mine {
			return fmt.Errorf("%w: another's turn", store.ErrConflict)
		}
		return err
	})
	if won != 1 {
		t.Errorf("%d servers have their turn at once", won)
	}
	if mine, err := f.ClaimFederation(ctx, td, "none.example", row.NextAt, row.NextAt); mine || err != nil {
		t.Errorf("claimed what is not there: %t, %v", mine, err)
	}
}

func checked(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	f := s
	row := foreign("b.example", 1)
	must(t, f.PutFederation(ctx, row))
	row.NextAt, row.CheckedAt, row.Failures, row.Error = start.Add(time.Hour), start.Add(time.Minute), 0, ""
	must(t, f.FederationChecked(ctx, row))
	listed(t, f, 1, row)
	next := row
	next.Version = 2
	must(t, f.PutFederation(ctx, next))
	row.Failures = 9
	if err := f.FederationChecked(ctx, row); !errors.Is(err, store.ErrConflict) {
		t.Errorf("of an older version: %v, want ErrConflict", err)
	}
	listed(t, f, 2, next)
}
