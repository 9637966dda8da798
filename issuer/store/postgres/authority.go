package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

const authorityColumns = `trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at, signature`

// AddAuthority implements [store.AuthorityStore].
func (s *Store) AddAuthority(ctx context.Context, a store.Authority) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var same, others int
		err := tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE id = $3), count(*) FROM authorities WHERE trust_domain = $1 AND use = $2`,
			a.TrustDomain, a.Use, a.ID).Scan(&same, &others)
		if err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		if same > 0 {
			return fmt.Errorf("%w: authority %s is stored already", store.ErrConflict, a.ID)
		}
		if a.State == store.Active && others > 0 {
			return fmt.Errorf("%w: the trust domain has %d authorities for %s: another one does not begin as active", store.ErrConflict, others, a.Use)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO authorities (`+authorityColumns+`) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)`,
			a.TrustDomain, a.Use, a.ID, a.Server, a.KeyName, a.State, nonNil(a.Public), micros(a.NotBefore), micros(a.NotAfter), micros(a.CreatedAt), nonNil(a.Signature)); err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		return countBundle(ctx, tx, a.TrustDomain, a.Use, a.ID)
	})
}

// countBundle counts a change that relying parties see, and announces it.
func countBundle(ctx context.Context, tx pgx.Tx, trustDomain string, use store.Use, id string) error {
	if _, err := tx.Exec(ctx, `UPDATE trust_domains SET bundle_sequence = bundle_sequence + 1 WHERE trust_domain = $1`, trustDomain); err != nil {
		return fmt.Errorf("store: bundle sequence: %w", err)
	}
	return changed(ctx, tx, trustDomain, store.TopicAuthorities, string(use)+"/"+id)
}

// SignAuthority implements [store.AuthorityStore].
func (s *Store) SignAuthority(ctx context.Context, a store.Authority) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var have []byte
		err := tx.QueryRow(ctx, `SELECT signature FROM authorities WHERE trust_domain = $1 AND use = $2 AND id = $3`, a.TrustDomain, a.Use, a.ID).Scan(&have)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("authority %s %s: %w", a.Use, a.ID, store.ErrNotFound)
		case err != nil:
			return fmt.Errorf("store: authority: %w", err)
		case bytes.Equal(have, a.Signature):
			return nil
		case len(have) > 0:
			return fmt.Errorf("%w: authority %s %s has another signature", store.ErrConflict, a.Use, a.ID)
		}
		if _, err := tx.Exec(ctx, `UPDATE authorities SET signature = $4 WHERE trust_domain = $1 AND use = $2 AND id = $3`,
			a.TrustDomain, a.Use, a.ID, nonNil(a.Signature)); err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		return changed(ctx, tx, a.TrustDomain, store.TopicAuthorities, string(a.Use)+"/"+a.ID)
	})
}

// ChangeAuthority implements [store.AuthorityStore].
func (s *Store) ChangeAuthority(ctx context.Context, c store.AuthorityChange) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var known, said int
		if err := tx.QueryRow(ctx, `SELECT
				(SELECT count(*) FROM authorities WHERE trust_domain = $1 AND use = $2 AND id = $3),
				(SELECT count(*) FROM authority_changes WHERE trust_domain = $1 AND use = $2 AND id = $3 AND state = $4 AND server = $5)`,
			c.TrustDomain, c.Use, c.ID, c.State, c.Server).Scan(&known, &said); err != nil {
			return fmt.Errorf("store: authority change: %w", err)
		}
		if known == 0 {
			return fmt.Errorf("authority %s %s: %w", c.Use, c.ID, store.ErrNotFound)
		}
		if said > 0 {
			return fmt.Errorf("%w: %s said before that authority %s %s is %s", store.ErrConflict, c.Server, c.Use, c.ID, c.State)
		}
		var ends int64
		if !c.EndsAt.IsZero() {
			ends = micros(c.EndsAt)
		}
		// Reason and actor are signed: they are stored as they are, or not at all.
		if _, err := tx.Exec(ctx, `INSERT INTO authority_changes (trust_domain, use, id, state, server, at, ends_at, reason, actor, body, signature)
				VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)`,
			c.TrustDomain, c.Use, c.ID, c.State, c.Server, micros(c.At), ends, c.Reason, c.Actor, nonNil(c.Body), nonNil(c.Signature)); err != nil {
			return fmt.Errorf("store: authority change: %w", err)
		}
		return countBundle(ctx, tx, c.TrustDomain, c.Use, c.ID)
	})
}

func scanAuthority(scan func(...any) error) (a store.Authority, err error) {
	var nb, na, at int64
	err = scan(&a.TrustDomain, &a.Use, &a.ID, &a.Server, &a.KeyName, &a.State, &a.Public, &nb, &na, &at, &a.Signature)
	a.NotBefore, a.NotAfter, a.CreatedAt = when(nb), when(na), when(at)
	return a, err
}

// Authorities implements [store.AuthorityStore].
func (s *Store) Authorities(ctx context.Context, trustDomain string, use store.Use) ([]store.Authority, error) {
	return query(ctx, s, `SELECT `+authorityColumns+` FROM authorities WHERE trust_domain = $1 AND use = $2 ORDER BY created_at, id`,
		[]any{trustDomain, use}, scanAuthority)
}

// AuthorityState implements [store.AuthorityStore]. A transaction of that level
// reads from one snapshot.
func (s *Store) AuthorityState(ctx context.Context, trustDomain string) (out store.AuthorityState, err error) {
	err = s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return fmt.Errorf("store: begin: %w", err)
		}
		defer rollback(ctx, c)
		out, err = authorityState(ctx, tx, trustDomain)
		return err
	})
	if err != nil {
		return store.AuthorityState{}, err
	}
	return out, nil
}

func authorityState(ctx context.Context, tx pgx.Tx, trustDomain string) (st store.AuthorityState, err error) {
	var seq int64
	err = tx.QueryRow(ctx, `SELECT bundle_sequence FROM trust_domains WHERE trust_domain = $1`, trustDomain).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return st, fmt.Errorf("trust domain %s: %w", trustDomain, store.ErrNotFound)
	}
	if err != nil {
		return st, fmt.Errorf("store: bundle sequence: %w", err)
	}
	st.BundleSequence = uint64(seq)
	args := []any{trustDomain}
	if st.Authorities, err = collect(ctx, tx, `SELECT `+authorityColumns+` FROM authorities WHERE trust_domain = $1 ORDER BY created_at, use, id`, args, scanAuthority); err != nil {
		return st, err
	}
	if st.Changes, err = collect(ctx, tx, `SELECT trust_domain, use, id, state, server, at, ends_at, reason, actor, body, signature
			FROM authority_changes WHERE trust_domain = $1 ORDER BY at, use, id, state, server`, args,
		func(scan func(...any) error) (c store.AuthorityChange, err error) {
			var at, ends int64
			err = scan(&c.TrustDomain, &c.Use, &c.ID, &c.State, &c.Server, &at, &ends, &c.Reason, &c.Actor, &c.Body, &c.Signature)
			c.At = when(at)
			if ends != 0 {
				c.EndsAt = when(ends)
			}
			return c, err
		}); err != nil {
		return st, err
	}
	st.Members, err = collect(ctx, tx, selectMembers, args, scanMember)
	return st, err
}

const selectMembers = `SELECT trust_domain, server, endorsement, joined_at FROM members WHERE trust_domain = $1 ORDER BY server`

func scanMember(scan func(...any) error) (m store.Member, err error) {
	var at int64
	err = scan(&m.TrustDomain, &m.Server, &m.Endorsement, &at)
	m.JoinedAt = when(at)
	return m, err
}

// Members implements [store.AuthorityStore].
func (s *Store) Members(ctx context.Context, trustDomain string) ([]store.Member, error) {
	return query(ctx, s, selectMembers, []any{trustDomain}, scanMember)
}

// AddMember implements [store.AuthorityStore].
func (s *Store) AddMember(ctx context.Context, m store.Member) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var have []byte
		err := tx.QueryRow(ctx, `SELECT endorsement FROM members WHERE trust_domain = $1 AND server = $2`, m.TrustDomain, m.Server).Scan(&have)
		switch {
		case err == nil && bytes.Equal(have, m.Endorsement):
			return nil
		case err == nil:
			return fmt.Errorf("%w: a server %s has joined %s before", store.ErrConflict, m.Server, m.TrustDomain)
		case !errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("store: member: %w", err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO members (trust_domain, server, endorsement, joined_at) VALUES ($1,$2,$3,$4)`,
			m.TrustDomain, m.Server, nonNil(m.Endorsement), micros(m.JoinedAt)); err != nil {
			return fmt.Errorf("store: member: %w", err)
		}
		return changed(ctx, tx, m.TrustDomain, store.TopicMembers, m.Server)
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
		var newest uint64
		if last != nil {
			newest = uint64(*last)
		}
		if err := d.CheckOrder(last != nil, newest); err != nil {
			return err
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
