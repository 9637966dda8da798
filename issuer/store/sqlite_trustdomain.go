package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// micros and when convert to and from the stored form of a time.
func micros(t time.Time) int64 { return t.UnixMicro() }
func when(us int64) time.Time  { return time.UnixMicro(us).UTC() }

// InitTrustDomain implements [TrustDomainStore].
func (s *SQLite) InitTrustDomain(ctx context.Context, td TrustDomain) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var simulated bool
		err := tx.QueryRowContext(ctx, `SELECT simulated FROM trust_domains WHERE trust_domain = ?`, td.Name).Scan(&simulated)
		switch {
		case err == nil && simulated == td.Simulated:
			return nil
		case err == nil:
			return fmt.Errorf("%w: trust domain %s is %s for life", ErrConflict, td.Name, kind(simulated))
		case !errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("store: trust domain: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO trust_domains (trust_domain, simulated, bundle_sequence, created_at) VALUES (?,?,?,?)`,
			td.Name, td.Simulated, int64(td.BundleSequence), micros(td.CreatedAt))
		if err != nil {
			return fmt.Errorf("store: trust domain: %w", err)
		}
		return nil
	})
}

func kind(simulated bool) string {
	if simulated {
		return "simulated"
	}
	return "hardware"
}

// TrustDomain implements [TrustDomainStore].
func (s *SQLite) TrustDomain(ctx context.Context, name string) (TrustDomain, error) {
	tds, err := s.trustDomains(ctx, `WHERE trust_domain = ?`, name)
	if err != nil {
		return TrustDomain{}, err
	}
	if len(tds) == 0 {
		return TrustDomain{}, fmt.Errorf("trust domain %s: %w", name, ErrNotFound)
	}
	return tds[0], nil
}

// TrustDomains implements [TrustDomainStore].
func (s *SQLite) TrustDomains(ctx context.Context) ([]TrustDomain, error) {
	return s.trustDomains(ctx, `ORDER BY trust_domain`)
}

func (s *SQLite) trustDomains(ctx context.Context, rest string, args ...any) ([]TrustDomain, error) {
	return query(ctx, s.r, `SELECT trust_domain, simulated, bundle_sequence, created_at FROM trust_domains `+rest, args,
		func(scan func(...any) error) (td TrustDomain, err error) {
			var seq, at int64
			err = scan(&td.Name, &td.Simulated, &seq, &at)
			td.BundleSequence, td.CreatedAt = uint64(seq), when(at)
			return td, err
		})
}

// AddAuthority implements [AuthorityStore].
func (s *SQLite) AddAuthority(ctx context.Context, a Authority) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var n int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM authorities WHERE trust_domain = ? AND use = ? AND id = ?`,
			a.TrustDomain, a.Use, a.ID).Scan(&n)
		if err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		if n > 0 {
			return fmt.Errorf("%w: authority %s %s exists", ErrConflict, a.Use, a.ID)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO authorities
			(trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at) VALUES (?,?,?,?,?,?,?,?,?,?)`,
			a.TrustDomain, a.Use, a.ID, a.Server, a.KeyName, a.State, a.Public, micros(a.NotBefore), micros(a.NotAfter), micros(a.CreatedAt))
		if err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		_, err = tx.ExecContext(ctx, `UPDATE trust_domains SET bundle_sequence = bundle_sequence + 1 WHERE trust_domain = ?`, a.TrustDomain)
		if err != nil {
			return fmt.Errorf("store: bundle sequence: %w", err)
		}
		return nil
	})
}

// Authorities implements [AuthorityStore].
func (s *SQLite) Authorities(ctx context.Context, trustDomain string, use Use) ([]Authority, error) {
	return query(ctx, s.r, `SELECT trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at
		FROM authorities WHERE trust_domain = ? AND use = ? ORDER BY created_at, id`, []any{trustDomain, use},
		func(scan func(...any) error) (a Authority, err error) {
			var nb, na, at int64
			err = scan(&a.TrustDomain, &a.Use, &a.ID, &a.Server, &a.KeyName, &a.State, &a.Public, &nb, &na, &at)
			a.NotBefore, a.NotAfter, a.CreatedAt = when(nb), when(na), when(at)
			return a, err
		})
}

// PutDocument implements [AuthorityStore].
func (s *SQLite) PutDocument(ctx context.Context, d Document) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var last sql.NullInt64
		err := tx.QueryRowContext(ctx, `SELECT max(sequence) FROM documents WHERE trust_domain = ? AND kind = ?`, d.TrustDomain, d.Kind).Scan(&last)
		if err != nil {
			return fmt.Errorf("store: document: %w", err)
		}
		if last.Valid && uint64(last.Int64) >= d.Sequence {
			return fmt.Errorf("%w: document %s has sequence %d, got %d", ErrConflict, d.Kind, last.Int64, d.Sequence)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO documents (trust_domain, kind, sequence, body, created_at) VALUES (?,?,?,?,?)`,
			d.TrustDomain, d.Kind, int64(d.Sequence), d.Body, micros(d.CreatedAt))
		if err != nil {
			return fmt.Errorf("store: document: %w", err)
		}
		return nil
	})
}

// LatestDocument implements [AuthorityStore].
func (s *SQLite) LatestDocument(ctx context.Context, trustDomain, kind string) (Document, error) {
	docs, err := query(ctx, s.r, `SELECT trust_domain, kind, sequence, body, created_at FROM documents
		WHERE trust_domain = ? AND kind = ? ORDER BY sequence DESC LIMIT 1`, []any{trustDomain, kind},
		func(scan func(...any) error) (d Document, err error) {
			var seq, at int64
			err = scan(&d.TrustDomain, &d.Kind, &seq, &d.Body, &at)
			d.Sequence, d.CreatedAt = uint64(seq), when(at)
			return d, err
		})
	if err != nil {
		return Document{}, err
	}
	if len(docs) == 0 {
		return Document{}, fmt.Errorf("document %s: %w", kind, ErrNotFound)
	}
	return docs[0], nil
}

// query collects all rows of a statement.
func query[T any](ctx context.Context, db *sql.DB, text string, args []any, read func(scan func(...any) error) (T, error)) (out []T, err error) {
	rows, err := db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer func() {
		if cerr := rows.Close(); err == nil && cerr != nil {
			out, err = nil, fmt.Errorf("store: %w", cerr)
		}
	}()
	for rows.Next() {
		v, err := read(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return out, nil
}
