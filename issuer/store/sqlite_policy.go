package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
)

// PutPolicy implements [PolicyStore].
func (s *SQLite) PutPolicy(ctx context.Context, c PolicyChange) error {
	if err := c.storable(); err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		known, err := newestRevision(ctx, tx, c.Policy)
		if err != nil {
			return err
		}
		if known {
			same, err := lastInForce(ctx, tx, c.Policy)
			if err != nil || same {
				return err
			}
		} else if _, err := tx.ExecContext(ctx, `INSERT INTO policies (trust_domain, name, revision, digest, at) VALUES (?,?,?,?,?)`,
			c.TrustDomain, c.Name, int64(c.Revision), c.Digest[:], micros(c.At)); err != nil {
			return fmt.Errorf("store: policy: %w", err)
		}
		return insertChange(ctx, tx, c, false)
	})
}

// RefusePolicy implements [PolicyStore].
func (s *SQLite) RefusePolicy(ctx context.Context, c PolicyChange) error {
	if err := c.storable(); err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error { return insertChange(ctx, tx, c, true) })
}

// newestRevision reports whether the policy is the newest revision of its name
// already. A revision that does not grow is ErrConflict.
func newestRevision(ctx context.Context, tx *sql.Tx, p Policy) (bool, error) {
	var revision int64
	var digest []byte
	err := tx.QueryRowContext(ctx, `SELECT revision, digest FROM policies WHERE trust_domain = ? AND name = ? ORDER BY revision DESC LIMIT 1`,
		p.TrustDomain, p.Name).Scan(&revision, &digest)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("store: policy: %w", err)
	case uint64(revision) == p.Revision && fixed(digest) == p.Digest:
		return true, nil
	case uint64(revision) >= p.Revision:
		return false, fmt.Errorf("%w: revision %d of policy %s was in force, got revision %d", ErrConflict, revision, p.Name, p.Revision)
	}
	return false, nil
}

// lastInForce reports whether the policy is the one that came into force last,
// whatever others are called.
func lastInForce(ctx context.Context, tx *sql.Tx, p Policy) (bool, error) {
	var name string
	var revision int64
	var digest []byte
	err := tx.QueryRowContext(ctx, `SELECT name, revision, digest FROM policy_changes WHERE trust_domain = ? AND refused = 0 ORDER BY id DESC LIMIT 1`,
		p.TrustDomain).Scan(&name, &revision, &digest)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: policy: %w", err)
	}
	return name == p.Name && uint64(revision) == p.Revision && fixed(digest) == p.Digest, nil
}

func insertChange(ctx context.Context, tx *sql.Tx, c PolicyChange, refused bool) error {
	var document any // NULL for none
	if c.Document != nil {
		document, c.Size = c.Document, int64(len(c.Document))
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO policy_changes
		(trust_domain, at, source, actor, note, name, revision, digest, signers, refused, detail, size, document, server, signature) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		c.TrustDomain, micros(c.At), c.Source, c.Actor, c.Note, c.Name, int64(c.Revision), c.Digest[:],
		strings.Join(c.Signers, " "), refused, c.Detail, c.Size, document, c.Server, nonNil(c.Signature))
	if err != nil {
		return fmt.Errorf("store: policy change: %w", err)
	}
	return nil
}

// storable refuses what would not come back as it went in.
func (c PolicyChange) storable() error {
	if c.Revision > math.MaxInt64 {
		return fmt.Errorf("store: policy revision %d is too large", c.Revision)
	}
	for _, s := range c.Signers {
		if s == "" || strings.ContainsRune(s, ' ') {
			return fmt.Errorf("store: %.80q is no signer's key id", s)
		}
	}
	return nil
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

// PolicyChanges implements [PolicyStore].
func (s *SQLite) PolicyChanges(ctx context.Context, trustDomain string, f FindPolicy) ([]PolicyChange, error) {
	where, args := []string{"trust_domain = ?"}, []any{trustDomain}
	add := func(cond string, arg any) { where, args = append(where, cond), append(args, arg) }
	if f.Outcome != PolicyAny {
		add("refused = ?", f.Outcome == PolicyRefused)
	}
	if f.Name != "" {
		add("name = ?", f.Name)
	}
	if f.Revision != 0 {
		add("revision = ?", int64(min(f.Revision, math.MaxInt64)))
	}
	if f.Digest != nil {
		add("digest = ?", f.Digest[:])
	}
	if f.Before != 0 {
		add("id < ?", int64(min(f.Before, math.MaxInt64)))
	}
	document := "NULL"
	if f.Documents {
		document = "document"
	}
	// Long texts are cut: rows that another program wrote must not fill the memory.
	cut := func(column string) string {
		return `CASE WHEN octet_length(` + column + `) > 4096 THEN substr(` + column + `, 1, 1024) ELSE ` + column + ` END, `
	}
	text := `SELECT id, trust_domain, at, ` + cut("source") + cut("actor") + cut("note") + cut("name") + `revision, digest, ` + cut("signers") +
		`refused, ` + cut("detail") + `size, ` + cut("server") + `signature, document IS NOT NULL, ` + document +
		` FROM policy_changes WHERE ` + strings.Join(where, " AND ") + ` ORDER BY id DESC LIMIT ?`
	return query(ctx, s.r, text, append(args, f.Limit), scanChange)
}

func scanChange(scan func(...any) error) (c PolicyChange, err error) {
	var id, at, revision int64
	var digest []byte
	var signers string
	err = scan(&id, &c.TrustDomain, &at, &c.Source, &c.Actor, &c.Note, &c.Name, &revision, &digest, &signers, &c.Refused, &c.Detail, &c.Size, &c.Server, &c.Signature, &c.Kept, &c.Document)
	c.ID, c.At, c.Revision, c.Digest, c.Signers = uint64(id), when(at), uint64(revision), fixed(digest), strings.Fields(signers)
	if len(c.Signature) == 0 {
		c.Signature = nil
	}
	return c, err
}

// PrunePolicyChanges implements [PolicyStore].
func (s *SQLite) PrunePolicyChanges(ctx context.Context, trustDomain string, documents int64, refused int) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		// The newest document stays, whatever its size: a restart needs it.
		_, err := tx.ExecContext(ctx, `UPDATE policy_changes SET document = NULL WHERE id IN (
			SELECT id FROM (
				SELECT id, sum(size) OVER (ORDER BY id DESC) AS held, row_number() OVER (ORDER BY id DESC) AS nth
				FROM policy_changes WHERE trust_domain = ? AND refused = 0 AND document IS NOT NULL)
			WHERE held > ? AND nth > 1)`, trustDomain, documents)
		if err != nil {
			return fmt.Errorf("store: dropping documents of policies: %w", err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM policy_changes WHERE trust_domain = ? AND refused = 1 AND id NOT IN (
			SELECT id FROM policy_changes WHERE trust_domain = ? AND refused = 1 ORDER BY id DESC LIMIT ?)`, trustDomain, trustDomain, refused)
		if err != nil {
			return fmt.Errorf("store: dropping refused policies: %w", err)
		}
		return nil
	})
}
