package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-project/assay/issuer/store"
)

const federationColumns = `trust_domain, name, version, url, profile, endpoint_id, web_roots, set_at, set_by, set_server, set_seal,
	bundle, fetched_at, bundle_server, bundle_seal, next_at, checked_at, failures, error`

// Federations implements [store.FederationStore].
func (s *Store) Federations(ctx context.Context, trustDomain string) ([]store.Federation, uint64, error) {
	// The list may be newer than its number and never older: whoever compares
	// numbers reads again.
	revisions, err := query(ctx, s, `SELECT revision FROM federation_revisions WHERE trust_domain = $1`, []any{trustDomain},
		func(scan func(...any) error) (n int64, err error) { return n, scan(&n) })
	if err != nil {
		return nil, 0, err
	}
	list, err := query(ctx, s, `SELECT `+federationColumns+` FROM federations WHERE trust_domain = $1 ORDER BY name`, []any{trustDomain},
		func(scan func(...any) error) (f store.Federation, err error) {
			var version, set, fetched, next, checked int64
			err = scan(&f.TrustDomain, &f.Name, &version, &f.URL, &f.Profile, &f.EndpointID, &f.WebRoots, &set, &f.SetBy, &f.SetServer, &f.SetSeal,
				&f.Bundle, &fetched, &f.BundleServer, &f.BundleSeal, &next, &checked, &f.Failures, &f.Error)
			f.Version = uint64(version)
			f.SetAt, f.FetchedAt, f.NextAt, f.CheckedAt = whenever(set), whenever(fetched), whenever(next), whenever(checked)
			return f, err
		})
	if err != nil {
		return nil, 0, err
	}
	if len(revisions) == 0 {
		return list, 0, nil
	}
	return list, uint64(revisions[0]), nil
}

// PutFederation implements [store.FederationStore].
func (s *Store) PutFederation(ctx context.Context, f store.Federation) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var have int64
		err := tx.QueryRow(ctx, `SELECT version FROM federations WHERE trust_domain = $1 AND name = $2`, f.TrustDomain, f.Name).Scan(&have)
		switch {
		case err != nil && !errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("store: federation: %w", err)
		case uint64(have) != f.Version-1:
			return fmt.Errorf("%w: the federation with %s has version %d, not %d", store.ErrConflict, f.Name, have, f.Version-1)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM federations WHERE trust_domain = $1 AND name = $2`, f.TrustDomain, f.Name); err != nil {
			return fmt.Errorf("store: federation: %w", err)
		}
		_, err = tx.Exec(ctx, `INSERT INTO federations (`+federationColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19)`,
			f.TrustDomain, f.Name, int64(f.Version), f.URL, f.Profile, f.EndpointID, nonNil(f.WebRoots), moment(f.SetAt), text(f.SetBy), f.SetServer, nonNil(f.SetSeal),
			nonNil(f.Bundle), moment(f.FetchedAt), f.BundleServer, nonNil(f.BundleSeal), moment(f.NextAt), moment(f.CheckedAt), f.Failures, text(f.Error))
		if err != nil {
			return fmt.Errorf("store: federation: %w", err)
		}
		return countFederation(ctx, tx, f.TrustDomain, f.Name)
	})
}

// countFederation gives the list its next number, and tells the other servers.
func countFederation(ctx context.Context, tx pgx.Tx, trustDomain, name string) error {
	_, err := tx.Exec(ctx, `INSERT INTO federation_revisions AS r (trust_domain, revision) VALUES ($1, 1)
		ON CONFLICT (trust_domain) DO UPDATE SET revision = r.revision + 1`, trustDomain)
	if err != nil {
		return fmt.Errorf("store: federation: %w", err)
	}
	return changed(ctx, tx, trustDomain, store.TopicFederations, name)
}

// DeleteFederation implements [store.FederationStore].
func (s *Store) DeleteFederation(ctx context.Context, trustDomain, name string) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		n, err := affected(tx.Exec(ctx, `DELETE FROM federations WHERE trust_domain = $1 AND name = $2`, trustDomain, name))
		switch {
		case err != nil:
			return fmt.Errorf("store: federation: %w", err)
		case n == 0:
			return fmt.Errorf("%w: there is no federation with %s", store.ErrNotFound, name)
		}
		return countFederation(ctx, tx, trustDomain, name)
	})
}

// ClaimFederation implements [store.FederationStore]. Of two servers that claim at
// once the second waits for the row, and finds that it is no longer due.
func (s *Store) ClaimFederation(ctx context.Context, trustDomain, name string, due, until time.Time) (mine bool, err error) {
	err = s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		n, err := affected(tx.Exec(ctx, `UPDATE federations SET next_at = $1 WHERE trust_domain = $2 AND name = $3 AND next_at <= $4`,
			moment(until), trustDomain, name, moment(due)))
		if err != nil {
			return fmt.Errorf("store: federation: %w", err)
		}
		mine = n > 0
		return nil
	})
	return mine && err == nil, err
}

// FederationChecked implements [store.FederationStore].
func (s *Store) FederationChecked(ctx context.Context, f store.Federation) error {
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		n, err := affected(tx.Exec(ctx, `UPDATE federations SET next_at = $1, checked_at = $2, failures = $3, error = $4
			WHERE trust_domain = $5 AND name = $6 AND version = $7`,
			moment(f.NextAt), moment(f.CheckedAt), f.Failures, text(f.Error), f.TrustDomain, f.Name, int64(f.Version)))
		switch {
		case err != nil:
			return fmt.Errorf("store: federation: %w", err)
		case n == 0:
			return fmt.Errorf("%w: the federation with %s changed meanwhile", store.ErrConflict, f.Name)
		}
		return nil
	})
}

func affected(tag pgconn.CommandTag, err error) (int64, error) { return tag.RowsAffected(), err }

// moment and whenever are micros and when for a time that may be missing: 0.
func moment(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return micros(t)
}

func whenever(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return when(us)
}
