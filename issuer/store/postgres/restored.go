package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

var _ store.RestoredStore = (*Store)(nil)

// RaiseBundleSequence implements [store.RestoredStore].
func (s *Store) RaiseBundleSequence(ctx context.Context, trustDomain string, atLeast uint64) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var have int64
		err := tx.QueryRow(ctx, `SELECT bundle_sequence FROM trust_domains WHERE trust_domain = $1`, trustDomain).Scan(&have)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("trust domain %s: %w", trustDomain, store.ErrNotFound)
		case err != nil:
			return fmt.Errorf("store: bundle sequence: %w", err)
		case have >= int64(atLeast):
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE trust_domains SET bundle_sequence = $2 WHERE trust_domain = $1`, trustDomain, int64(atLeast)); err != nil {
			return fmt.Errorf("store: bundle sequence: %w", err)
		}
		return changed(ctx, tx, trustDomain, store.TopicTrustDomains, trustDomain)
	})
}
