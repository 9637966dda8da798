package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
)

// Both databases have the same tables, columns and version: who adds a migration
// to one adds it to the other.
func TestBothDatabasesHaveOneSchema(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "assay.db")
	lite, err := store.OpenSQLite(ctx, path)
	must(t, err)
	must(t, lite.Close())
	file, err := sql.Open("sqlite", "file:"+path)
	must(t, err)
	defer func() { _ = file.Close() }()
	db := cluster(t).Database(t)
	must(t, open(t, db).Close())
	conn, err := pgx.Connect(ctx, db)
	must(t, err)
	defer func() { _ = conn.Close(context.Background()) }()

	want, got := map[string]bool{}, map[string]bool{}
	rows, err := file.QueryContext(ctx, `SELECT m.name, c.name, c."notnull" FROM sqlite_master m, pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> 'goose_db_version'`)
	must(t, err)
	for rows.Next() {
		var table, column string
		var required bool
		must(t, rows.Scan(&table, &column, &required))
		if column != "id" || table == "authorities" { // a number that the database draws
			want[fmt.Sprintf("%s.%s required:%t", table, column, required)] = true
		}
	}
	must(t, errors.Join(rows.Err(), rows.Close()))
	columns, err := conn.Query(ctx, `SELECT table_name, column_name, is_nullable = 'NO' FROM information_schema.columns
		WHERE table_schema = 'public' AND table_name NOT IN ('goose_db_version', 'changes')`)
	must(t, err)
	for columns.Next() {
		var table, column string
		var required bool
		must(t, columns.Scan(&table, &column, &required))
		if column != "id" || table == "authorities" {
			got[fmt.Sprintf("%s.%s required:%t", table, column, required)] = true
		}
	}
	must(t, columns.Err())
	if d := cmp.Diff(want, got); d != "" || len(want) < 50 {
		t.Errorf("%d columns; (-SQLite +PostgreSQL)\n%s", len(want), d)
	}
	var a, b int
	const version = `SELECT max(version_id) FROM goose_db_version`
	must(t, file.QueryRowContext(ctx, version).Scan(&a))
	must(t, conn.QueryRow(ctx, version).Scan(&b))
	if a != b {
		t.Errorf("SQLite's schema has version %d, PostgreSQL's %d", a, b)
	}
}

func TestADatabaseThatWouldLoseCommitsIsRefused(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	must(t, open(t, db).Close())
	c.Exec(t, db, `ALTER ROLE assay IN DATABASE `+pgxDatabase(t, db)+` SET synchronous_commit = off`)
	if _, err := postgres.Open(t.Context(), postgres.Config{ConnString: db}); attest.CheckOf(err) != "database_durability" {
		t.Errorf("synchronous_commit=off: %v, want check database_durability", err)
	}
	if _, err := postgres.OpenReadOnly(t.Context(), postgres.Config{ConnString: db}); err != nil {
		t.Errorf("a reader commits nothing: %v", err)
	}
}

func pgxDatabase(t *testing.T, db string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(db)
	must(t, err)
	return cfg.Database
}

func TestADatabaseOverTheNetworkMustProveItsName(t *testing.T) {
	for _, conn := range []string{
		"postgres://assay@db.example.org/assay",
		"postgres://assay@db.example.org/assay?sslmode=disable",
		"postgres://assay@db.example.org/assay?sslmode=require",
		"postgres://assay@192.0.2.1/assay?sslmode=prefer",
		"host=127.0.0.1,db.example.org dbname=assay sslmode=prefer",
	} {
		if _, err := postgres.Open(t.Context(), postgres.Config{ConnString: conn}); attest.CheckOf(err) != "database_tls" {
			t.Errorf("%s: %v, want check database_tls", conn, err)
		}
	}
	// With it, the attempt is made (and there is no such host).
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := postgres.Open(short, postgres.Config{ConnString: "postgres://assay:hunter2@db.invalid/assay?sslmode=verify-full"})
	if attest.CheckOf(err) != "database_connect" {
		t.Errorf("verify-full: %v, want check database_connect", err)
	}
	for _, err := range []error{err, func() error {
		_, err := postgres.Open(t.Context(), postgres.Config{ConnString: "postgres://assay:hunter2@db.invalid/assay?sslmode=nonsense"})
		return err
	}()} {
		if err == nil || containsSecret(err) {
			t.Errorf("the error tells the password, or there is none: %v", err)
		}
	}
}

func containsSecret(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s := e.Error(); strings.Contains(s, "hunter2") {
			return true
		}
	}
	return false
}

// Whoever has genuine TPMs can have them remembered, up to a number; the
// operator's own are never among those that make room.
func TestTheBindingsOfUnlistedTPMsAreBounded(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	s := filled(t, db)
	ctx := t.Context()
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	bind := func(n byte, at time.Time) {
		t.Helper()
		must(t, s.PutTPMBinding(ctx, store.TPMBinding{TrustDomain: td, EK: [32]byte{n}, AK: []byte{n}, At: at}))
	}
	c.Exec(t, db, `ALTER TABLE tpm_bindings SET UNLOGGED`) // a quarter of a million rows for a moment
	bind(1, at.Add(-2*time.Hour))                          // the oldest of all is the operator's
	bind(2, at.Add(-time.Hour))
	_, _, err := s.PutTPMs(ctx, []store.TPMEntry{{TrustDomain: td, EK: [32]byte{1}, Group: "a", AddedAt: at}}, false)
	must(t, err)
	c.Exec(t, db, fmt.Sprintf(`INSERT INTO tpm_bindings SELECT '%s', sha256(n::text::bytea), '\x00', false, 0, 0, %d + n FROM generate_series(1, %d) n`,
		td, at.UnixMicro(), store.MaxTPMBindings-1))
	must(t, s.Close())
	s = open(t, db) // the first new binding after a start makes room
	bind(3, at.Add(time.Hour))
	bind(3, at.Add(2*time.Hour)) // the same again makes nobody go
	for n, want := range map[byte]bool{1: true, 2: false, 3: true} {
		_, err := s.TPMBinding(ctx, td, [32]byte{n})
		if got := !errors.Is(err, store.ErrNotFound); got != want {
			t.Errorf("binding %d is there: %t, %v", n, got, err)
		}
	}
	if n := count(t, db, `SELECT count(*) FROM tpm_bindings`); n != store.MaxTPMBindings+1 {
		t.Errorf("%d bindings, want %d and the operator's", n, store.MaxTPMBindings)
	}
}
