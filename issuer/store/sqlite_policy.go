package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
)

// PutPolicy implements [PolicyStore].
func (s *SQLite) PutPolicy(ctx context.Context, p Policy) error {
	if p.Revision > math.MaxInt64 {
		return fmt.Errorf("store: policy revision %d is too large", p.Revision)
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		var revision int64
		var digest []byte
		err := tx.QueryRowContext(ctx, `SELECT revision, digest FROM policies WHERE trust_domain = ? AND name = ? ORDER BY revision DESC LIMIT 1`,
			p.TrustDomain, p.Name).Scan(&revision, &digest)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return fmt.Errorf("store: policy: %w", err)
		case uint64(revision) == p.Revision && fixed(digest) == p.Digest:
			return nil
		case uint64(revision) >= p.Revision:
			return fmt.Errorf("%w: revision %d of policy %s was in force, got revision %d", ErrConflict, revision, p.Name, p.Revision)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO policies (trust_domain, name, revision, digest, at) VALUES (?,?,?,?,?)`,
			p.TrustDomain, p.Name, int64(p.Revision), p.Digest[:], micros(p.At))
		if err != nil {
			return fmt.Errorf("store: policy: %w", err)
		}
		return nil
	})
}

// LatestPolicy implements [PolicyStore].
func (s *SQLite) LatestPolicy(ctx context.Context, trustDomain, name string) (Policy, error) {
	return one(query(ctx, s.r, `SELECT trust_domain, name, revision, digest, at FROM policies
		WHERE trust_domain = ? AND name = ? ORDER BY revision DESC LIMIT 1`, []any{trustDomain, name},
		func(scan func(...any) error) (p Policy, err error) {
			var revision, at int64
			var digest []byte
			err = scan(&p.TrustDomain, &p.Name, &revision, &digest, &at)
			p.Revision, p.Digest, p.At = uint64(revision), fixed(digest), when(at)
			return p, err
		}))
}
