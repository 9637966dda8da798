package store_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/storetest"
)

func open(t *testing.T, path string) *store.SQLite {
	t.Helper()
	s, err := store.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "assay.db") }

func TestSQLiteKeepsThePromisesOfAStore(t *testing.T) {
	paths := map[store.Store]string{}
	storetest.Run(t,
		func(t *testing.T) store.Store {
			p := newPath(t)
			s := open(t, p)
			paths[s] = p
			return s
		},
		func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, paths[s])
		})
}

func TestTheDatabaseIsClosedToOthers(t *testing.T) {
	p := newPath(t)
	s := open(t, p)
	fill(t, s, 1, 1)
	for _, f := range []string{p, p + "-wal", p + "-shm", p + ".lock"} {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", f, info.Mode().Perm())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(context.Context, string) (*store.SQLite, error){"OpenSQLite": store.OpenSQLite, "OpenSQLiteReadOnly": store.OpenSQLiteReadOnly} {
		if _, err := f(t.Context(), p); attest.CheckOf(err) != "database_file" {
			t.Errorf("%s of a file with mode 0644: %v, want check database_file", name, err)
		}
	}
}

func TestASymbolicLinkIsNotADatabase(t *testing.T) {
	p := newPath(t)
	if err := open(t, p).Close(); err != nil {
		t.Fatal(err)
	}
	link := p + ".link"
	if err := os.Symlink(p, link); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenSQLite(t.Context(), link); attest.CheckOf(err) != "database_file" {
		t.Errorf("%v, want check database_file", err)
	}
}

func TestASecondServerOnTheSameDatabaseIsRefused(t *testing.T) {
	p := newPath(t)
	first := open(t, p)
	_, err := store.OpenSQLite(t.Context(), p)
	if attest.CheckOf(err) != "database_lock" || !strings.Contains(err.Error(), "another assayd") {
		t.Errorf("%v, want check database_lock", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, p)
}

func TestANewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	p := newPath(t)
	if err := open(t, p).Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, p, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)`)
	_, err := store.OpenSQLite(t.Context(), p)
	if attest.CheckOf(err) != "database_schema" || !strings.Contains(err.Error(), "newer") {
		t.Errorf("OpenSQLite: %v, want check database_schema", err)
	}
	if _, err := store.OpenSQLiteReadOnly(t.Context(), p); attest.CheckOf(err) != "database_schema" {
		t.Errorf("OpenSQLiteReadOnly: %v, want check database_schema", err)
	}
}

func TestAFileThatIsNotADatabaseOfOursIsRefused(t *testing.T) {
	text := newPath(t)
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenSQLite(t.Context(), text); attest.CheckOf(err) != "database_file" {
		t.Errorf("text: %v, want check database_file", err)
	}
	other := newPath(t)
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	raw(t, other, `CREATE TABLE somebody_elses (x)`)
	if _, err := store.OpenSQLite(t.Context(), other); attest.CheckOf(err) != "database_schema" {
		t.Errorf("another program's: %v, want check database_schema", err)
	}
	if _, err := store.OpenSQLiteReadOnly(t.Context(), newPath(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v, want fs.ErrNotExist", err)
	}
}

func TestAReaderSeesWhatTheServerWritesAndWritesNothing(t *testing.T) {
	p := newPath(t)
	s := open(t, p)
	fill(t, s, 1, 3)
	for _, when := range []string{"while the server runs", "after it stopped"} {
		r, err := store.OpenSQLiteReadOnly(t.Context(), p)
		if err != nil {
			t.Fatal(when, err)
		}
		got, err := r.Entries(t.Context(), "simulated.example.org", "a", 0, 10)
		if err != nil || len(got) != 3 {
			t.Errorf("%s: %d entries, %v", when, len(got), err)
		}
		if h, err := r.Head(t.Context(), "simulated.example.org", "a"); err != nil || h.Sequence != 3 {
			t.Errorf("%s: head %v, %v", when, h, err)
		}
		if err := r.Append(t.Context(), storetest.Batch("a", 4, 4)); err == nil {
			t.Errorf("%s: a read-only database was written", when)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheLedgerRefusesUpdateAndDelete(t *testing.T) {
	p := newPath(t)
	s := open(t, p)
	fill(t, s, 1, 3)
	b := store.Batch{TrustDomain: "simulated.example.org", Chain: "a", Checkpoints: []store.Checkpoint{{Size: 3, Note: []byte("n"), At: time.Unix(1, 0)}}}
	if err := s.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	a := store.Authority{TrustDomain: b.TrustDomain, Use: store.X509, ID: "aa", Server: "main", KeyName: "x509-ca-aa", State: store.Active, Public: []byte{1}}
	if err := s.AddAuthority(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.PutPolicy(t.Context(), store.PolicyChange{Policy: store.Policy{TrustDomain: b.TrustDomain, Name: "p", Revision: 2}, Document: []byte("d")}); err != nil {
		t.Fatal(err)
	}
	if err := s.PutDocument(t.Context(), store.Document{TrustDomain: b.TrustDomain, Kind: "k", Sequence: 1, Body: []byte{1}}); err != nil {
		t.Fatal(err)
	}
	for _, digest := range [][32]byte{{1}, {2}} {
		if err := s.DenyPolicy(t.Context(), store.DeniedPolicy{TrustDomain: b.TrustDomain, Digest: digest, Reason: "r", Actor: "a", At: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.LiftPolicy(t.Context(), b.TrustDomain, [32]byte{2}, store.Lifted{LiftedAt: time.Unix(2, 0), LiftedBy: "a", LiftReason: "r"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+p+"?_pragma=recursive_triggers(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, stmt := range []string{
		`UPDATE entries SET payload = x'00' WHERE sequence = 2`,
		`DELETE FROM entries WHERE sequence = 3`,
		`REPLACE INTO entries SELECT trust_domain, chain, sequence, x'00', payload, at, reference, instance, evidence_digest, outcome FROM entries WHERE sequence = 3`,
		`UPDATE identities SET spiffe_id = 'spiffe://x/y'`,
		`DELETE FROM identities`,
		`UPDATE checkpoints SET size = 1`,
		`DELETE FROM checkpoints`,
		`DELETE FROM authorities`,
		`UPDATE authorities SET public = x'00'`,
		`UPDATE authorities SET not_after = not_after + 1`,
		`REPLACE INTO authorities SELECT trust_domain, use, id, server, key_name, state, x'00', not_before, not_after, created_at, signature FROM authorities`,
		`DELETE FROM documents`,
		`UPDATE documents SET sequence = 9`,
		`UPDATE trust_domains SET bundle_sequence = 0`,
		`DELETE FROM policies`,
		`UPDATE policies SET revision = 1`,
		`REPLACE INTO policies SELECT trust_domain, name, revision, x'00', at FROM policies`,
		`DELETE FROM policy_changes`,
		`UPDATE policy_changes SET document = x'00'`,
		`UPDATE policy_changes SET actor = 'somebody else'`,
		`UPDATE policy_changes SET refused = 1, document = NULL`,
		`REPLACE INTO policy_changes SELECT id, trust_domain, at, source, 'x', note, name, revision, digest, signers, refused, detail, size, document, server, signature FROM policy_changes`,
		`DELETE FROM denied_policies`,
		`DELETE FROM denied_policies WHERE lifted_at <> 0`,
		`UPDATE denied_policies SET reason = 'another', lifted_at = 1 WHERE lifted_at = 0`,
		`UPDATE denied_policies SET lifted_at = 0 WHERE lifted_at <> 0`,
		`UPDATE denied_policies SET lift_reason = 'another' WHERE lifted_at <> 0`,
	} {
		if _, err := db.ExecContext(t.Context(), stmt); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v, want it refused", stmt, err)
		}
	}
	for _, stmt := range []string{`UPDATE trust_domains SET simulated = 0`, `DELETE FROM trust_domains`} {
		if _, err := db.ExecContext(t.Context(), stmt); err == nil || !strings.Contains(err.Error(), "for life") {
			t.Errorf("%s: %v, want it refused", stmt, err)
		}
	}
}

// TestAKilledServersDatabaseHoldsEveryDurableBatch copies the files between
// batches, as the disk of a killed machine would hold them, and opens the copy.
func TestAKilledServersDatabaseHoldsEveryDurableBatch(t *testing.T) {
	p := newPath(t)
	s := open(t, p)
	fill(t, s, 1, 1)
	for n := uint64(2); n < 40; n += 3 {
		if err := s.Append(t.Context(), storetest.Batch("a", n, n+2)); err != nil {
			t.Fatal(err)
		}
		crashed := newPath(t)
		for _, suffix := range []string{"", "-wal"} { // -shm is not durable: it is rebuilt
			b, err := os.ReadFile(p + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// A torn write at the end of the log: a commit that never returned.
		if n%2 == 0 {
			f, err := os.OpenFile(crashed+"-wal", os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(make([]byte, 2000)); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		c := open(t, crashed)
		if h, err := c.Head(t.Context(), "simulated.example.org", "a"); err != nil || h.Sequence != n+2 {
			t.Fatalf("after batch %d: head %v, %v", n, h, err)
		}
		if err := c.Append(t.Context(), storetest.Batch("a", n+3, n+3)); err != nil {
			t.Fatalf("the copy does not go on: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestACommitThatIsCutOffAnywhereIsWholeOrAbsent cuts the log at every page
// boundary, and in the middle of pages, of a commit.
func TestACommitThatIsCutOffAnywhereIsWholeOrAbsent(t *testing.T) {
	p := newPath(t)
	s := open(t, p)
	fill(t, s, 1, 1)
	before, err := os.Stat(p + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), storetest.Batch("a", 2, 20)); err != nil {
		t.Fatal(err)
	}
	wal, err := os.ReadFile(p + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	db, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]int{}
	for cut := before.Size(); cut <= int64(len(wal)); cut += 1030 {
		crashed := newPath(t)
		if err := errors.Join(os.WriteFile(crashed, db, 0o600), os.WriteFile(crashed+"-wal", wal[:cut], 0o600)); err != nil {
			t.Fatal(err)
		}
		c := open(t, crashed)
		h, err := c.Head(t.Context(), "simulated.example.org", "a")
		if err != nil || h.Sequence != 1 && h.Sequence != 20 {
			t.Fatalf("cut at %d of %d: head %v, %v", cut, len(wal), h, err)
		}
		seen[h.Sequence]++
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if seen[1] == 0 {
		t.Errorf("no cut lost the commit: the test cut nothing (%v)", seen)
	}
}

func fill(t *testing.T, s *store.SQLite, from, to uint64) {
	t.Helper()
	err := s.InitTrustDomain(t.Context(), store.TrustDomain{Name: "simulated.example.org", Simulated: true, CreatedAt: time.Unix(1, 0)})
	if err == nil {
		err = s.Append(t.Context(), storetest.Batch("a", from, to))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// raw runs a statement behind the store's back.
func raw(t *testing.T, path, stmt string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), stmt); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAReaderReadsWhatAKilledServerLeft(t *testing.T) {
	p := newPath(t)
	s := open(t, p)
	fill(t, s, 1, 3)
	crashed := newPath(t)
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(p + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := store.OpenSQLiteReadOnly(t.Context(), crashed)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if h, err := r.Head(t.Context(), "simulated.example.org", "a"); err != nil || h.Sequence != 3 {
		t.Errorf("head %v, %v", h, err)
	}
}

func TestAPathMayHoldAnyCharacters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%20?mode=ro&c#d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "assay.db")
	s := open(t, p)
	fill(t, s, 1, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(p); err != nil || info.Size() == 0 {
		t.Fatalf("the database is elsewhere: %v, %v", info, err)
	}
	r, err := store.OpenSQLiteReadOnly(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if h, err := r.Head(t.Context(), "simulated.example.org", "a"); err != nil || h.Sequence != 1 {
		t.Errorf("head %v, %v", h, err)
	}
}
