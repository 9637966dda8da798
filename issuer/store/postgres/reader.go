package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/issuer/store"
)

const entryColumns = `chain, sequence, outcome, hash, payload, at, reference, instance, evidence_digest`

func scanEntry(scan func(...any) error) (e store.Entry, err error) {
	var seq, at int64
	var hash, digest []byte
	if err = scan(&e.Chain, &seq, &e.Outcome, &hash, &e.Payload, &at, &e.Reference, &e.Instance, &digest); err != nil {
		return e, err
	}
	e.Sequence, e.At = uint64(seq), when(at)
	e.Hash, e.EvidenceDigest = fixed(hash), fixed(digest)
	return e, nil
}

// Entries implements [store.LedgerReader].
func (s *Store) Entries(ctx context.Context, trustDomain, chain string, after uint64, limit int) ([]store.Entry, error) {
	return query(ctx, s, `SELECT `+entryColumns+` FROM entries WHERE trust_domain = $1 AND chain = $2 AND sequence > $3 ORDER BY sequence LIMIT $4`,
		[]any{trustDomain, chain, number(after), limit}, scanEntry)
}

// Entry implements [store.LedgerReader].
func (s *Store) Entry(ctx context.Context, trustDomain, chain string, sequence uint64) (store.Entry, error) {
	return one(query(ctx, s, `SELECT `+entryColumns+` FROM entries WHERE trust_domain = $1 AND chain = $2 AND sequence = $3`,
		[]any{trustDomain, chain, number(sequence)}, scanEntry))
}

// EntryIdentities implements [store.LedgerReader].
func (s *Store) EntryIdentities(ctx context.Context, trustDomain, chain string, sequence uint64) ([]store.Identity, error) {
	return query(ctx, s, `SELECT serial, spiffe_id, key_thumbprint, not_after FROM identities
		WHERE trust_domain = $1 AND chain = $2 AND sequence = $3 ORDER BY position`, []any{trustDomain, chain, number(sequence)},
		func(scan func(...any) error) (id store.Identity, err error) {
			var na int64
			var thumb []byte
			err = scan(&id.Serial, &id.SPIFFEID, &thumb, &na)
			id.KeyThumbprint, id.NotAfter = fixed(thumb), when(na)
			return id, err
		})
}

// KeysOnRecord implements [store.LedgerReader]: in the chains of all servers.
func (s *Store) KeysOnRecord(ctx context.Context, trustDomain string, thumbprints [][32]byte) (map[[32]byte]bool, error) {
	found := map[[32]byte]bool{}
	if len(thumbprints) == 0 {
		return found, nil
	}
	wanted := make([][]byte, len(thumbprints))
	for i := range thumbprints {
		wanted[i] = thumbprints[i][:]
	}
	thumbs, err := query(ctx, s, `SELECT key_thumbprint FROM identities WHERE trust_domain = $1 AND key_thumbprint = ANY($2::bytea[])`,
		[]any{trustDomain, wanted}, func(scan func(...any) error) (sum []byte, err error) { return sum, scan(&sum) })
	if err != nil {
		return nil, err
	}
	for _, sum := range thumbs {
		found[fixed(sum)] = true
	}
	return found, nil
}

func count(scan func(...any) error) (n int64, err error) { return n, scan(&n) }

// StrayIdentities implements [store.LedgerReader].
func (s *Store) StrayIdentities(ctx context.Context, trustDomain string) (int, error) {
	n, err := one(query(ctx, s, `SELECT count(*) FROM identities i WHERE trust_domain = $1 AND NOT EXISTS
		(SELECT 1 FROM entries e WHERE e.trust_domain = i.trust_domain AND e.chain = i.chain AND e.sequence = i.sequence)`, []any{trustDomain}, count))
	return int(n), err
}

// HasSerial implements [store.LedgerReader].
func (s *Store) HasSerial(ctx context.Context, trustDomain, serial string) (bool, error) {
	n, err := one(query(ctx, s, `SELECT count(*) FROM identities WHERE trust_domain = $1 AND serial = $2`, []any{trustDomain, serial}, count))
	return n > 0, err
}

// conditions builds a WHERE clause; values travel as parameters only.
type conditions struct {
	text []string
	args []any
}

// add adds a condition in which %s stands for the value.
func (c *conditions) add(text string, arg any) {
	c.args = append(c.args, arg)
	c.text = append(c.text, fmt.Sprintf(text, fmt.Sprintf("$%d", len(c.args))))
}

func (c *conditions) where() string { return ` WHERE ` + strings.Join(c.text, " AND ") }

// limit adds the last parameter.
func (c *conditions) limit(n int) string {
	c.args = append(c.args, n)
	return fmt.Sprintf(` LIMIT $%d`, len(c.args))
}

// common adds what entries and denials share; column is the one that counts them.
func (c *conditions) common(f store.Find, column string) {
	if f.After > 0 {
		c.add(column+` > %s`, number(f.After))
	}
	if f.Below > 0 {
		c.add(column+` < %s`, number(f.Below))
	}
	if f.Reference != "" {
		c.add(`reference = %s`, f.Reference)
	}
	if f.Instance != "" {
		c.add(`instance = %s`, f.Instance)
	}
	if !f.Before.IsZero() {
		c.add(`at < %s`, micros(f.Before))
	}
}

func order(f store.Find) string {
	if f.Oldest {
		return "ASC"
	}
	return "DESC"
}

// Chains implements [store.LedgerReader]. It jumps from one name to the next, so
// that its cost is that of the names and not of the entries.
func (s *Store) Chains(ctx context.Context, trustDomain string) ([]string, error) {
	return query(ctx, s, `WITH RECURSIVE
		e (chain) AS (SELECT min(chain) FROM entries WHERE trust_domain = $1
			UNION ALL SELECT (SELECT min(chain) FROM entries WHERE trust_domain = $1 AND chain > e.chain) FROM e WHERE e.chain IS NOT NULL),
		c (chain) AS (SELECT min(chain) FROM checkpoints WHERE trust_domain = $1
			UNION ALL SELECT (SELECT min(chain) FROM checkpoints WHERE trust_domain = $1 AND chain > c.chain) FROM c WHERE c.chain IS NOT NULL)
		SELECT chain FROM e WHERE chain IS NOT NULL UNION SELECT chain FROM c WHERE chain IS NOT NULL ORDER BY chain`, []any{trustDomain},
		func(scan func(...any) error) (name string, err error) { return name, scan(&name) })
}

// FindEntries implements [store.LedgerReader].
func (s *Store) FindEntries(ctx context.Context, trustDomain, chain string, f store.Find) ([]store.Entry, error) {
	var c conditions
	c.add(`trust_domain = %s`, trustDomain)
	by := `at ` + order(f) + `, chain, sequence ` + order(f)
	if chain != "" {
		c.add(`chain = %s`, chain)
		by = `sequence ` + order(f)
	}
	c.common(f, "sequence")
	if f.Outcome != "" {
		c.add(`outcome = %s`, f.Outcome)
	}
	if f.SPIFFEID != "" {
		if f.Instance != "" { // few entries, while a SPIFFE ID may be that of a whole fleet
			c.add(`EXISTS (SELECT 1 FROM identities i WHERE i.trust_domain = $1 AND i.chain = entries.chain AND i.sequence = entries.sequence AND i.spiffe_id = %s)`, f.SPIFFEID)
		} else {
			c.add(`(chain, sequence) IN (SELECT chain, sequence FROM identities WHERE trust_domain = $1 AND spiffe_id = %s)`, f.SPIFFEID)
		}
	}
	if f.Serial != "" {
		c.add(`(chain, sequence) IN (SELECT chain, sequence FROM identities WHERE trust_domain = $1 AND serial = %s)`, f.Serial)
	}
	text := `SELECT ` + entryColumns + ` FROM entries` + c.where() + ` ORDER BY ` + by + c.limit(f.Limit)
	return query(ctx, s, text, c.args, scanEntry)
}

// FindDenials implements [store.LedgerReader]. The numbers of denials that several
// servers write at once can appear out of order by the time of a commit.
func (s *Store) FindDenials(ctx context.Context, trustDomain string, f store.Find) ([]store.Denial, error) {
	if f.SPIFFEID != "" || f.Serial != "" {
		return nil, nil
	}
	var c conditions
	c.add(`trust_domain = %s`, trustDomain)
	c.common(f, "id")
	text := `SELECT id, at, reference, instance, evidence_digest, payload FROM denials` + c.where() + ` ORDER BY id ` + order(f) + c.limit(f.Limit)
	return query(ctx, s, text, c.args, func(scan func(...any) error) (d store.Denial, err error) {
		var id, at int64
		var digest []byte
		err = scan(&id, &at, &d.Reference, &d.Instance, &digest, &d.Payload)
		d.ID, d.At, d.EvidenceDigest = uint64(id), when(at), fixed(digest)
		return d, err
	})
}

// Evidence implements [store.LedgerReader].
func (s *Store) Evidence(ctx context.Context, trustDomain string, digest [32]byte) (store.Evidence, error) {
	return one(query(ctx, s, `SELECT e.digest, e.platform, e.instance, e.denied, e.body, e.endorsements, e.at, e.event_log, l.body FROM evidence e
		LEFT JOIN event_logs l ON l.trust_domain = e.trust_domain AND l.digest = e.event_log WHERE e.trust_domain = $1 AND e.digest = $2`,
		[]any{trustDomain, digest[:]}, func(scan func(...any) error) (e store.Evidence, err error) {
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

// Certificate implements [store.LedgerReader].
func (s *Store) Certificate(ctx context.Context, trustDomain, serial string) (store.Certificate, error) {
	return one(query(ctx, s, `SELECT serial, der, at FROM certificates WHERE trust_domain = $1 AND serial = $2`,
		[]any{trustDomain, serial}, func(scan func(...any) error) (c store.Certificate, err error) {
			var at int64
			err = scan(&c.Serial, &c.DER, &at)
			c.At = when(at)
			return c, err
		}))
}

// Checkpoints implements [store.LedgerReader].
func (s *Store) Checkpoints(ctx context.Context, trustDomain, chain string, beyond uint64, limit int) ([]store.Checkpoint, error) {
	return query(ctx, s, `SELECT size, note, at FROM checkpoints WHERE trust_domain = $1 AND chain = $2 AND size > $3 ORDER BY size LIMIT $4`,
		[]any{trustDomain, chain, number(beyond), limit}, scanCheckpoint)
}

// LastCheckpoint implements [store.LedgerReader].
func (s *Store) LastCheckpoint(ctx context.Context, trustDomain, chain string) (store.Checkpoint, error) {
	return one(query(ctx, s, `SELECT size, note, at FROM checkpoints WHERE trust_domain = $1 AND chain = $2 ORDER BY size DESC LIMIT 1`,
		[]any{trustDomain, chain}, scanCheckpoint))
}

func scanCheckpoint(scan func(...any) error) (c store.Checkpoint, err error) {
	var size, at int64
	err = scan(&size, &c.Note, &at)
	c.Size, c.At = uint64(size), when(at)
	return c, err
}
