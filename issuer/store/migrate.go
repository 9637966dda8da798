package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// migrations are applied in order and never changed once released; there is no
// way back (restore a backup instead).
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema to this program's version. A newer one is refused
// before anything is touched.
func migrate(ctx context.Context, db *sql.DB, path string) error {
	sources, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sources, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("store: reading the embedded migrations: %w", err)
	}
	want := latest(p)
	have, err := schemaVersion(ctx, db)
	if err != nil {
		return fault("database_schema", path, err, "is this file an Assay database? restore it from a backup")
	}
	if have > want {
		return newer(path, have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		return fault("database_schema", path, err, "restore the database from a backup, or start the version that ran before")
	}
	return nil
}

// checkSchema is migrate for a reader, who changes nothing: it wants this very
// version.
func checkSchema(ctx context.Context, db *sql.DB, path string) error {
	sources, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sources, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("store: reading the embedded migrations: %w", err)
	}
	want := latest(p)
	have, err := schemaVersion(ctx, db)
	switch {
	case err != nil:
		return fault("database_schema", path, err, "is this file an Assay database?")
	case have > want:
		return newer(path, have, want)
	case have < want:
		return fault("database_schema", path, fmt.Errorf("schema version %d, this program reads %d", have, want),
			"start the matching assayd once: it migrates the database")
	}
	return nil
}

func newer(path string, have, want int64) error {
	return fault("database_schema", path, fmt.Errorf("schema version %d is newer than %d, the newest that this program knows", have, want),
		"use the version that wrote it, or a later one; there is no way back but a backup")
}

func latest(p *goose.Provider) int64 {
	var v int64
	for _, s := range p.ListSources() {
		v = max(v, s.Version)
	}
	return v
}

// schemaVersion reads what goose recorded; 0 for an empty database.
func schemaVersion(ctx context.Context, db *sql.DB) (int64, error) {
	var tables int
	const find = `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'`
	if err := db.QueryRowContext(ctx, find).Scan(&tables); err != nil {
		return 0, err
	}
	if tables == 0 {
		var others int
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table'`).Scan(&others); err != nil {
			return 0, err
		}
		if others > 0 {
			return 0, fmt.Errorf("there are %d tables and no schema version", others)
		}
		return 0, nil
	}
	var v sql.NullInt64
	if err := db.QueryRowContext(ctx, `SELECT max(version_id) FROM goose_db_version WHERE is_applied`).Scan(&v); err != nil {
		return 0, err
	}
	return v.Int64, nil
}
