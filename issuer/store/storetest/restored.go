package storetest

import (
	"errors"
	"testing"

	"github.com/assay-project/assay/issuer/store"
)

// RunRestored is the part of the suite about [store.RestoredStore].
func RunRestored(t *testing.T, open func(t *testing.T) store.Store) {
	t.Run("TheBundleSequenceIsRaisedAndNeverLowered", func(t *testing.T) {
		st, ctx := open(t), t.Context()
		s, ok := st.(interface {
			store.Store
			store.RestoredStore
		})
		if !ok {
			t.Fatalf("a %T cannot be restored", st)
		}
		must(t, s.InitTrustDomain(ctx, store.TrustDomain{Name: td, CreatedAt: start, BundleSequence: 7}))
		for _, c := range []struct{ atLeast, want uint64 }{{1_795_333_987, 1_795_333_987}, {8, 1_795_333_987}, {1_795_333_987, 1_795_333_987}} {
			must(t, s.RaiseBundleSequence(ctx, td, c.atLeast))
			got, err := s.TrustDomain(ctx, td)
			must(t, err)
			if got.BundleSequence != c.want {
				t.Errorf("raised to %d: the sequence is %d, want %d", c.atLeast, got.BundleSequence, c.want)
			}
		}
		if err := s.RaiseBundleSequence(ctx, "unknown.example.org", 9); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("of a trust domain that is not there: %v", err)
		}
	})
}
