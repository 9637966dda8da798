package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-project/assay/issuer/store"
)

// headOf reads the end of a chain.
const headOf = `SELECT sequence, hash FROM entries WHERE trust_domain = $1 AND chain = $2 ORDER BY sequence DESC LIMIT 1`

// The locks, all of them ended by the transaction that took them. Each statement
// after one sees what was committed while it waited (READ COMMITTED).
const (
	lockAlone    = `SELECT pg_advisory_xact_lock($1)`
	lockTogether = `SELECT pg_advisory_xact_lock_shared($1)`
)

func chainLock(trustDomain, chain string) int64 { return lockKey("chain", trustDomain, chain) }

// logsLock is held together by those who name event logs, and alone by who
// deletes logs that nobody names.
func logsLock(trustDomain string) int64 { return lockKey("event logs", trustDomain) }

// Head implements [store.LedgerStore]. It waits for an append to the chain that
// is under way, also for one whose server has lost the connection and does not
// know what became of it: after Head it is settled.
func (s *Store) Head(ctx context.Context, trustDomain, chain string) (h store.Head, err error) {
	err = s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		b := &pgx.Batch{} // without BEGIN it is one transaction all the same
		if !s.readOnly {
			b.Queue(lockAlone, chainLock(trustDomain, chain))
		}
		b.Queue(headOf, trustDomain, chain)
		br := c.SendBatch(ctx, b)
		if !s.readOnly {
			_, err = br.Exec()
		}
		if err == nil {
			h, err = scanHead(br.QueryRow())
		}
		if cerr := br.Close(); err == nil {
			err = cerr
		}
		return err
	})
	if err != nil {
		return store.Head{}, err
	}
	return h, nil
}

func scanHead(row pgx.Row) (store.Head, error) {
	var seq int64
	var hash []byte
	err := row.Scan(&seq, &hash)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return store.Head{}, nil
	case err != nil:
		return store.Head{}, fmt.Errorf("store: head: %w", err)
	case len(hash) != 32 || seq <= 0:
		return store.Head{}, fmt.Errorf("store: the last entry is damaged (sequence %d, hash of %d bytes)", seq, len(hash))
	}
	return store.Head{Sequence: uint64(seq), Hash: [32]byte(hash)}, nil
}

// Append implements [store.LedgerStore]. It takes two round trips: one that takes
// the chain's lock and reads its head, and one that writes everything and commits.
// Only in the second can a lost connection leave a doubt, and then the lock is
// held until the database has decided: that is what Head waits for.
func (s *Store) Append(ctx context.Context, b store.Batch) error {
	if s.readOnly {
		return errReadOnly
	}
	for i, e := range b.Entries {
		if want := b.Previous.Sequence + 1 + uint64(i); e.Sequence != want {
			return fmt.Errorf("%w: entry %d of the batch has sequence %d, want %d", store.ErrConflict, i, e.Sequence, want)
		}
	}
	writes, err := statements(b)
	if err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		if err := begin(ctx, c, b); err != nil {
			rollback(ctx, c)
			return err
		}
		if err := finish(ctx, c, writes); err != nil {
			var unknown *doubt
			if !errors.As(err, &unknown) {
				rollback(ctx, c)
			}
			return err
		}
		return nil
	})
}

// begin opens the transaction, takes its locks and compares the head.
func begin(ctx context.Context, c *pgx.Conn, b store.Batch) error {
	first := &pgx.Batch{}
	first.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED`)
	if slices.ContainsFunc(b.Evidence, func(e store.Evidence) bool { return len(e.EventLog) > 0 }) {
		first.Queue(lockTogether, logsLock(b.TrustDomain))
	}
	locks := first.Len()
	if len(b.Entries) > 0 {
		first.Queue(lockAlone, chainLock(b.TrustDomain, b.Chain))
		first.Queue(headOf, b.TrustDomain, b.Chain)
		locks++
	}
	br := c.SendBatch(ctx, first)
	for range locks {
		if _, err := br.Exec(); err != nil {
			_ = br.Close()
			return fmt.Errorf("store: begin: %w", err)
		}
	}
	var at store.Head
	if len(b.Entries) > 0 {
		var err error
		if at, err = scanHead(br.QueryRow()); err != nil {
			_ = br.Close()
			return err
		}
	}
	if err := br.Close(); err != nil {
		return fmt.Errorf("store: begin: %w", err)
	}
	if len(b.Entries) > 0 && at != b.Previous {
		return fmt.Errorf("%w: the chain ends at entry %d, the batch builds on entry %d: is another server writing this chain?",
			store.ErrConflict, at.Sequence, b.Previous.Sequence)
	}
	return nil
}

// finish sends what is to be written, and the commit behind it. The database
// skips the commit when one of the statements before it failed.
func finish(ctx context.Context, c *pgx.Conn, writes []statement) error {
	b := &pgx.Batch{}
	for _, w := range writes {
		b.Queue(w.text, w.args...)
	}
	b.Queue(`COMMIT`)
	br := c.SendBatch(ctx, b)
	var err error
	for _, w := range writes {
		if _, err = br.Exec(); err != nil {
			err = fmt.Errorf("store: %s: %w", w.what, err)
			break
		}
	}
	if err == nil {
		var tag pgconn.CommandTag
		if tag, err = br.Exec(); err == nil && tag.String() != "COMMIT" {
			err = fmt.Errorf("store: commit: %w", pgx.ErrTxCommitRollback)
		}
	}
	if cerr := br.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return commitError(err)
	}
	return nil
}

// statement is one statement of a batch; what names it in errors.
type statement struct {
	what, text string
	args       []any
}

// statements are all that a batch writes. What two servers may write alike, event
// logs and evidence, comes in the order of its digest: they then wait for one
// another, and never in a circle.
func statements(b store.Batch) (out []statement, err error) {
	out = append(out, entries(b)...)
	evidence := slices.Clone(b.Evidence)
	sums := make(map[[32]byte]bool)
	var logs []statement
	for _, e := range evidence {
		if sum := sha256.Sum256(e.EventLog); len(e.EventLog) > 0 && !sums[sum] {
			sums[sum] = true
			logs = append(logs, statement{"event log", `INSERT INTO event_logs (trust_domain, digest, denied, body) VALUES ($1,$2,$3,$4) ON CONFLICT DO NOTHING`,
				[]any{b.TrustDomain, sum[:], e.Denied, e.EventLog}})
		}
	}
	slices.SortStableFunc(logs, func(a, b statement) int { return bytes.Compare(a.args[1].([]byte), b.args[1].([]byte)) })
	out = append(out, logs...)
	slices.SortStableFunc(evidence, func(a, b store.Evidence) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	for _, e := range evidence {
		enc, err := cbor.Marshal(e.Endorsements)
		if err != nil {
			return nil, fmt.Errorf("store: evidence: %w", err)
		}
		var log []byte // NULL without one
		if len(e.EventLog) > 0 {
			sum := sha256.Sum256(e.EventLog)
			log = sum[:]
		}
		out = append(out, statement{"evidence", `INSERT INTO evidence (trust_domain, digest, platform, instance, denied, size, body, endorsements, event_log, at)
			VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10) ON CONFLICT DO NOTHING`,
			[]any{b.TrustDomain, e.Digest[:], e.Platform, e.Instance, e.Denied, e.Size(), nonNil(e.Body), enc, log, micros(e.At)}})
	}
	for _, d := range b.Denials {
		out = append(out, statement{"denial", `INSERT INTO denials (trust_domain, at, reference, instance, evidence_digest, payload) VALUES ($1,$2,$3,$4,$5,$6)`,
			[]any{b.TrustDomain, micros(d.At), d.Reference, d.Instance, d.EvidenceDigest[:], nonNil(d.Payload)}})
	}
	if n := len(b.Certificates); n > 0 {
		serials, ders, ats := make([]string, n), make([][]byte, n), make([]int64, n)
		for i, c := range b.Certificates {
			serials[i], ders[i], ats[i] = c.Serial, nonNil(c.DER), micros(c.At)
		}
		out = append(out, statement{"certificates", `INSERT INTO certificates (trust_domain, serial, der, at)
			SELECT $1, * FROM unnest($2::text[], $3::bytea[], $4::bigint[]) ON CONFLICT DO NOTHING`, []any{b.TrustDomain, serials, ders, ats}})
	}
	for _, c := range b.Checkpoints {
		out = append(out, statement{"checkpoint", `INSERT INTO checkpoints (trust_domain, chain, size, note, at) VALUES ($1,$2,$3,$4,$5) ON CONFLICT DO NOTHING`,
			[]any{b.TrustDomain, b.Chain, int64(c.Size), nonNil(c.Note), micros(c.At)}})
	}
	return out, nil
}

// entries writes all entries in one statement, and all their identities in
// another: the cost of one of them is then mostly its rows'.
func entries(b store.Batch) []statement {
	n := len(b.Entries)
	if n == 0 {
		return nil
	}
	seqs, hashes, payloads, ats := make([]int64, n), make([][]byte, n), make([][]byte, n), make([]int64, n)
	refs, instances, digests, outcomes := make([]string, n), make([]string, n), make([][]byte, n), make([]string, n)
	var serials, names []string
	var of, positions, ends []int64
	var thumbs [][]byte
	for i := range b.Entries {
		e := &b.Entries[i]
		seqs[i], hashes[i], payloads[i], ats[i] = int64(e.Sequence), e.Hash[:], nonNil(e.Payload), micros(e.At)
		refs[i], instances[i], digests[i], outcomes[i] = e.Reference, e.Instance, e.EvidenceDigest[:], e.Outcome
		if e.Outcome == "" { // before there were others, all were issuances
			outcomes[i] = "granted"
		}
		for j := range e.Identities {
			id := &e.Identities[j]
			serials, names, of, positions = append(serials, id.Serial), append(names, id.SPIFFEID), append(of, int64(e.Sequence)), append(positions, int64(j))
			thumbs, ends = append(thumbs, id.KeyThumbprint[:]), append(ends, micros(id.NotAfter))
		}
	}
	out := []statement{{"entries", `INSERT INTO entries (trust_domain, chain, sequence, hash, payload, at, reference, instance, evidence_digest, outcome)
		SELECT $1, $2, * FROM unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::bigint[], $7::text[], $8::text[], $9::bytea[], $10::text[])`,
		[]any{b.TrustDomain, b.Chain, seqs, hashes, payloads, ats, refs, instances, digests, outcomes}}}
	if len(serials) == 0 {
		return out
	}
	return append(out, statement{"identities", `INSERT INTO identities (trust_domain, chain, serial, sequence, position, spiffe_id, key_thumbprint, not_after)
		SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[])`,
		[]any{b.TrustDomain, b.Chain, serials, of, positions, names, thumbs, ends}})
}

// Usage implements [store.LedgerStore].
func (s *Store) Usage(ctx context.Context, trustDomain string) (store.Usage, error) {
	return one(query(ctx, s, `SELECT
		(SELECT count(*) FROM denials WHERE trust_domain = $1),
		(SELECT coalesce(sum(length(payload)), 0) FROM denials WHERE trust_domain = $1)::bigint,
		((SELECT coalesce(sum(size), 0) FROM evidence WHERE trust_domain = $1 AND NOT denied) +
		 (SELECT coalesce(sum(length(body)), 0) FROM event_logs WHERE trust_domain = $1 AND NOT denied))::bigint,
		((SELECT coalesce(sum(size), 0) FROM evidence WHERE trust_domain = $1 AND denied) +
		 (SELECT coalesce(sum(length(body)), 0) FROM event_logs WHERE trust_domain = $1 AND denied))::bigint`, []any{trustDomain},
		func(scan func(...any) error) (u store.Usage, err error) {
			return u, scan(&u.Denials, &u.DenialBytes, &u.Evidence, &u.DeniedEvidence)
		}))
}

// Prune implements [store.LedgerStore]. It works in small transactions. Two
// servers that prune at once delete nothing twice.
func (s *Store) Prune(ctx context.Context, trustDomain string, before time.Time, maxDenials int) (p store.Pruned, err error) {
	const chunk = 500
	drop := func(n *int64, lock int64, text string, args ...any) error {
		for {
			var done int64
			err := s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
				if lock != 0 {
					if _, err := tx.Exec(ctx, lockAlone, lock); err != nil {
						return fmt.Errorf("store: prune: %w", err)
					}
				}
				tag, err := tx.Exec(ctx, text, args...)
				if err != nil {
					return fmt.Errorf("store: prune: %w", err)
				}
				done = tag.RowsAffected()
				return nil
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
	if err := drop(&p.Evidence, 0, `DELETE FROM evidence WHERE trust_domain = $1 AND digest IN
		(SELECT digest FROM evidence WHERE trust_domain = $1 AND at < $2 LIMIT 500)`, trustDomain, at); err != nil {
		return p, err
	}
	if err := drop(&p.EventLogs, logsLock(trustDomain), `DELETE FROM event_logs WHERE trust_domain = $1 AND digest IN
		(SELECT l.digest FROM event_logs l WHERE l.trust_domain = $1 AND NOT EXISTS
			(SELECT 1 FROM evidence e WHERE e.trust_domain = $1 AND e.event_log = l.digest) LIMIT 500)`, trustDomain); err != nil {
		return p, err
	}
	if err := drop(&p.Certificates, 0, `DELETE FROM certificates WHERE trust_domain = $1 AND serial IN
		(SELECT serial FROM certificates WHERE trust_domain = $1 AND at < $2 LIMIT 500)`, trustDomain, at); err != nil {
		return p, err
	}
	if err := drop(&p.Denials, 0, `DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE trust_domain = $1 AND at < $2 LIMIT 500)`, trustDomain, at); err != nil {
		return p, err
	}
	err = drop(&p.Denials, 0, `DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE trust_domain = $1 ORDER BY id
		LIMIT greatest(0, least(500, (SELECT count(*) FROM denials WHERE trust_domain = $1) - $2::bigint)))`, trustDomain, int64(maxDenials))
	return p, err
}

// number turns a sequence number into what the database compares: there is
// nothing beyond 2^63-1.
func number(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
