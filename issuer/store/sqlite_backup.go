package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
)

// SnapshotSQLite writes a copy of the database at one moment into a new file,
// mode 0600, while a server works on it or not. Neither waits for the other; the
// server's log grows meanwhile. The copy is durable when it returns.
func SnapshotSQLite(ctx context.Context, path, into string) (err error) {
	if err := checkFile(path); err != nil {
		return err
	}
	// VACUUM INTO is one statement in one read transaction. query_only would
	// forbid it, so the connection is read-only by its mode.
	db, err := connect(ctx, path, "ro")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if err := touch(into); err != nil { // the mode before the content; SQLite takes an empty file
		return err
	}
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, into); err != nil {
		return fault("database_snapshot", path, err, "check the free space where the backup is written")
	}
	f, err := os.OpenFile(into, os.O_RDWR, 0)
	if err != nil {
		return fault("database_snapshot", into, err, "")
	}
	return errors.Join(f.Sync(), f.Close())
}

// CheckSQLite reads a whole database file and reports damage. Nobody else may
// write it meanwhile.
func CheckSQLite(ctx context.Context, path string) (err error) {
	if err := checkFile(path); err != nil {
		return err
	}
	db, err := connect(ctx, path, "ro", "query_only(1)")
	if err != nil {
		return fault("database_damaged", path, err, "restore another backup")
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := query(ctx, db, `PRAGMA integrity_check(5)`, nil, func(scan func(...any) error) (s string, err error) { return s, scan(&s) })
	if err != nil {
		return fault("database_damaged", path, err, "restore another backup")
	}
	if len(rows) != 1 || rows[0] != "ok" {
		return fault("database_damaged", path, fmt.Errorf("%q", rows), "restore another backup")
	}
	return nil
}

// RaiseBundleSequence implements [RestoredStore].
func (s *SQLite) RaiseBundleSequence(ctx context.Context, trustDomain string, atLeast uint64) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `UPDATE trust_domains SET bundle_sequence = ? WHERE trust_domain = ? AND bundle_sequence < ?`,
			int64(atLeast), trustDomain, int64(atLeast))
		if err != nil {
			return fmt.Errorf("store: bundle sequence: %w", err)
		}
		if n, err := r.RowsAffected(); err != nil || n > 0 {
			return err
		}
		var one int
		err = tx.QueryRowContext(ctx, `SELECT 1 FROM trust_domains WHERE trust_domain = ?`, trustDomain).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("trust domain %s: %w", trustDomain, ErrNotFound)
		}
		return err
	})
}
