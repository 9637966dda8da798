package postgres

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

// migrations are applied in order and never changed once released; there is no
// way back (restore a backup instead). Their numbers are those of SQLite's.
//
//go:embed migrations/*.sql
var migrations embed.FS

func (s *Store) migrate(ctx context.Context) error {
	want, err := newestMigration()
	if err != nil {
		return err
	}
	// Without the lock, and so without the rights that a migration needs, where
	// there is nothing to do.
	have, err := s.schemaVersion(ctx)
	if err == nil && have == want {
		return nil
	}
	return s.withLock(ctx, lockKey("migrations"), func(ctx context.Context) error {
		have, err := s.schemaVersion(ctx)
		switch {
		case err != nil:
			return fault("database_schema", err, "is this an Assay database? give it one of its own, or restore it from a backup")
		case have > want:
			return newer(have, want)
		case have == want:
			return nil
		}
		return s.up(ctx)
	})
}

// up applies what is missing, each migration in a transaction of its own.
func (s *Store) up(ctx context.Context) error {
	sources, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(s.pool)
	p, err := goose.NewProvider(database.DialectPostgres, db, sources, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return errors.Join(fmt.Errorf("store: reading the embedded migrations: %w", err), db.Close())
	}
	done, err := p.Up(ctx)
	for _, m := range done {
		s.log.InfoContext(ctx, "database migrated", "version", m.Source.Version)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return fault("database_schema", err, "the role needs the right to create tables; restore the database from a backup, or start the version that ran before")
	}
	return nil
}

// checkSchema is migrate for a reader, who changes nothing: it wants this very
// version.
func (s *Store) checkSchema(ctx context.Context) error {
	want, err := newestMigration()
	if err != nil {
		return err
	}
	have, err := s.schemaVersion(ctx)
	switch {
	case err != nil:
		return fault("database_schema", err, "is this an Assay database?")
	case have > want:
		return newer(have, want)
	case have < want:
		return fault("database_schema", fmt.Errorf("schema version %d, this program reads %d", have, want),
			"start the matching assayd once: it migrates the database")
	}
	return nil
}

func newer(have, want int64) error {
	return fault("database_schema", fmt.Errorf("schema version %d is newer than %d, the newest that this program knows", have, want),
		"use the version that wrote it, or a later one; there is no way back but a backup")
}

// newestMigration is the schema version of this program.
func newestMigration() (int64, error) {
	files, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, f := range files {
		v, err := goose.NumericComponent(f.Name())
		if err != nil {
			return 0, fmt.Errorf("store: migration %s: %w", f.Name(), err)
		}
		newest = max(newest, v)
	}
	return newest, nil
}

// schemaVersion reads what goose recorded; 0 for an empty schema.
func (s *Store) schemaVersion(ctx context.Context) (version int64, err error) {
	err = s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		var tables int
		var ours bool
		err := c.QueryRow(ctx, `SELECT count(*), coalesce(bool_or(tablename = 'goose_db_version'), false) FROM pg_tables WHERE schemaname = current_schema()`).
			Scan(&tables, &ours)
		switch {
		case err != nil:
			return err
		case !ours && tables > 0:
			return fmt.Errorf("there are %d tables and no schema version", tables)
		case !ours:
			version = 0
			return nil
		}
		return c.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&version)
	})
	return version, err
}

// migrationTimeout bounds the wait for another server's migration, and one's own.
const migrationTimeout = 10 * time.Minute

// withLock runs f while a connection holds a lock that only one server can hold.
// The database drops it with the connection.
func (s *Store) withLock(ctx context.Context, key int64, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	c, err := s.pool.Acquire(ctx)
	if err != nil {
		return translate(ctx, err, true)
	}
	defer c.Release()
	if _, err := c.Exec(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		return translate(ctx, fmt.Errorf("store: waiting for the migration of another server: %w", err), c.Conn().IsClosed())
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		if _, err := c.Exec(ctx, `SELECT pg_advisory_unlock($1)`, key); err != nil {
			_ = c.Conn().Close(ctx)
		}
	}()
	return f(ctx)
}

// lockKey names an advisory lock. They are the database's, so that the name says
// whose: two names meet with a chance of one in 2^64, and would then only wait.
func lockKey(parts ...string) int64 {
	h := sha256.New()
	_, _ = h.Write([]byte("assay/v1 lock"))
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		_, _ = h.Write(n[:])
		_, _ = h.Write([]byte(p))
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}
