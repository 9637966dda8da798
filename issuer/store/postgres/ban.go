package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

// AddBan implements [store.BanStore].
func (s *Store) AddBan(ctx context.Context, b store.Ban) error {
	if err := store.CheckBan(b); err != nil {
		return err
	}
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO bans (trust_domain, ban, kind, value, reason, actor, since, until, lifted_at, lifted_by, lift_reason)
			VALUES ($1,$2,$3,$4,$5,$6,$7,$8,0,'','') ON CONFLICT DO NOTHING`,
			b.TrustDomain, b.ID, string(b.Kind), text(b.Value), text(b.Reason), text(b.Actor), micros(b.Since), moment(b.Until))
		if err != nil {
			return fmt.Errorf("store: ban: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("%w: ban %s is there already", store.ErrConflict, b.ID)
		}
		return changed(ctx, tx, b.TrustDomain, store.TopicBans, b.ID)
	})
}

// LiftBan implements [store.BanStore].
func (s *Store) LiftBan(ctx context.Context, trustDomain, id string, l store.Lifted) error {
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE bans SET lifted_at = $1, lifted_by = $2, lift_reason = $3 WHERE trust_domain = $4 AND ban = $5 AND lifted_at = 0`,
			micros(l.LiftedAt), text(l.LiftedBy), text(l.LiftReason), trustDomain, text(id))
		if err != nil {
			return fmt.Errorf("store: ban: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return store.ErrNotFound
		}
		return changed(ctx, tx, trustDomain, store.TopicBans, id)
	})
}

// Bans implements [store.BanStore].
func (s *Store) Bans(ctx context.Context, trustDomain string, lifted bool) ([]store.Ban, error) {
	return query(ctx, s, `SELECT trust_domain, ban, kind, value, reason, actor, since, until, lifted_at, lifted_by, lift_reason
		FROM bans WHERE trust_domain = $1 AND (lifted_at = 0 OR $2) ORDER BY since, ban`, []any{trustDomain, lifted}, func(scan func(...any) error) (b store.Ban, err error) {
		var since, until, lifted int64
		err = scan(&b.TrustDomain, &b.ID, &b.Kind, &b.Value, &b.Reason, &b.Actor, &since, &until, &lifted, &b.LiftedBy, &b.LiftReason)
		b.Since, b.Until, b.LiftedAt = when(since), whenever(until), whenever(lifted)
		return b, err
	})
}

// AddRevocations implements [store.BanStore].
func (s *Store) AddRevocations(ctx context.Context, rs []store.Revocation) (added int, err error) {
	err = s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		added = 0
		domains := map[string]bool{}
		for _, r := range rs {
			tag, err := tx.Exec(ctx, `INSERT INTO revocations (trust_domain, serial, ban, key_thumbprint, not_after, reason, actor, at)
				VALUES ($1,$2,$3,$4,$5,$6,$7,$8) ON CONFLICT DO NOTHING`,
				r.TrustDomain, r.Serial, r.Ban, r.KeyThumbprint[:], micros(r.NotAfter), text(r.Reason), text(r.Actor), micros(r.At))
			if err != nil {
				return fmt.Errorf("store: revocation: %w", err)
			}
			if n := int(tag.RowsAffected()); n > 0 {
				added += n
				domains[r.TrustDomain] = true
			}
		}
		for td := range domains {
			if err := changed(ctx, tx, td, store.TopicBans, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// Revocations implements [store.BanStore].
func (s *Store) Revocations(ctx context.Context, trustDomain string, after time.Time) ([]store.Revocation, error) {
	return query(ctx, s, `SELECT trust_domain, serial, ban, key_thumbprint, not_after, reason, actor, at
		FROM revocations WHERE trust_domain = $1 AND not_after > $2 ORDER BY at, serial, ban`, []any{trustDomain, micros(after)},
		func(scan func(...any) error) (r store.Revocation, err error) {
			var sum []byte
			var end, at int64
			err = scan(&r.TrustDomain, &r.Serial, &r.Ban, &sum, &end, &r.Reason, &r.Actor, &at)
			r.KeyThumbprint, r.NotAfter, r.At = fixed(sum), when(end), when(at)
			return r, err
		})
}

// DenyPolicy implements [store.BanStore]. Of several who deny the same at once, one
// writes: the index of those that stand lets no other in.
func (s *Store) DenyPolicy(ctx context.Context, p store.DeniedPolicy) error {
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO denied_policies (trust_domain, digest, turn, reason, actor, at, lifted_at, lifted_by, lift_reason)
			VALUES ($1, $2, (SELECT count(*) + 1 FROM denied_policies WHERE trust_domain = $1 AND digest = $2), $3, $4, $5, 0, '', '')
			ON CONFLICT DO NOTHING`, p.TrustDomain, p.Digest[:], text(p.Reason), text(p.Actor), micros(p.At))
		if err != nil {
			return fmt.Errorf("store: denied policy: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nil
		}
		return changed(ctx, tx, p.TrustDomain, store.TopicBans, "")
	})
}

// LiftPolicy implements [store.BanStore].
func (s *Store) LiftPolicy(ctx context.Context, trustDomain string, digest [32]byte, l store.Lifted) error {
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE denied_policies SET lifted_at = $1, lifted_by = $2, lift_reason = $3 WHERE trust_domain = $4 AND digest = $5 AND lifted_at = 0`,
			micros(l.LiftedAt), text(l.LiftedBy), text(l.LiftReason), trustDomain, digest[:])
		if err != nil {
			return fmt.Errorf("store: denied policy: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return store.ErrNotFound
		}
		return changed(ctx, tx, trustDomain, store.TopicBans, "")
	})
}

// DeniedPolicies implements [store.BanStore].
func (s *Store) DeniedPolicies(ctx context.Context, trustDomain string) ([]store.DeniedPolicy, error) {
	return query(ctx, s, `SELECT trust_domain, digest, reason, actor, at FROM denied_policies WHERE trust_domain = $1 AND lifted_at = 0 ORDER BY at, digest`,
		[]any{trustDomain}, func(scan func(...any) error) (p store.DeniedPolicy, err error) {
			var sum []byte
			var at int64
			err = scan(&p.TrustDomain, &sum, &p.Reason, &p.Actor, &at)
			p.Digest, p.At = fixed(sum), when(at)
			return p, err
		})
}

// PutDenyList implements [store.BanStore]. Others hear of it: they serve it too.
func (s *Store) PutDenyList(ctx context.Context, l store.SignedDenyList) error {
	if l.Sequence == 0 || l.Sequence > math.MaxInt64 {
		return fmt.Errorf("store: a deny-list of sequence %d", l.Sequence)
	}
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO deny_lists AS d (trust_domain, sequence, body, at) VALUES ($1,$2,$3,$4)
			ON CONFLICT (trust_domain) DO UPDATE SET sequence = excluded.sequence, body = excluded.body, at = excluded.at
			WHERE excluded.sequence > d.sequence`, l.TrustDomain, int64(l.Sequence), nonNil(l.Body), micros(l.At))
		if err != nil {
			return fmt.Errorf("store: deny-list: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("%w: there is a deny-list of sequence %d or later", store.ErrConflict, l.Sequence)
		}
		return changed(ctx, tx, l.TrustDomain, store.TopicBans, "")
	})
}

// DenyList implements [store.BanStore].
func (s *Store) DenyList(ctx context.Context, trustDomain string) (store.SignedDenyList, error) {
	l, err := one(query(ctx, s, `SELECT trust_domain, sequence, body, at FROM deny_lists WHERE trust_domain = $1`, []any{trustDomain},
		func(scan func(...any) error) (l store.SignedDenyList, err error) {
			var sequence, at int64
			err = scan(&l.TrustDomain, &sequence, &l.Body, &at)
			l.Sequence, l.At = uint64(sequence), when(at)
			return l, err
		}))
	if errors.Is(err, store.ErrNotFound) {
		return store.SignedDenyList{}, store.ErrNotFound
	}
	return l, err
}
