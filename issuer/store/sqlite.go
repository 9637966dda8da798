package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	_ "modernc.org/sqlite" // registers the driver "sqlite": pure Go, so that cgo stays off
)

// SQLite is the embedded store: one file, for one server.
//
// It has one connection that writes, since SQLite has one writer anyway and
// waiting in Go is cheaper than in its busy handler, and a few that only read:
// under WAL they never block the writer, nor it them.
type SQLite struct {
	path string
	w    *sql.DB // one connection; nil when read-only
	r    *sql.DB
	lock *lockFile

	bindingsAdded atomic.Uint64 // since the start

	insert struct{ entry, identity, denial, evidence, eventLog, certificate, checkpoint *sql.Stmt }
}

var _ Store = (*SQLite)(nil)

// readers is how many connections read at once.
const readers = 4

// pragmas of every connection. synchronous(FULL) syncs the log at each commit:
// "durable" depends on it.
var pragmas = []string{
	"busy_timeout(10000)", "foreign_keys(1)", "recursive_triggers(1)", "trusted_schema(0)",
}

// OpenSQLite opens or creates the database, mode 0600, for the one server that
// may write it, and migrates it. A second server is refused (check
// database_lock), and so is a schema newer than this program's (database_schema).
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	s, err := openSQLite(ctx, path)
	if err != nil {
		_ = lock.release()
		return nil, err
	}
	s.lock = lock
	return s, nil
}

func openSQLite(ctx context.Context, path string) (*SQLite, error) {
	if err := touch(path); err != nil {
		return nil, err
	}
	if err := checkFile(path); err != nil {
		return nil, err
	}
	s := &SQLite{path: path}
	var err error
	if s.w, err = connect(ctx, path, "rwc", "synchronous(FULL)", "journal_mode(WAL)", "journal_size_limit(67108864)"); err != nil {
		return nil, err
	}
	s.w.SetMaxOpenConns(1)
	if err := migrate(ctx, s.w, path); err != nil {
		return nil, errors.Join(err, s.w.Close())
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.w.Close())
	}
	if s.r, err = connect(ctx, path, "rw", "synchronous(FULL)", "query_only(1)"); err != nil {
		return nil, errors.Join(err, s.w.Close())
	}
	s.r.SetMaxOpenConns(readers)
	s.r.SetMaxIdleConns(readers)
	return s, nil
}

// OpenSQLiteReadOnly opens an existing database for reading, while a server
// writes it or not. Writes through it fail.
func OpenSQLiteReadOnly(ctx context.Context, path string) (*SQLite, error) {
	if err := checkFile(path); err != nil {
		return nil, err
	}
	r, err := connect(ctx, path, "ro", "query_only(1)")
	if err != nil {
		return nil, err
	}
	r.SetMaxOpenConns(readers)
	if err := checkSchema(ctx, r, path); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &SQLite{path: path, r: r}, nil
}

// touch creates the file with its mode before SQLite does with the umask's; the
// log beside it inherits the mode.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return fault("database_file", path, err, "check that the data directory exists and can be written to")
	}
	return f.Close()
}

// checkFile refuses a database that others may read: it holds evidence, with
// names that are never published.
func checkFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault("database_file", path, fs.ErrNotExist, "check the path; 'assayd init' creates the database")
	case err != nil:
		return fault("database_file", path, err, "check the path and its permissions")
	case !info.Mode().IsRegular():
		return fault("database_file", path, fmt.Errorf("not a regular file (%v)", info.Mode().Type()), "put the file itself there: symbolic links are refused")
	case info.Mode().Perm()&0o077 != 0:
		return fault("database_file", path, fmt.Errorf("others may read or write it (mode %#o)", info.Mode().Perm()), "chmod 600 "+path)
	}
	return nil
}

// connect opens a pool and one connection of it, so that a broken file is an
// error here and not at the first request.
func connect(ctx context.Context, path, mode string, extra ...string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fault("database_file", path, err, "check the path")
	}
	q := url.Values{"mode": {mode}, "_txlock": {"immediate"}}
	for _, p := range pragmas {
		q.Add("_pragma", p)
	}
	for _, p := range extra {
		q.Add("_pragma", p)
	}
	if mode == "ro" || strings.HasPrefix(strings.Join(extra, " "), "query_only") {
		q.Del("_txlock")
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fault("database_file", path, err, "check the path")
	}
	db.SetConnMaxLifetime(0)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fault("database_file", path, err, "is this file an Assay database? restore it from a backup"), db.Close())
	}
	return db, nil
}

func (s *SQLite) prepare(ctx context.Context) error {
	for _, p := range []struct {
		into **sql.Stmt
		text string
	}{
		{&s.insert.entry, `INSERT INTO entries (trust_domain, chain, sequence, hash, payload, at, reference, instance, evidence_digest, outcome) VALUES (?,?,?,?,?,?,?,?,?,?)`},
		{&s.insert.identity, `INSERT INTO identities (trust_domain, serial, chain, sequence, position, spiffe_id, key_thumbprint, not_after) VALUES (?,?,?,?,?,?,?,?)`},
		{&s.insert.denial, `INSERT INTO denials (trust_domain, at, reference, instance, evidence_digest, payload) VALUES (?,?,?,?,?,?)`},
		{&s.insert.evidence, `INSERT INTO evidence (trust_domain, digest, platform, instance, denied, size, body, endorsements, event_log, at) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`},
		{&s.insert.eventLog, `INSERT INTO event_logs (trust_domain, digest, denied, body) VALUES (?,?,?,?) ON CONFLICT DO NOTHING`},
		{&s.insert.certificate, `INSERT INTO certificates (trust_domain, serial, der, at) VALUES (?,?,?,?) ON CONFLICT DO NOTHING`},
		{&s.insert.checkpoint, `INSERT INTO checkpoints (trust_domain, chain, size, note, at) VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING`},
	} {
		st, err := s.w.PrepareContext(ctx, p.text)
		if err != nil {
			return fault("database_schema", s.path, err, "restore the database from a backup")
		}
		*p.into = st
	}
	return nil
}

// Ping reports whether the database answers.
func (s *SQLite) Ping(ctx context.Context) error {
	var one int
	return s.r.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
}

// Close releases the files and, at last, the lock.
func (s *SQLite) Close() error {
	err := s.r.Close()
	if s.w != nil {
		err = errors.Join(err, s.w.Close())
	}
	return errors.Join(err, s.lock.release())
}

// errReadOnly answers writes to a database that was opened for reading.
var errReadOnly = errors.New("store: the database was opened read-only")

// write runs f in one transaction on the connection that writes.
func (s *SQLite) write(ctx context.Context, f func(tx *sql.Tx) error) error {
	if s.w == nil {
		return errReadOnly
	}
	tx, err := s.w.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: begin: %w", err)
	}
	if err := f(tx); err != nil {
		if rerr := tx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			return errors.Join(err, fmt.Errorf("store: rollback: %w", rerr))
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("store: commit: %w", err)
	}
	return nil
}
