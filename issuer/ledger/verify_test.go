package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// chain is an exported chain of six entries, with a checkpoint at 3 and at 6.
type chain struct {
	items       []ledger.Item
	checkpoints [][]byte
	key         ledger.VerifierKey
	signer      ed25519.PrivateKey
}

func newChain(t *testing.T) (*fixture, *chain) {
	t.Helper()
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	c := &chain{key: l.Key(), signer: f.signer.(ed25519.PrivateKey)}
	for i := range 6 {
		f.record(t, l, attestedtest.Request{})
		if i%3 == 2 {
			note, err := l.Checkpoint(t.Context())
			must(t, err)
			c.checkpoints = append(c.checkpoints, note)
		}
	}
	for item, err := range l.Entries(t.Context(), 0) {
		must(t, err)
		c.items = append(c.items, item)
	}
	must(t, stop())
	return f, c
}

func (c *chain) verify() (ledger.Report, error) {
	return ledger.VerifyChain(td, "main", seq(c.items), c.checkpoints, c.key)
}

func seq(items []ledger.Item) iter.Seq2[ledger.Item, error] {
	return func(yield func(ledger.Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}
}

// rechain computes every hash from an entry on again, as one who can write the
// database would.
func (c *chain) rechain(t *testing.T, from int) {
	t.Helper()
	previous := make([]byte, 32)
	if from > 0 {
		previous = c.items[from-1].Hash
	}
	for i := from; i < len(c.items); i++ {
		h := ledger.EntryHash(td, "main", c.items[i].Sequence, [32]byte(previous), c.items[i].Payload)
		c.items[i].Previous, c.items[i].Hash = previous, h[:]
		previous = c.items[i].Hash
	}
}

// sign makes a checkpoint with any text.
func (c *chain) sign(t *testing.T, text string, key ledger.VerifierKey) []byte {
	t.Helper()
	note, err := ledger.SignNote(text, key, c.signer)
	must(t, err)
	return note
}

func TestEveryChangeOfAChainIsFound(t *testing.T) {
	_, good := newChain(t)
	_, foreignChain := newChain(t)
	foreign := func(t *testing.T) ledger.VerifierKey {
		k, err := ledger.NewVerifierKey("simulated.other.example/assay/ledger/main", good.signer.Public())
		must(t, err)
		return k
	}
	cpText := func(size int, head []byte) string {
		return fmt.Sprintf("%s\n%d\n%s\ntime 2026-11-20T12:00:00Z\n", ledger.ChainName(td, "main"), size, base64.StdEncoding.EncodeToString(head))
	}
	tests := []struct {
		check, name string
		spoil       func(t *testing.T, c *chain)
	}{
		{"", "nothing", func(*testing.T, *chain) {}},
		{"", "no checkpoints", func(_ *testing.T, c *chain) { c.checkpoints = nil }},
		{"", "checkpoints in any order, and twice", func(_ *testing.T, c *chain) {
			c.checkpoints = [][]byte{c.checkpoints[1], c.checkpoints[0], c.checkpoints[1]}
		}},
		{"", "a witness's signature on a checkpoint", func(_ *testing.T, c *chain) {
			c.checkpoints[0] = append(c.checkpoints[0], []byte("— witness.example "+base64.StdEncoding.EncodeToString(make([]byte, 76))+"\n")...)
		}},
		{"chain_hash", "an altered payload", func(_ *testing.T, c *chain) {
			c.items[2].Payload = bytes.Replace(c.items[2].Payload, []byte("granted"), []byte("granteD"), 1)
		}},
		{"chain_hash", "a space in a payload", func(_ *testing.T, c *chain) { c.items[2].Payload = append(c.items[2].Payload, ' ') }},
		{"chain_hash", "an altered hash", func(_ *testing.T, c *chain) { c.items[2].Hash[5] ^= 1 }},
		{"chain_hash", "an altered hash at the end", func(_ *testing.T, c *chain) { c.items[5].Hash[5] ^= 1 }},
		{"chain_hash", "two payloads exchanged", func(_ *testing.T, c *chain) {
			c.items[1].Payload, c.items[2].Payload = c.items[2].Payload, c.items[1].Payload
		}},
		{"chain_previous", "an altered previous hash", func(_ *testing.T, c *chain) { c.items[2].Previous[0] ^= 1 }},
		{"chain_previous", "an entry of another chain in its place", func(_ *testing.T, c *chain) { c.items[2] = foreignChain.items[2] }},
		{"chain_sequence", "a gap", func(_ *testing.T, c *chain) { c.items = slices.Delete(c.items, 2, 3) }},
		{"chain_sequence", "the beginning cut off", func(_ *testing.T, c *chain) { c.items = c.items[1:] }},
		{"chain_sequence", "two entries exchanged", func(_ *testing.T, c *chain) { c.items[1], c.items[2] = c.items[2], c.items[1] }},
		{"chain_sequence", "an entry twice", func(_ *testing.T, c *chain) { c.items = slices.Insert(c.items, 2, c.items[1]) }},
		{"chain_payload", "a payload that is none", func(t *testing.T, c *chain) {
			c.checkpoints = nil
			c.items[2].Payload = []byte(`{"version":1`)
			c.rechain(t, 2)
		}},
		{"chain_payload", "a payload of another version", func(t *testing.T, c *chain) {
			c.checkpoints = nil
			c.items[2].Payload = bytes.Replace(c.items[2].Payload, []byte(`"version":1`), []byte(`"version":2`), 1)
			c.rechain(t, 2)
		}},
		{"chain_payload", "a payload of another trust domain", func(t *testing.T, c *chain) {
			c.checkpoints = nil
			c.items[2].Payload = bytes.Replace(c.items[2].Payload, []byte(`"trust_domain":"`), []byte(`"trust_domain":"x`), 1)
			c.rechain(t, 2)
		}},
		{"checkpoint_mismatch", "an entry rewritten with all hashes after it", func(t *testing.T, c *chain) {
			c.items[4].Payload = bytes.Replace(c.items[4].Payload, []byte("192.0.2.1"), []byte("192.0.2.2"), 1)
			c.rechain(t, 4)
		}},
		{"checkpoint_mismatch", "a checkpoint of another head", func(t *testing.T, c *chain) {
			c.checkpoints = append(c.checkpoints, c.sign(t, cpText(4, make([]byte, 32)), c.key))
		}},
		{"checkpoint_mismatch", "two checkpoints of one size that differ", func(t *testing.T, c *chain) {
			c.checkpoints = append(c.checkpoints, c.sign(t, cpText(6, c.items[4].Hash), c.key))
		}},
		{"checkpoint_truncation", "the end cut off", func(_ *testing.T, c *chain) { c.items = c.items[:5] }},
		{"checkpoint_truncation", "everything cut off", func(_ *testing.T, c *chain) { c.items = nil }},
		{"checkpoint_origin", "a checkpoint of another trust domain", func(t *testing.T, c *chain) {
			text := strings.Replace(cpText(6, c.items[5].Hash), td, "simulated.other.example", 1)
			c.checkpoints[0] = c.sign(t, text, c.key)
		}},
		{"checkpoint_origin", "a checkpoint of another chain", func(t *testing.T, c *chain) {
			text := strings.Replace(cpText(6, c.items[5].Hash), "/main\n", "/second\n", 1)
			c.checkpoints[0] = c.sign(t, text, c.key)
		}},
		{"checkpoint_signature", "a checkpoint by another key", func(_ *testing.T, c *chain) { c.checkpoints[0] = foreignChain.checkpoints[0] }},
		{"checkpoint_signature", "a checkpoint by the key under another name", func(t *testing.T, c *chain) {
			c.checkpoints[0] = c.sign(t, cpText(6, c.items[5].Hash), foreign(t))
		}},
		{"checkpoint_signature", "an altered checkpoint", func(_ *testing.T, c *chain) {
			c.checkpoints[0] = bytes.Replace(c.checkpoints[0], []byte("\n3\n"), []byte("\n2\n"), 1)
		}},
		{"checkpoint_format", "a checkpoint that is cut off", func(_ *testing.T, c *chain) { c.checkpoints[0] = c.checkpoints[0][:len(c.checkpoints[0])-1] }},
		{"checkpoint_format", "a checkpoint without signatures", func(_ *testing.T, c *chain) { c.checkpoints[0] = []byte("a\n1\n") }},
		{"checkpoint_format", "a signed note that is no checkpoint", func(t *testing.T, c *chain) { c.checkpoints[0] = c.sign(t, "hello\n", c.key) }},
		{"checkpoint_format", "a size with a leading zero", func(t *testing.T, c *chain) {
			c.checkpoints[0] = c.sign(t, strings.Replace(cpText(6, c.items[5].Hash), "\n6\n", "\n06\n", 1), c.key)
		}},
		{"checkpoint_format", "a head that is too short", func(t *testing.T, c *chain) { c.checkpoints[0] = c.sign(t, cpText(6, c.items[5].Hash[:31]), c.key) }},
	}
	for _, tt := range tests {
		t.Run(tt.check+" "+tt.name, func(t *testing.T) {
			c := good.clone()
			tt.spoil(t, c)
			r, err := c.verify()
			if tt.check == "" {
				must(t, err)
				if r.Entries != 6 || len(c.checkpoints) > 0 && r.Covered != 6 {
					t.Errorf("report %+v", r)
				}
				return
			}
			wantCheck(t, err, attest.Untrusted, tt.check)
			if r.Entries != 0 {
				t.Error("a report came with the error")
			}
		})
	}
}

func (c *chain) clone() *chain {
	out := *c
	out.items = slices.Clone(c.items)
	for i := range out.items {
		it := &out.items[i]
		it.Hash, it.Previous, it.Payload = slices.Clone(it.Hash), slices.Clone(it.Previous), slices.Clone(it.Payload)
	}
	out.checkpoints = nil
	for _, n := range c.checkpoints {
		out.checkpoints = append(out.checkpoints, slices.Clone(n))
	}
	return &out
}

func TestAnErrorOfTheSourceIsNotAVerdict(t *testing.T) {
	_, c := newChain(t)
	broken := errors.New("disk")
	_, err := ledger.VerifyChain(td, "main", func(yield func(ledger.Item, error) bool) { yield(ledger.Item{}, broken) }, nil, c.key)
	if !errors.Is(err, broken) || attest.KindOf(err) == attest.Untrusted {
		t.Errorf("%v", err)
	}
}

// tamper changes the database behind the store's back, as root on the machine
// could: the triggers go first.
func tamper(t *testing.T, path string, stmts ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	must(t, err)
	for _, s := range append([]string{
		`DROP TRIGGER entries_no_update`, `DROP TRIGGER entries_no_delete`, `DROP TRIGGER identities_no_update`, `DROP TRIGGER identities_no_delete`,
		`DROP TRIGGER checkpoints_no_delete`, `DROP TRIGGER checkpoints_no_update`,
	}, stmts...) {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	must(t, db.Close())
}

func TestAChangedDatabaseIsFound(t *testing.T) {
	for _, tt := range []struct {
		name, check string
		opens       bool // the server still starts: the change is before its last checkpoint
		stmts       []string
	}{
		{"an altered payload after the checkpoint", "chain_hash", false, []string{`UPDATE entries SET payload = CAST(replace(CAST(payload AS TEXT), '192.0.2.1', '192.0.2.2') AS BLOB) WHERE sequence = 8`}},
		{"an altered payload before it", "chain_hash", true, []string{`UPDATE entries SET payload = CAST(replace(CAST(payload AS TEXT), '192.0.2.1', '192.0.2.2') AS BLOB) WHERE sequence = 2`}},
		{"an altered hash", "chain_hash", true, []string{`UPDATE entries SET hash = zeroblob(32) WHERE sequence = 2`}},
		{"a damaged hash", "chain_hash", true, []string{`UPDATE entries SET hash = x'00' WHERE sequence = 2`}},
		{"a deleted entry", "chain_sequence", true, []string{`DELETE FROM identities WHERE sequence = 2`, `DELETE FROM entries WHERE sequence = 2`}},
		{"two entries exchanged", "chain_hash", true, []string{
			`CREATE TEMP TABLE x AS SELECT sequence s, payload p FROM entries WHERE sequence IN (2, 3)`,
			`UPDATE entries SET payload = (SELECT p FROM x WHERE s = 5 - sequence) WHERE sequence IN (2, 3)`,
		}},
		{"the end cut off", "checkpoint_truncation", false, []string{`DELETE FROM identities WHERE sequence >= 5`, `DELETE FROM entries WHERE sequence >= 5`}},
		{"an altered time column", "chain_index", true, []string{`UPDATE entries SET at = at + 1 WHERE sequence = 2`}},
		{"an altered reference column", "chain_index", true, []string{`UPDATE entries SET reference = 'as-aaaaaaaaaa' WHERE sequence = 2`}},
		{"an altered instance column", "chain_index", true, []string{`UPDATE entries SET instance = 'x' WHERE sequence = 2`}},
		{"an altered evidence column", "chain_index", true, []string{`UPDATE entries SET evidence_digest = zeroblob(32) WHERE sequence = 2`}},
		{"an altered identity row", "chain_index", true, []string{`UPDATE identities SET spiffe_id = 'spiffe://x/y' WHERE sequence = 2`}},
		{"a deleted identity row", "chain_index", true, []string{`DELETE FROM identities WHERE sequence = 2`}},
		{"an identity of no entry", "chain_index", true, []string{
			`INSERT INTO identities SELECT trust_domain, 'ffff', chain, 4000, position, spiffe_id, zeroblob(32), not_after FROM identities WHERE sequence = 2`,
		}},
		{"an altered checkpoint", "checkpoint_signature", false, []string{`UPDATE checkpoints SET note = CAST(replace(CAST(note AS TEXT), 'Z', '9') AS BLOB)`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newChain(t)
			// Two more entries that no checkpoint covers, as after a kill -9.
			crashed := filepath.Join(t.TempDir(), "assay.db")
			l := f.open(t, ledger.Options{})
			run(t, l)
			f.record(t, l, attestedtest.Request{})
			f.record(t, l, attestedtest.Request{})
			for _, s := range []string{"", "-wal"} {
				b, err := os.ReadFile(f.path + s)
				must(t, err)
				must(t, os.WriteFile(crashed+s, b, 0o600))
			}
			tamper(t, crashed, tt.stmts...)
			s, err := store.OpenSQLite(t.Context(), crashed)
			must(t, err)
			defer func() { _ = s.Close() }()
			_, err = ledger.NewReader(s, td, "").Verify(t.Context(), c.key, nil)
			wantCheck(t, err, attest.Untrusted, tt.check)
			_, err = ledger.Open(t.Context(), s, td, f.signer, ledger.Options{Now: f.Now})
			if tt.opens != (err == nil) {
				t.Errorf("Open: %v, want success: %v", err, tt.opens)
			}
		})
	}
}

func TestALedgerRefusesAnotherCheckpointKey(t *testing.T) {
	f, _ := newChain(t)
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	_, err = ledger.Open(t.Context(), f.store, td, other, ledger.Options{Now: f.Now})
	wantCheck(t, err, attest.Untrusted, "checkpoint_signature")
	_, err = ledger.Open(t.Context(), f.store, "other.example.org", f.signer, ledger.Options{Now: f.Now})
	wantCheck(t, err, attest.Internal, "ledger_trust_domain")
}

// What is shown is what was hashed: nobody need verify the whole chain to trust
// one entry no less than before.
func TestAnAlteredEntryIsNotShown(t *testing.T) {
	for name, stmt := range map[string]string{
		"payload":         `UPDATE entries SET payload = CAST(replace(CAST(payload AS TEXT), '192.0.2.1', '192.0.2.2') AS BLOB) WHERE sequence = 2`,
		"hash":            `UPDATE entries SET hash = zeroblob(32) WHERE sequence = 2`,
		"the hash before": `UPDATE entries SET hash = zeroblob(32) WHERE sequence = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := newChain(t)
			r := ledger.NewReader(f.store, td, "")
			_, err := r.Get(t.Context(), "2")
			must(t, err)
			must(t, f.store.Close())
			tamper(t, f.path, stmt)
			f.openStore(t)
			r = ledger.NewReader(f.store, td, "")
			_, err = r.Get(t.Context(), "2")
			wantCheck(t, err, attest.Untrusted, "chain_hash")
			_, err = r.List(t.Context(), ledger.Filter{})
			wantCheck(t, err, attest.Untrusted, "chain_hash")
			_, err = r.Get(t.Context(), "4")
			must(t, err)
		})
	}
}
