package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"
)

// AddBan implements [BanStore].
func (s *SQLite) AddBan(ctx context.Context, b Ban) error {
	if err := CheckBan(b); err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO bans (trust_domain, ban, kind, value, reason, actor, since, until, lifted_at, lifted_by, lift_reason)
			VALUES (?,?,?,?,?,?,?,?,0,'','') ON CONFLICT DO NOTHING`,
			b.TrustDomain, b.ID, string(b.Kind), b.Value, b.Reason, b.Actor, micros(b.Since), moment(b.Until))
		if err != nil {
			return fmt.Errorf("store: ban: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return conflictOr(err, "ban %s is there already", b.ID)
		}
		return nil
	})
}

func conflictOr(err error, format string, args ...any) error {
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return fmt.Errorf("%w: %s", ErrConflict, fmt.Sprintf(format, args...))
}

// LiftBan implements [BanStore].
func (s *SQLite) LiftBan(ctx context.Context, trustDomain, id string, l Lifted) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE bans SET lifted_at = ?, lifted_by = ?, lift_reason = ? WHERE trust_domain = ? AND ban = ? AND lifted_at = 0`,
			micros(l.LiftedAt), l.LiftedBy, l.LiftReason, trustDomain, id)
		if err != nil {
			return fmt.Errorf("store: ban: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return orNotFound(err)
		}
		return nil
	})
}

func orNotFound(err error) error {
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return ErrNotFound
}

// Bans implements [BanStore].
func (s *SQLite) Bans(ctx context.Context, trustDomain string, lifted bool) ([]Ban, error) {
	return query(ctx, s.r, `SELECT trust_domain, ban, kind, value, reason, actor, since, until, lifted_at, lifted_by, lift_reason
		FROM bans WHERE trust_domain = ? AND (lifted_at = 0 OR ?) ORDER BY since, ban`, []any{trustDomain, lifted}, func(scan func(...any) error) (b Ban, err error) {
		var since, until, lifted int64
		err = scan(&b.TrustDomain, &b.ID, &b.Kind, &b.Value, &b.Reason, &b.Actor, &since, &until, &lifted, &b.LiftedBy, &b.LiftReason)
		b.Since, b.Until, b.LiftedAt = when(since), whenever(until), whenever(lifted)
		return b, err
	})
}

// AddRevocations implements [BanStore].
func (s *SQLite) AddRevocations(ctx context.Context, rs []Revocation) (added int, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		added = 0
		for _, r := range rs {
			res, err := tx.ExecContext(ctx, `INSERT INTO revocations (trust_domain, serial, ban, key_thumbprint, not_after, reason, actor, at)
				VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`,
				r.TrustDomain, r.Serial, r.Ban, r.KeyThumbprint[:], micros(r.NotAfter), r.Reason, r.Actor, micros(r.At))
			if err != nil {
				return fmt.Errorf("store: revocation: %w", err)
			}
			n, err := res.RowsAffected()
			if err != nil {
				return fmt.Errorf("store: revocation: %w", err)
			}
			added += int(n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// Revocations implements [BanStore].
func (s *SQLite) Revocations(ctx context.Context, trustDomain string, after time.Time) ([]Revocation, error) {
	return query(ctx, s.r, `SELECT trust_domain, serial, ban, key_thumbprint, not_after, reason, actor, at
		FROM revocations WHERE trust_domain = ? AND not_after > ? ORDER BY at, serial, ban`, []any{trustDomain, micros(after)},
		func(scan func(...any) error) (r Revocation, err error) {
			var sum []byte
			var end, at int64
			err = scan(&r.TrustDomain, &r.Serial, &r.Ban, &sum, &end, &r.Reason, &r.Actor, &at)
			r.KeyThumbprint, r.NotAfter, r.At = fixed(sum), when(end), when(at)
			return r, err
		})
}

// DenyPolicy implements [BanStore].
func (s *SQLite) DenyPolicy(ctx context.Context, p DeniedPolicy) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO denied_policies (trust_domain, digest, turn, reason, actor, at, lifted_at, lifted_by, lift_reason)
			VALUES (?1, ?2, (SELECT count(*) + 1 FROM denied_policies WHERE trust_domain = ?1 AND digest = ?2), ?3, ?4, ?5, 0, '', '') ON CONFLICT DO NOTHING`,
			p.TrustDomain, p.Digest[:], p.Reason, p.Actor, micros(p.At))
		if err != nil {
			return fmt.Errorf("store: denied policy: %w", err)
		}
		return nil
	})
}

// LiftPolicy implements [BanStore].
func (s *SQLite) LiftPolicy(ctx context.Context, trustDomain string, digest [32]byte, l Lifted) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE denied_policies SET lifted_at = ?, lifted_by = ?, lift_reason = ? WHERE trust_domain = ? AND digest = ? AND lifted_at = 0`,
			micros(l.LiftedAt), l.LiftedBy, l.LiftReason, trustDomain, digest[:])
		if err != nil {
			return fmt.Errorf("store: denied policy: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return orNotFound(err)
		}
		return nil
	})
}

// DeniedPolicies implements [BanStore].
func (s *SQLite) DeniedPolicies(ctx context.Context, trustDomain string) ([]DeniedPolicy, error) {
	return query(ctx, s.r, `SELECT trust_domain, digest, reason, actor, at FROM denied_policies WHERE trust_domain = ? AND lifted_at = 0 ORDER BY at, digest`,
		[]any{trustDomain}, func(scan func(...any) error) (p DeniedPolicy, err error) {
			var sum []byte
			var at int64
			err = scan(&p.TrustDomain, &sum, &p.Reason, &p.Actor, &at)
			p.Digest, p.At = fixed(sum), when(at)
			return p, err
		})
}

// PutDenyList implements [BanStore].
func (s *SQLite) PutDenyList(ctx context.Context, l SignedDenyList) error {
	if l.Sequence == 0 || l.Sequence > math.MaxInt64 {
		return fmt.Errorf("store: a deny-list of sequence %d", l.Sequence)
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO deny_lists (trust_domain, sequence, body, at) VALUES (?,?,?,?)
			ON CONFLICT (trust_domain) DO UPDATE SET sequence = excluded.sequence, body = excluded.body, at = excluded.at
			WHERE excluded.sequence > deny_lists.sequence`, l.TrustDomain, int64(l.Sequence), nonNil(l.Body), micros(l.At))
		if err != nil {
			return fmt.Errorf("store: deny-list: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return conflictOr(err, "there is a deny-list of sequence %d or later", l.Sequence)
		}
		return nil
	})
}

// DenyList implements [BanStore].
func (s *SQLite) DenyList(ctx context.Context, trustDomain string) (SignedDenyList, error) {
	return one(query(ctx, s.r, `SELECT trust_domain, sequence, body, at FROM deny_lists WHERE trust_domain = ?`, []any{trustDomain},
		func(scan func(...any) error) (l SignedDenyList, err error) {
			var sequence, at int64
			err = scan(&l.TrustDomain, &sequence, &l.Body, &at)
			l.Sequence, l.At = uint64(sequence), when(at)
			return l, err
		}))
}
