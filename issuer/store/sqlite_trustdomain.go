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

// querier is the database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// query collects all rows of a statement.
func query[T any](ctx context.Context, db querier, text string, args []any, read func(scan func(...any) error) (T, error)) (out []T, err error) {
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
