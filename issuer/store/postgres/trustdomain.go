package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

// InitTrustDomain implements [store.TrustDomainStore].
func (s *Store) InitTrustDomain(ctx context.Context, td store.TrustDomain) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var simulated bool
		err := tx.QueryRow(ctx, `SELECT simulated FROM trust_domains WHERE trust_domain = $1`, td.Name).Scan(&simulated)
		switch {
		case err == nil && simulated == td.Simulated:
			return nil
		case err == nil:
			return fmt.Errorf("%w: trust domain %s is %s for life", store.ErrConflict, td.Name, kind(simulated))
		case !errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("store: trust domain: %w", err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO trust_domains (trust_domain, simulated, bundle_sequence, created_at) VALUES ($1,$2,$3,$4)`,
			td.Name, td.Simulated, int64(td.BundleSequence), micros(td.CreatedAt)); err != nil {
			return fmt.Errorf("store: trust domain: %w", err)
		}
		return changed(ctx, tx, td.Name, store.TopicTrustDomains, td.Name)
	})
}

func kind(simulated bool) string {
	if simulated {
		return "simulated"
	}
	return "hardware"
}

const trustDomainColumns = `trust_domain, simulated, bundle_sequence, created_at`

func scanTrustDomain(scan func(...any) error) (td store.TrustDomain, err error) {
	var seq, at int64
	err = scan(&td.Name, &td.Simulated, &seq, &at)
	td.BundleSequence, td.CreatedAt = uint64(seq), when(at)
	return td, err
}

// TrustDomain implements [store.TrustDomainStore].
func (s *Store) TrustDomain(ctx context.Context, name string) (store.TrustDomain, error) {
	td, err := one(query(ctx, s, `SELECT `+trustDomainColumns+` FROM trust_domains WHERE trust_domain = $1`, []any{name}, scanTrustDomain))
	if err != nil {
		return store.TrustDomain{}, fmt.Errorf("trust domain %s: %w", name, err)
	}
	return td, nil
}

// TrustDomains implements [store.TrustDomainStore].
func (s *Store) TrustDomains(ctx context.Context) ([]store.TrustDomain, error) {
	return query(ctx, s, `SELECT `+trustDomainColumns+` FROM trust_domains ORDER BY trust_domain`, nil, scanTrustDomain)
}
