package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const federationColumns = `trust_domain, name, version, url, profile, endpoint_id, web_roots, set_at, set_by, set_server, set_seal,
	bundle, fetched_at, bundle_server, bundle_seal, next_at, checked_at, failures, error`

// Federations implements [FederationStore].
func (s *SQLite) Federations(ctx context.Context, trustDomain string) ([]Federation, uint64, error) {
	// The list may be newer than its number and never older: whoever compares
	// numbers reads again.
	revisions, err := query(ctx, s.r, `SELECT revision FROM federation_revisions WHERE trust_domain = ?`, []any{trustDomain},
		func(scan func(...any) error) (n int64, err error) { return n, scan(&n) })
	if err != nil {
		return nil, 0, err
	}
	list, err := query(ctx, s.r, `SELECT `+federationColumns+` FROM federations WHERE trust_domain = ? ORDER BY name`, []any{trustDomain},
		func(scan func(...any) error) (f Federation, err error) {
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

// PutFederation implements [FederationStore].
func (s *SQLite) PutFederation(ctx context.Context, f Federation) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		if err := s.federationVersion(ctx, tx, f.TrustDomain, f.Name, f.Version-1); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO federations (`+federationColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
			f.TrustDomain, f.Name, int64(f.Version), f.URL, f.Profile, f.EndpointID, nonNil(f.WebRoots), moment(f.SetAt), f.SetBy, f.SetServer, nonNil(f.SetSeal),
			nonNil(f.Bundle), moment(f.FetchedAt), f.BundleServer, nonNil(f.BundleSeal), moment(f.NextAt), moment(f.CheckedAt), f.Failures, f.Error)
		if err != nil {
			return fmt.Errorf("store: federation: %w", err)
		}
		return countFederation(ctx, tx, f.TrustDomain)
	})
}

// federationVersion wants the stored row to have that version; 0 is no row.
func (s *SQLite) federationVersion(ctx context.Context, tx *sql.Tx, trustDomain, name string, want uint64) error {
	var have int64
	err := tx.QueryRowContext(ctx, `SELECT version FROM federations WHERE trust_domain = ? AND name = ?`, trustDomain, name).Scan(&have)
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("store: federation: %w", err)
	case uint64(have) != want:
		return fmt.Errorf("%w: the federation with %s has version %d, not %d", ErrConflict, name, have, want)
	}
	return nil
}

// countFederation gives the list its next number.
func countFederation(ctx context.Context, tx *sql.Tx, trustDomain string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO federation_revisions (trust_domain, revision) VALUES (?, 1)
		ON CONFLICT (trust_domain) DO UPDATE SET revision = revision + 1`, trustDomain)
	if err != nil {
		return fmt.Errorf("store: federation: %w", err)
	}
	return nil
}

// DeleteFederation implements [FederationStore].
func (s *SQLite) DeleteFederation(ctx context.Context, trustDomain, name string) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM federations WHERE trust_domain = ? AND name = ?`, trustDomain, name))
		switch {
		case err != nil:
			return fmt.Errorf("store: federation: %w", err)
		case n == 0:
			return fmt.Errorf("%w: there is no federation with %s", ErrNotFound, name)
		}
		return countFederation(ctx, tx, trustDomain)
	})
}

// ClaimFederation implements [FederationStore].
func (s *SQLite) ClaimFederation(ctx context.Context, trustDomain, name string, due, until time.Time) (mine bool, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE federations SET next_at = ? WHERE trust_domain = ? AND name = ? AND next_at <= ?`,
			moment(until), trustDomain, name, moment(due)))
		if err != nil {
			return fmt.Errorf("store: federation: %w", err)
		}
		mine = n > 0
		return nil
	})
	return mine && err == nil, err
}

// FederationChecked implements [FederationStore].
func (s *SQLite) FederationChecked(ctx context.Context, f Federation) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE federations SET next_at = ?, checked_at = ?, failures = ?, error = ?
			WHERE trust_domain = ? AND name = ? AND version = ?`,
			moment(f.NextAt), moment(f.CheckedAt), f.Failures, f.Error, f.TrustDomain, f.Name, int64(f.Version)))
		switch {
		case err != nil:
			return fmt.Errorf("store: federation: %w", err)
		case n == 0:
			return fmt.Errorf("%w: the federation with %s changed meanwhile", ErrConflict, f.Name)
		}
		return nil
	})
}

func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

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
