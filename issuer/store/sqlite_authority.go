package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const authorityColumns = `trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at, signature`

// AddAuthority implements [AuthorityStore].
func (s *SQLite) AddAuthority(ctx context.Context, a Authority) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var same, others int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE id = ?), count(*) FROM authorities WHERE trust_domain = ? AND use = ?`,
			a.ID, a.TrustDomain, a.Use).Scan(&same, &others); err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		if same > 0 {
			return fmt.Errorf("%w: authority %s %s exists", ErrConflict, a.Use, a.ID)
		}
		if a.State == Active && others > 0 {
			return fmt.Errorf("%w: the trust domain has %d authorities for %s: another one does not begin as active", ErrConflict, others, a.Use)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO authorities (`+authorityColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?)`,
			a.TrustDomain, a.Use, a.ID, a.Server, a.KeyName, a.State, a.Public, micros(a.NotBefore), micros(a.NotAfter), micros(a.CreatedAt), blob(a.Signature)); err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		return countBundle(ctx, tx, a.TrustDomain)
	})
}

// blob is never NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// countBundle counts a change that relying parties see.
func countBundle(ctx context.Context, tx *sql.Tx, trustDomain string) error {
	if _, err := tx.ExecContext(ctx, `UPDATE trust_domains SET bundle_sequence = bundle_sequence + 1 WHERE trust_domain = ?`, trustDomain); err != nil {
		return fmt.Errorf("store: bundle sequence: %w", err)
	}
	return nil
}

// SignAuthority implements [AuthorityStore].
func (s *SQLite) SignAuthority(ctx context.Context, a Authority) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var have []byte
		err := tx.QueryRowContext(ctx, `SELECT signature FROM authorities WHERE trust_domain = ? AND use = ? AND id = ?`, a.TrustDomain, a.Use, a.ID).Scan(&have)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("authority %s %s: %w", a.Use, a.ID, ErrNotFound)
		case err != nil:
			return fmt.Errorf("store: authority: %w", err)
		case bytes.Equal(have, a.Signature):
			return nil
		case len(have) > 0:
			return fmt.Errorf("%w: authority %s %s has another signature", ErrConflict, a.Use, a.ID)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE authorities SET signature = ? WHERE trust_domain = ? AND use = ? AND id = ?`,
			blob(a.Signature), a.TrustDomain, a.Use, a.ID); err != nil {
			return fmt.Errorf("store: authority: %w", err)
		}
		return nil
	})
}

// ChangeAuthority implements [AuthorityStore].
func (s *SQLite) ChangeAuthority(ctx context.Context, c AuthorityChange) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var known, said int
		if err := tx.QueryRowContext(ctx, `SELECT
				(SELECT count(*) FROM authorities WHERE trust_domain = ?1 AND use = ?2 AND id = ?3),
				(SELECT count(*) FROM authority_changes WHERE trust_domain = ?1 AND use = ?2 AND id = ?3 AND state = ?4 AND server = ?5)`,
			c.TrustDomain, c.Use, c.ID, c.State, c.Server).Scan(&known, &said); err != nil {
			return fmt.Errorf("store: authority change: %w", err)
		}
		if known == 0 {
			return fmt.Errorf("authority %s %s: %w", c.Use, c.ID, ErrNotFound)
		}
		if said > 0 {
			return fmt.Errorf("%w: %s said before that authority %s %s is %s", ErrConflict, c.Server, c.Use, c.ID, c.State)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO authority_changes (trust_domain, use, id, state, server, at, ends_at, reason, actor, body, signature) VALUES (?,?,?,?,?,?,?,?,?,?,?)`,
			c.TrustDomain, c.Use, c.ID, c.State, c.Server, micros(c.At), optionalMicros(c.EndsAt), c.Reason, c.Actor, blob(c.Body), blob(c.Signature)); err != nil {
			return fmt.Errorf("store: authority change: %w", err)
		}
		return countBundle(ctx, tx, c.TrustDomain)
	})
}

// optionalMicros and optionalWhen keep the zero time as 0.
func optionalMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return micros(t)
}

func optionalWhen(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return when(us)
}

func scanAuthority(scan func(...any) error) (a Authority, err error) {
	var nb, na, at int64
	err = scan(&a.TrustDomain, &a.Use, &a.ID, &a.Server, &a.KeyName, &a.State, &a.Public, &nb, &na, &at, &a.Signature)
	a.NotBefore, a.NotAfter, a.CreatedAt = when(nb), when(na), when(at)
	return a, err
}

// Authorities implements [AuthorityStore].
func (s *SQLite) Authorities(ctx context.Context, trustDomain string, use Use) ([]Authority, error) {
	return query(ctx, s.r, `SELECT `+authorityColumns+` FROM authorities WHERE trust_domain = ? AND use = ? ORDER BY created_at, id`,
		[]any{trustDomain, use}, scanAuthority)
}

// AuthorityState implements [AuthorityStore]. A transaction reads from one
// snapshot of the WAL.
func (s *SQLite) AuthorityState(ctx context.Context, trustDomain string) (st AuthorityState, err error) {
	tx, err := s.r.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return st, fmt.Errorf("store: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	var seq int64
	err = tx.QueryRowContext(ctx, `SELECT bundle_sequence FROM trust_domains WHERE trust_domain = ?`, trustDomain).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return AuthorityState{}, fmt.Errorf("trust domain %s: %w", trustDomain, ErrNotFound)
	}
	if err != nil {
		return AuthorityState{}, fmt.Errorf("store: bundle sequence: %w", err)
	}
	st.BundleSequence = uint64(seq)
	args := []any{trustDomain}
	if st.Authorities, err = query(ctx, tx, `SELECT `+authorityColumns+` FROM authorities WHERE trust_domain = ? ORDER BY created_at, use, id`, args, scanAuthority); err != nil {
		return AuthorityState{}, err
	}
	if st.Changes, err = query(ctx, tx, `SELECT trust_domain, use, id, state, server, at, ends_at, reason, actor, body, signature
			FROM authority_changes WHERE trust_domain = ? ORDER BY at, use, id, state, server`, args,
		func(scan func(...any) error) (c AuthorityChange, err error) {
			var at, ends int64
			err = scan(&c.TrustDomain, &c.Use, &c.ID, &c.State, &c.Server, &at, &ends, &c.Reason, &c.Actor, &c.Body, &c.Signature)
			c.At, c.EndsAt = when(at), optionalWhen(ends)
			return c, err
		}); err != nil {
		return AuthorityState{}, err
	}
	if st.Members, err = query(ctx, tx, selectMembers, args, scanMember); err != nil {
		return AuthorityState{}, err
	}
	return st, nil
}

const selectMembers = `SELECT trust_domain, server, endorsement, joined_at FROM members WHERE trust_domain = ? ORDER BY server`

func scanMember(scan func(...any) error) (m Member, err error) {
	var at int64
	err = scan(&m.TrustDomain, &m.Server, &m.Endorsement, &at)
	m.JoinedAt = when(at)
	return m, err
}

// Members implements [AuthorityStore].
func (s *SQLite) Members(ctx context.Context, trustDomain string) ([]Member, error) {
	return query(ctx, s.r, selectMembers, []any{trustDomain}, scanMember)
}

// AddMember implements [AuthorityStore].
func (s *SQLite) AddMember(ctx context.Context, m Member) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var have []byte
		err := tx.QueryRowContext(ctx, `SELECT endorsement FROM members WHERE trust_domain = ? AND server = ?`, m.TrustDomain, m.Server).Scan(&have)
		switch {
		case err == nil && bytes.Equal(have, m.Endorsement):
			return nil
		case err == nil:
			return fmt.Errorf("%w: a server %s has joined %s before", ErrConflict, m.Server, m.TrustDomain)
		case !errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("store: member: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO members (trust_domain, server, endorsement, joined_at) VALUES (?,?,?,?)`,
			m.TrustDomain, m.Server, blob(m.Endorsement), micros(m.JoinedAt)); err != nil {
			return fmt.Errorf("store: member: %w", err)
		}
		return nil
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
		if err := d.CheckOrder(last.Valid, uint64(last.Int64)); err != nil {
			return err
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
