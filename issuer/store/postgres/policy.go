package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

// PutPolicy implements [store.PolicyStore].
func (s *Store) PutPolicy(ctx context.Context, c store.PolicyChange) error {
	if err := c.Check(); err != nil {
		return err
	}
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockPolicies(ctx, tx, c.TrustDomain); err != nil {
			return err
		}
		known, err := newestRevision(ctx, tx, c.Policy)
		if err != nil {
			return err
		}
		if known {
			same, err := lastInForce(ctx, tx, c.Policy)
			if err != nil || same {
				return err
			}
		} else if _, err := tx.Exec(ctx, `INSERT INTO policies (trust_domain, name, revision, digest, at) VALUES ($1,$2,$3,$4,$5)`,
			c.TrustDomain, c.Name, int64(c.Revision), c.Digest[:], micros(c.At)); err != nil {
			return fmt.Errorf("store: policy: %w", err)
		}
		return insertChange(ctx, tx, c, false)
	})
}

// RefusePolicy implements [store.PolicyStore].
func (s *Store) RefusePolicy(ctx context.Context, c store.PolicyChange) error {
	if err := c.Check(); err != nil {
		return err
	}
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockPolicies(ctx, tx, c.TrustDomain); err != nil {
			return err
		}
		return insertChange(ctx, tx, c, true)
	})
}

// lockPolicies lets one change of a trust domain's policies happen at a time, so
// that their numbers, drawn under it, are the order in which they came into force.
func lockPolicies(ctx context.Context, tx pgx.Tx, trustDomain string) error {
	if _, err := tx.Exec(ctx, lockAlone, lockKey("policies", trustDomain)); err != nil {
		return fmt.Errorf("store: policy: %w", err)
	}
	return nil
}

// newestRevision reports whether the policy is the newest revision of its name
// already. A revision that does not grow is store.ErrConflict.
func newestRevision(ctx context.Context, tx pgx.Tx, p store.Policy) (bool, error) {
	var revision int64
	var digest []byte
	err := tx.QueryRow(ctx, `SELECT revision, digest FROM policies WHERE trust_domain = $1 AND name = $2 ORDER BY revision DESC LIMIT 1`,
		p.TrustDomain, p.Name).Scan(&revision, &digest)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("store: policy: %w", err)
	case uint64(revision) == p.Revision && fixed(digest) == p.Digest:
		return true, nil
	case uint64(revision) >= p.Revision:
		return false, fmt.Errorf("%w: revision %d of policy %s was in force, got revision %d", store.ErrConflict, revision, p.Name, p.Revision)
	}
	return false, nil
}

// lastInForce reports whether the policy is the one that came into force last,
// whatever others are called.
func lastInForce(ctx context.Context, tx pgx.Tx, p store.Policy) (bool, error) {
	var name string
	var revision int64
	var digest []byte
	err := tx.QueryRow(ctx, `SELECT name, revision, digest FROM policy_changes WHERE trust_domain = $1 AND NOT refused ORDER BY id DESC LIMIT 1`,
		p.TrustDomain).Scan(&name, &revision, &digest)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: policy: %w", err)
	}
	return name == p.Name && uint64(revision) == p.Revision && fixed(digest) == p.Digest, nil
}

func insertChange(ctx context.Context, tx pgx.Tx, c store.PolicyChange, refused bool) error {
	if c.Document != nil {
		c.Size = int64(len(c.Document))
	}
	_, err := tx.Exec(ctx, `INSERT INTO policy_changes
		(trust_domain, at, source, actor, note, name, revision, digest, signers, refused, detail, size, document, server, signature)
		VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)`,
		c.TrustDomain, micros(c.At), c.Source, text(c.Actor), text(c.Note), c.Name, int64(c.Revision), c.Digest[:],
		strings.Join(c.Signers, " "), refused, text(c.Detail), c.Size, c.Document, c.Server, nonNil(c.Signature))
	if err != nil {
		return fmt.Errorf("store: policy change: %w", err)
	}
	return changed(ctx, tx, c.TrustDomain, store.TopicPolicies, c.Name)
}

// LatestPolicy implements [store.PolicyStore].
func (s *Store) LatestPolicy(ctx context.Context, trustDomain, name string) (store.Policy, error) {
	return one(query(ctx, s, `SELECT trust_domain, name, revision, digest, at FROM policies
		WHERE trust_domain = $1 AND name = $2 ORDER BY revision DESC LIMIT 1`, []any{trustDomain, name},
		func(scan func(...any) error) (p store.Policy, err error) {
			var revision, at int64
			var digest []byte
			err = scan(&p.TrustDomain, &p.Name, &revision, &digest, &at)
			p.Revision, p.Digest, p.At = uint64(revision), fixed(digest), when(at)
			return p, err
		}))
}

// PolicyChanges implements [store.PolicyStore].
func (s *Store) PolicyChanges(ctx context.Context, trustDomain string, f store.FindPolicy) ([]store.PolicyChange, error) {
	var c conditions
	c.add(`trust_domain = %s`, trustDomain)
	if f.Outcome != store.PolicyAny {
		c.add(`refused = %s`, f.Outcome == store.PolicyRefused)
	}
	if f.Name != "" {
		c.add(`name = %s`, f.Name)
	}
	if f.Revision != 0 {
		c.add(`revision = %s`, number(f.Revision))
	}
	if f.Digest != nil {
		c.add(`digest = %s`, f.Digest[:])
	}
	if f.Before != 0 {
		c.add(`id < %s`, number(f.Before))
	}
	document := "NULL::bytea"
	if f.Documents {
		document = "document"
	}
	// Long texts are cut: rows that another program wrote must not fill the memory.
	text := `SELECT id, trust_domain, at, substr(source, 1, 4096), substr(actor, 1, 4096), substr(note, 1, 4096), substr(name, 1, 4096), revision, digest, substr(signers, 1, 4096), refused, substr(detail, 1, 4096), size, substr(server, 1, 4096), signature, document IS NOT NULL, ` + document +
		` FROM policy_changes` + c.where() + ` ORDER BY id DESC` + c.limit(f.Limit)
	return query(ctx, s, text, c.args, scanChange)
}

func scanChange(scan func(...any) error) (c store.PolicyChange, err error) {
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

// PrunePolicyChanges implements [store.PolicyStore].
func (s *Store) PrunePolicyChanges(ctx context.Context, trustDomain string, documents int64, refused int) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockPolicies(ctx, tx, trustDomain); err != nil {
			return err
		}
		// The newest document stays, whatever its size: a restart needs it.
		_, err := tx.Exec(ctx, `UPDATE policy_changes SET document = NULL WHERE id IN (
			SELECT id FROM (
				SELECT id, sum(size) OVER (ORDER BY id DESC) AS held, row_number() OVER (ORDER BY id DESC) AS nth
				FROM policy_changes WHERE trust_domain = $1 AND NOT refused AND document IS NOT NULL) AS kept
			WHERE held > $2 AND nth > 1)`, trustDomain, documents)
		if err != nil {
			return fmt.Errorf("store: dropping documents of policies: %w", err)
		}
		_, err = tx.Exec(ctx, `DELETE FROM policy_changes WHERE trust_domain = $1 AND refused AND id NOT IN (
			SELECT id FROM policy_changes WHERE trust_domain = $1 AND refused ORDER BY id DESC LIMIT $2)`, trustDomain, refused)
		if err != nil {
			return fmt.Errorf("store: dropping refused policies: %w", err)
		}
		return nil
	})
}
