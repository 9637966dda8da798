package store

import (
	"bytes"
	"database/sql"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
)

// A database that the version before TPMs wrote is migrated with all that is in
// it. The rows are written as that version wrote them, not through this one.
func TestADatabaseOfBeforeTPMsKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := connect(t.Context(), path, "rwc", "journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, old, sources, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	zero, one := make([]byte, 32), bytes.Repeat([]byte{1}, 32)
	const td = "attested.example.org"
	for _, row := range []struct {
		text string
		args []any
	}{
		{`INSERT INTO trust_domains VALUES (?,?,?,?)`, []any{td, 0, 3, at.UnixMicro()}},
		{`INSERT INTO authorities VALUES (?,?,?,?,?,?,?,?,?,?)`, []any{td, "x509", "aa", "main", "k", "active", []byte{1}, at.UnixMicro(), at.UnixMicro(), at.UnixMicro()}},
		{`INSERT INTO documents VALUES (?,?,?,?,?)`, []any{td, "verifier-keys", 1, []byte("doc"), at.UnixMicro()}},
		{`INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?)`, []any{td, "main", 1, one, []byte(`{"n":1}`), at.UnixMicro(), "as-1", "aws-nitro:i-1", zero}},
		{`INSERT INTO identities VALUES (?,?,?,?,?,?,?,?)`, []any{td, "aabb", "main", 1, 0, "spiffe://" + td + "/a", one, at.UnixMicro()}},
		{`INSERT INTO checkpoints VALUES (?,?,?,?,?)`, []any{td, "main", 1, []byte("note"), at.UnixMicro()}},
		{`INSERT INTO denials (trust_domain, at, reference, instance, evidence_digest, payload) VALUES (?,?,?,?,?,?)`, []any{td, at.UnixMicro(), "as-2", "i", zero, []byte(`{}`)}},
		{`INSERT INTO evidence VALUES (?,?,?,?,?,?,?,?,?)`, []any{td, one, "aws-nitro", "i-1", 0, 8, []byte("document"), []byte{0x80}, at.UnixMicro()}},
		{`INSERT INTO certificates VALUES (?,?,?,?)`, []any{td, "aabb", []byte("der"), at.UnixMicro()}},
		{`INSERT INTO policies VALUES (?,?,?,?,?)`, []any{td, "prod", 7, one, at.UnixMicro()}},
	} {
		if _, err := old.ExecContext(t.Context(), row.text, row.args...); err != nil {
			t.Fatalf("%s: %v", row.text, err)
		}
	}
	before := tables(t, old)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	s, err := OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	after := tables(t, s.r)
	for table, n := range before {
		if table != "goose_db_version" && table != "sqlite_sequence" && (n == 0 || after[table] != n) {
			t.Errorf("table %s has %d rows, had %d", table, after[table], n)
		}
	}
	ctx := t.Context()
	e, err := s.Evidence(ctx, td, [32]byte(one))
	if err != nil || string(e.Body) != "document" || e.EventLog != nil || !e.At.Equal(at) {
		t.Errorf("evidence %+v, %v", e, err)
	}
	entries, err := s.Entries(ctx, td, "main", 0, 9)
	if err != nil || len(entries) != 1 || string(entries[0].Payload) != `{"n":1}` || entries[0].Hash != [32]byte(one) {
		t.Errorf("entries %+v, %v", entries, err)
	}
	if ok, err := s.HasSerial(ctx, td, "aabb"); !ok || err != nil {
		t.Errorf("serial: %t, %v", ok, err)
	}
	if p, err := s.LatestPolicy(ctx, td, "prod"); err != nil || p.Revision != 7 || p.Digest != [32]byte(one) {
		t.Errorf("policy %+v, %v", p, err)
	}
	if row, err := s.TrustDomain(ctx, td); err != nil || row.Simulated || row.BundleSequence != 3 {
		t.Errorf("trust domain %+v, %v", row, err)
	}
	// What is new works on it.
	if err := s.Append(ctx, Batch{TrustDomain: td, Chain: "main", Evidence: []Evidence{{Digest: [32]byte{9}, Body: []byte("quote"), EventLog: []byte("log"), At: at}}}); err != nil {
		t.Error(err)
	}
	if _, _, err := s.PutTPMs(ctx, []TPMEntry{{TrustDomain: td, EK: [32]byte{1}, Group: "a", AddedAt: at}}, false); err != nil {
		t.Error(err)
	}
}

// tables counts the rows of every table.
func tables(t *testing.T, db *sql.DB) map[string]int {
	t.Helper()
	names, err := query(t.Context(), db, `SELECT name FROM sqlite_master WHERE type = 'table'`, nil, func(scan func(...any) error) (n string, err error) { return n, scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, name := range names {
		var n int
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM "`+name+`"`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		out[name] = n
	}
	return out
}
