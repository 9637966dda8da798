package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Head implements [LedgerStore]. It reads on the connection that writes, so
// that it sees every commit before it.
func (s *SQLite) Head(ctx context.Context, trustDomain, chain string) (Head, error) {
	db := s.w
	if db == nil {
		db = s.r
	}
	return head(ctx, db, trustDomain, chain)
}

func head(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, trustDomain, chain string) (Head, error) {
	var seq int64
	var hash []byte
	err := db.QueryRowContext(ctx, `SELECT sequence, hash FROM entries WHERE trust_domain = ? AND chain = ? ORDER BY sequence DESC LIMIT 1`,
		trustDomain, chain).Scan(&seq, &hash)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Head{}, nil
	case err != nil:
		return Head{}, fmt.Errorf("store: head: %w", err)
	case len(hash) != 32 || seq <= 0:
		return Head{}, fmt.Errorf("store: the last entry is damaged (sequence %d, hash of %d bytes)", seq, len(hash))
	}
	return Head{Sequence: uint64(seq), Hash: [32]byte(hash)}, nil
}

// Append implements [LedgerStore].
func (s *SQLite) Append(ctx context.Context, b Batch) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		if len(b.Entries) > 0 {
			if err := s.appendEntries(ctx, tx, b); err != nil {
				return err
			}
		}
		for _, e := range b.Evidence {
			if err := s.appendEvidence(ctx, tx, b.TrustDomain, e); err != nil {
				return fmt.Errorf("store: evidence: %w", err)
			}
		}
		for _, d := range b.Denials {
			if _, err := tx.StmtContext(ctx, s.insert.denial).ExecContext(ctx, b.TrustDomain, micros(d.At), d.Reference, d.Instance,
				d.EvidenceDigest[:], nonNil(d.Payload)); err != nil {
				return fmt.Errorf("store: denial: %w", onRecord(err))
			}
		}
		for _, c := range b.Certificates {
			if _, err := tx.StmtContext(ctx, s.insert.certificate).ExecContext(ctx, b.TrustDomain, c.Serial, nonNil(c.DER), micros(c.At)); err != nil {
				return fmt.Errorf("store: certificate: %w", err)
			}
		}
		for _, c := range b.Checkpoints {
			if _, err := tx.StmtContext(ctx, s.insert.checkpoint).ExecContext(ctx, b.TrustDomain, b.Chain, int64(c.Size), nonNil(c.Note), micros(c.At)); err != nil {
				return fmt.Errorf("store: checkpoint: %w", err)
			}
		}
		return nil
	})
}

func (s *SQLite) appendEvidence(ctx context.Context, tx *sql.Tx, trustDomain string, e Evidence) error {
	enc, err := cbor.Marshal(e.Endorsements)
	if err != nil {
		return err
	}
	var log []byte // NULL without one
	if len(e.EventLog) > 0 {
		sum := sha256.Sum256(e.EventLog)
		log = sum[:]
		if _, err := tx.StmtContext(ctx, s.insert.eventLog).ExecContext(ctx, trustDomain, log, e.Denied, e.EventLog); err != nil {
			return err
		}
	}
	_, err = tx.StmtContext(ctx, s.insert.evidence).ExecContext(ctx, trustDomain, e.Digest[:], e.Platform, e.Instance,
		e.Denied, e.Size(), nonNil(e.Body), enc, log, micros(e.At))
	return err
}

func (s *SQLite) appendEntries(ctx context.Context, tx *sql.Tx, b Batch) error {
	at, err := head(ctx, tx, b.TrustDomain, b.Chain)
	if err != nil {
		return err
	}
	if at != b.Previous {
		return fmt.Errorf("%w: the chain ends at entry %d, the batch builds on entry %d: is another server writing this chain?",
			ErrConflict, at.Sequence, b.Previous.Sequence)
	}
	entry, identity := tx.StmtContext(ctx, s.insert.entry), tx.StmtContext(ctx, s.insert.identity)
	for i, e := range b.Entries {
		if e.Sequence != b.Previous.Sequence+1+uint64(i) {
			return fmt.Errorf("%w: entry %d of the batch has sequence %d, want %d", ErrConflict, i, e.Sequence, b.Previous.Sequence+1+uint64(i))
		}
		if _, err := entry.ExecContext(ctx, b.TrustDomain, b.Chain, int64(e.Sequence), e.Hash[:], nonNil(e.Payload), micros(e.At),
			e.Reference, e.Instance, e.EvidenceDigest[:], outcomeOf(e)); err != nil {
			return fmt.Errorf("store: entry %d: %w", e.Sequence, onRecord(err))
		}
		for j, id := range e.Identities {
			if _, err := identity.ExecContext(ctx, b.TrustDomain, id.Serial, b.Chain, int64(e.Sequence), j, id.SPIFFEID,
				id.KeyThumbprint[:], micros(id.NotAfter)); err != nil {
				return fmt.Errorf("store: identity %d of entry %d: %w", j, e.Sequence, onRecord(err))
			}
		}
	}
	return nil
}

// outcomeOf is an entry's outcome. Before there were others, all were issuances.
func outcomeOf(e Entry) string {
	if e.Outcome == "" {
		return "granted"
	}
	return e.Outcome
}

// onRecord makes ErrDuplicate of what a unique index refuses (SQLite's extended
// result codes SQLITE_CONSTRAINT_PRIMARYKEY and SQLITE_CONSTRAINT_UNIQUE).
func onRecord(err error) error {
	var code interface{ Code() int }
	if errors.As(err, &code) && (code.Code() == 1555 || code.Code() == 2067) {
		return fmt.Errorf("%w: %w", ErrDuplicate, err)
	}
	return err
}

// nonNil: a nil slice would be NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Usage implements [LedgerStore].
func (s *SQLite) Usage(ctx context.Context, trustDomain string) (u Usage, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM denials WHERE trust_domain = ?1),
		(SELECT coalesce(sum(length(payload)), 0) FROM denials WHERE trust_domain = ?1),
		(SELECT coalesce(sum(size), 0) FROM evidence WHERE trust_domain = ?1 AND denied = 0) +
		(SELECT coalesce(sum(length(body)), 0) FROM event_logs WHERE trust_domain = ?1 AND denied = 0),
		(SELECT coalesce(sum(size), 0) FROM evidence WHERE trust_domain = ?1 AND denied = 1) +
		(SELECT coalesce(sum(length(body)), 0) FROM event_logs WHERE trust_domain = ?1 AND denied = 1)`, trustDomain).
		Scan(&u.Denials, &u.DenialBytes, &u.Evidence, &u.DeniedEvidence)
	if err != nil {
		return Usage{}, fmt.Errorf("store: usage: %w", err)
	}
	return u, nil
}

// Prune implements [LedgerStore]. It works in small transactions, so that
// issuance never waits for long.
func (s *SQLite) Prune(ctx context.Context, trustDomain string, before time.Time, maxDenials int) (p Pruned, err error) {
	const chunk = 500
	drop := func(n *int64, text string, args ...any) error {
		for {
			var done int64
			err := s.write(ctx, func(tx *sql.Tx) error {
				res, err := tx.ExecContext(ctx, text, args...)
				if err != nil {
					return fmt.Errorf("store: prune: %w", err)
				}
				done, err = res.RowsAffected()
				return err
			})
			if err != nil {
				return err
			}
			*n += done
			if done < chunk {
				return nil
			}
		}
	}
	at := micros(before)
	if err := drop(&p.Evidence, `DELETE FROM evidence WHERE rowid IN (SELECT rowid FROM evidence WHERE trust_domain = ? AND at < ? LIMIT 500)`, trustDomain, at); err != nil {
		return p, err
	}
	if err := drop(&p.EventLogs, `DELETE FROM event_logs WHERE rowid IN (SELECT l.rowid FROM event_logs l WHERE l.trust_domain = ? AND NOT EXISTS
		(SELECT 1 FROM evidence e WHERE e.trust_domain = l.trust_domain AND e.event_log = l.digest) LIMIT 500)`, trustDomain); err != nil {
		return p, err
	}
	if err := drop(&p.Certificates, `DELETE FROM certificates WHERE rowid IN (SELECT rowid FROM certificates WHERE trust_domain = ? AND at < ? LIMIT 500)`, trustDomain, at); err != nil {
		return p, err
	}
	if err := drop(&p.Denials, `DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE trust_domain = ? AND at < ? LIMIT 500)`, trustDomain, at); err != nil {
		return p, err
	}
	err = drop(&p.Denials, `DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE trust_domain = ?1 ORDER BY id
		LIMIT max(0, min(500, (SELECT count(*) FROM denials WHERE trust_domain = ?1) - ?2)))`, trustDomain, maxDenials)
	return p, err
}

const entryColumns = `chain, sequence, outcome, hash, payload, at, reference, instance, evidence_digest`

func scanEntry(scan func(...any) error) (e Entry, err error) {
	var seq, at int64
	var hash, digest []byte
	if err = scan(&e.Chain, &seq, &e.Outcome, &hash, &e.Payload, &at, &e.Reference, &e.Instance, &digest); err != nil {
		return e, err
	}
	// Damaged lengths leave zero hashes, which the verification reports.
	e.Sequence, e.At = uint64(seq), when(at)
	e.Hash, e.EvidenceDigest = fixed(hash), fixed(digest)
	return e, nil
}

func fixed(b []byte) (out [32]byte) {
	if len(b) == len(out) {
		copy(out[:], b)
	}
	return out
}

// Entries implements [LedgerReader].
func (s *SQLite) Entries(ctx context.Context, trustDomain, chain string, after uint64, limit int) ([]Entry, error) {
	return query(ctx, s.r, `SELECT `+entryColumns+` FROM entries WHERE trust_domain = ? AND chain = ? AND sequence > ? ORDER BY sequence LIMIT ?`,
		[]any{trustDomain, chain, int64(after), limit}, scanEntry)
}

// Entry implements [LedgerReader].
func (s *SQLite) Entry(ctx context.Context, trustDomain, chain string, sequence uint64) (Entry, error) {
	return one(query(ctx, s.r, `SELECT `+entryColumns+` FROM entries WHERE trust_domain = ? AND chain = ? AND sequence = ?`,
		[]any{trustDomain, chain, int64(sequence)}, scanEntry))
}

// EntryIdentities implements [LedgerReader].
func (s *SQLite) EntryIdentities(ctx context.Context, trustDomain, chain string, sequence uint64) ([]Identity, error) {
	return query(ctx, s.r, `SELECT serial, spiffe_id, key_thumbprint, not_after FROM identities
		WHERE trust_domain = ? AND chain = ? AND sequence = ? ORDER BY position`, []any{trustDomain, chain, int64(sequence)},
		func(scan func(...any) error) (id Identity, err error) {
			var na int64
			var thumb []byte
			err = scan(&id.Serial, &id.SPIFFEID, &thumb, &na)
			id.KeyThumbprint, id.NotAfter = fixed(thumb), when(na)
			return id, err
		})
}

// HasSerial implements [LedgerReader].
func (s *SQLite) HasSerial(ctx context.Context, trustDomain, serial string) (bool, error) {
	var n int
	if err := s.r.QueryRowContext(ctx, `SELECT count(*) FROM identities WHERE trust_domain = ? AND serial = ?`, trustDomain, serial).Scan(&n); err != nil {
		return false, fmt.Errorf("store: serial: %w", err)
	}
	return n > 0, nil
}

// KeysOnRecord implements [LedgerReader].
func (s *SQLite) KeysOnRecord(ctx context.Context, trustDomain string, thumbprints [][32]byte) (map[[32]byte]bool, error) {
	const most = 256 // parameters of one statement
	found := map[[32]byte]bool{}
	for part := range slices.Chunk(thumbprints, most) {
		args := []any{trustDomain}
		for i := range part {
			args = append(args, part[i][:])
		}
		thumbs, err := query(ctx, s.r, `SELECT key_thumbprint FROM identities WHERE trust_domain = ? AND key_thumbprint IN (?`+strings.Repeat(`,?`, len(part)-1)+`)`,
			args, func(scan func(...any) error) (sum []byte, err error) { return sum, scan(&sum) })
		if err != nil {
			return nil, err
		}
		for _, sum := range thumbs {
			found[fixed(sum)] = true
		}
	}
	return found, nil
}

// StrayIdentities implements [LedgerReader].
func (s *SQLite) StrayIdentities(ctx context.Context, trustDomain string) (n int, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT count(*) FROM identities i WHERE trust_domain = ? AND NOT EXISTS
		(SELECT 1 FROM entries e WHERE e.trust_domain = i.trust_domain AND e.chain = i.chain AND e.sequence = i.sequence)`, trustDomain).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("store: identities: %w", err)
	}
	return n, nil
}

// Chains implements [LedgerReader]. It jumps from one name to the next, so that
// its cost is that of the names and not of the entries.
func (s *SQLite) Chains(ctx context.Context, trustDomain string) ([]string, error) {
	return query(ctx, s.r, `WITH RECURSIVE
		e (chain) AS (SELECT min(chain) FROM entries WHERE trust_domain = ?1
			UNION ALL SELECT (SELECT min(chain) FROM entries WHERE trust_domain = ?1 AND chain > e.chain) FROM e WHERE e.chain IS NOT NULL),
		c (chain) AS (SELECT min(chain) FROM checkpoints WHERE trust_domain = ?1
			UNION ALL SELECT (SELECT min(chain) FROM checkpoints WHERE trust_domain = ?1 AND chain > c.chain) FROM c WHERE c.chain IS NOT NULL)
		SELECT chain FROM e WHERE chain IS NOT NULL UNION SELECT chain FROM c WHERE chain IS NOT NULL ORDER BY chain`, []any{trustDomain},
		func(scan func(...any) error) (name string, err error) { return name, scan(&name) })
}

// FindEntries implements [LedgerReader].
func (s *SQLite) FindEntries(ctx context.Context, trustDomain, chain string, f Find) ([]Entry, error) {
	text, args := `WHERE trust_domain = ?`, []any{trustDomain}
	order := `at ` + f.order() + `, chain, sequence ` + f.order()
	if chain != "" {
		text, args, order = text+` AND chain = ?`, append(args, chain), `sequence `+f.order()
	}
	text, args = f.common(text, args, "sequence")
	if f.Outcome != "" {
		text, args = text+` AND outcome = ?`, append(args, f.Outcome)
	}
	if f.SPIFFEID != "" {
		if f.Instance != "" { // few entries, while a SPIFFE ID may be that of a whole fleet
			text += ` AND EXISTS (SELECT 1 FROM identities i WHERE i.trust_domain = ? AND i.chain = entries.chain AND i.sequence = entries.sequence AND +i.spiffe_id = ?)`
		} else {
			text += ` AND (chain, sequence) IN (SELECT chain, sequence FROM identities WHERE trust_domain = ? AND spiffe_id = ?)`
		}
		args = append(args, trustDomain, f.SPIFFEID)
	}
	if f.Serial != "" {
		text += ` AND (chain, sequence) IN (SELECT chain, sequence FROM identities WHERE trust_domain = ? AND serial = ?)`
		args = append(args, trustDomain, f.Serial)
	}
	return query(ctx, s.r, `SELECT `+entryColumns+` FROM entries `+text+` ORDER BY `+order+` LIMIT ?`, append(args, f.Limit), scanEntry)
}

// FindDenials implements [LedgerReader].
func (s *SQLite) FindDenials(ctx context.Context, trustDomain string, f Find) ([]Denial, error) {
	if f.SPIFFEID != "" || f.Serial != "" {
		return nil, nil
	}
	text, args := f.common(`WHERE trust_domain = ?`, []any{trustDomain}, "id")
	return query(ctx, s.r, `SELECT id, at, reference, instance, evidence_digest, payload FROM denials `+text+` ORDER BY id `+f.order()+` LIMIT ?`,
		append(args, f.Limit), func(scan func(...any) error) (d Denial, err error) {
			var id, at int64
			var digest []byte
			err = scan(&id, &at, &d.Reference, &d.Instance, &digest, &d.Payload)
			d.ID = uint64(id)
			d.At, d.EvidenceDigest = when(at), fixed(digest)
			return d, err
		})
}

func (f Find) order() string {
	if f.Oldest {
		return "ASC"
	}
	return "DESC"
}

// common adds the conditions that entries and denials share; number is the
// column that counts them.
func (f Find) common(text string, args []any, number string) (string, []any) {
	if f.After > 0 {
		text, args = text+` AND `+number+` > ?`, append(args, int64(min(f.After, math.MaxInt64)))
	}
	if f.Below > 0 {
		text, args = text+` AND `+number+` < ?`, append(args, int64(min(f.Below, math.MaxInt64)))
	}
	if f.Reference != "" {
		text, args = text+` AND reference = ?`, append(args, f.Reference)
	}
	if f.Instance != "" {
		text, args = text+` AND instance = ?`, append(args, f.Instance)
	}
	if !f.Before.IsZero() {
		text, args = text+` AND at < ?`, append(args, micros(f.Before))
	}
	return text, args
}

// Evidence implements [LedgerReader].
func (s *SQLite) Evidence(ctx context.Context, trustDomain string, digest [32]byte) (Evidence, error) {
	return one(query(ctx, s.r, `SELECT e.digest, e.platform, e.instance, e.denied, e.body, e.endorsements, e.at, e.event_log, l.body FROM evidence e
		LEFT JOIN event_logs l ON l.trust_domain = e.trust_domain AND l.digest = e.event_log WHERE e.trust_domain = ? AND e.digest = ?`,
		[]any{trustDomain, digest[:]}, func(scan func(...any) error) (e Evidence, err error) {
			var at int64
			var sum, enc, log []byte
			if err = scan(&sum, &e.Platform, &e.Instance, &e.Denied, &e.Body, &enc, &at, &log, &e.EventLog); err != nil {
				return e, err
			}
			if log != nil && e.EventLog == nil {
				return e, errors.New("the evidence names an event log that is not there")
			}
			e.Digest, e.At = fixed(sum), when(at)
			return e, cbor.NewDecoder(bytes.NewReader(enc)).Decode(&e.Endorsements)
		}))
}

// Certificate implements [LedgerReader].
func (s *SQLite) Certificate(ctx context.Context, trustDomain, serial string) (Certificate, error) {
	return one(query(ctx, s.r, `SELECT serial, der, at FROM certificates WHERE trust_domain = ? AND serial = ?`,
		[]any{trustDomain, serial}, func(scan func(...any) error) (c Certificate, err error) {
			var at int64
			err = scan(&c.Serial, &c.DER, &at)
			c.At = when(at)
			return c, err
		}))
}

// Checkpoints implements [LedgerReader].
func (s *SQLite) Checkpoints(ctx context.Context, trustDomain, chain string, beyond uint64, limit int) ([]Checkpoint, error) {
	return query(ctx, s.r, `SELECT size, note, at FROM checkpoints WHERE trust_domain = ? AND chain = ? AND size > ? ORDER BY size LIMIT ?`,
		[]any{trustDomain, chain, int64(min(beyond, math.MaxInt64)), limit}, scanCheckpoint)
}

// LastCheckpoint implements [LedgerReader].
func (s *SQLite) LastCheckpoint(ctx context.Context, trustDomain, chain string) (Checkpoint, error) {
	return one(query(ctx, s.r, `SELECT size, note, at FROM checkpoints WHERE trust_domain = ? AND chain = ? ORDER BY size DESC LIMIT 1`,
		[]any{trustDomain, chain}, scanCheckpoint))
}

func scanCheckpoint(scan func(...any) error) (c Checkpoint, err error) {
	var size, at int64
	err = scan(&size, &c.Note, &at)
	c.Size, c.At = uint64(size), when(at)
	return c, err
}

func one[T any](rows []T, err error) (T, error) {
	var zero T
	if err != nil {
		return zero, err
	}
	if len(rows) == 0 {
		return zero, ErrNotFound
	}
	return rows[0], nil
}
