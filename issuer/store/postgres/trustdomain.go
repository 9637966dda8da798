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

// AddAuthority implements [store.AuthorityStore].
func (s *Store) AddAuthority(ctx context.Context, a store.Authority) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var n int
		err := tx.QueryRow(ctx, `SELECT count(*) FROM authorities WHERE trust_domain = $1 AND use = $2 AND id = $3`, a.TrustDomain, a.Use, a.ID).Scan(&n)
		if err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		if n > 0 {
			return fmt.Errorf("%w: authority %s is stored already", store.ErrConflict, a.ID)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO authorities
			(trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)`,
			a.TrustDomain, a.Use, a.ID, a.Server, a.KeyName, a.State, nonNil(a.Public), micros(a.NotBefore), micros(a.NotAfter), micros(a.CreatedAt)); err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		if _, err := tx.Exec(ctx, `UPDATE trust_domains SET bundle_sequence = bundle_sequence + 1 WHERE trust_domain = $1`, a.TrustDomain); err != nil {
			return fmt.Errorf("store: bundle sequence: %w", err)
		}
		return changed(ctx, tx, a.TrustDomain, store.TopicAuthorities, string(a.Use)+"/"+a.ID)
	})
}

// Authorities implements [store.AuthorityStore].
func (s *Store) Authorities(ctx context.Context, trustDomain string, use store.Use) ([]store.Authority, error) {
	return query(ctx, s, `SELECT trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at
		FROM authorities WHERE trust_domain = $1 AND use = $2 ORDER BY created_at, id`, []any{trustDomain, use},
		func(scan func(...any) error) (a store.Authority, err error) {
			var nb, na, at int64
			err = scan(&a.TrustDomain, &a.Use, &a.ID, &a.Server, &a.KeyName, &a.State, &a.Public, &nb, &na, &at)
			a.NotBefore, a.NotAfter, a.CreatedAt = when(nb), when(na), when(at)
			return a, err
		})
}

// PutDocument implements [store.AuthorityStore].
func (s *Store) PutDocument(ctx context.Context, d store.Document) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var last *int64
		err := tx.QueryRow(ctx, `SELECT max(sequence) FROM documents WHERE trust_domain = $1 AND kind = $2`, d.TrustDomain, d.Kind).Scan(&last)
		if err != nil {
			return fmt.Errorf("store: document: %w", err)
		}
		if last != nil && uint64(*last) >= d.Sequence {
			return fmt.Errorf("%w: document %s has sequence %d, got %d", store.ErrConflict, d.Kind, *last, d.Sequence)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO documents (trust_domain, kind, sequence, body, created_at) VALUES ($1,$2,$3,$4,$5)`,
			d.TrustDomain, d.Kind, int64(d.Sequence), nonNil(d.Body), micros(d.CreatedAt)); err != nil {
			return fmt.Errorf("store: document: %w", err)
		}
		return changed(ctx, tx, d.TrustDomain, store.TopicDocuments, d.Kind)
	})
}

// LatestDocument implements [store.AuthorityStore].
func (s *Store) LatestDocument(ctx context.Context, trustDomain, kind string) (store.Document, error) {
	d, err := one(query(ctx, s, `SELECT trust_domain, kind, sequence, body, created_at FROM documents
		WHERE trust_domain = $1 AND kind = $2 ORDER BY sequence DESC LIMIT 1`, []any{trustDomain, kind},
		func(scan func(...any) error) (d store.Document, err error) {
			var seq, at int64
			err = scan(&d.TrustDomain, &d.Kind, &seq, &d.Body, &at)
			d.Sequence, d.CreatedAt = uint64(seq), when(at)
			return d, err
		}))
	if err != nil {
		return store.Document{}, fmt.Errorf("document %s: %w", kind, err)
	}
	return d, nil
}
