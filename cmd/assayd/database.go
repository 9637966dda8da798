package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
)

// openStore opens the database of the configuration for the one process that may
// work on this data directory, and migrates it. The caller closes it. Whoever
// shares a PostgreSQL has a data directory of its own all the same, with its keys:
// so that is locked too.
func openStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (store.Store, error) {
	if cfg.Database.URL == "" {
		st, err := store.OpenSQLite(ctx, ca.DatabasePath(cfg.DataDir))
		if err != nil {
			return nil, starting(err) // not st: a nil pointer in an interface is not nil
		}
		return st, nil
	}
	lock, err := store.LockDataDir(dataDirLock(cfg))
	if err != nil {
		return nil, starting(err)
	}
	st, err := postgres.Open(ctx, postgresConfig(cfg, log))
	if err != nil {
		return nil, starting(errors.Join(explainDatabase(err), lock.Release()))
	}
	return &sharedStore{st, lock}, nil
}

// awaitStore is openStore for a server that starts: a database that is elsewhere may
// start at the same time, or be taking over.
func awaitStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (store.Store, error) {
	const patience, every = time.Minute, time.Second
	for began := time.Now(); ; {
		st, err := openStore(ctx, cfg, log)
		if err == nil || attest.KindOf(err) != attest.Unavailable || time.Since(began) > patience {
			return st, err
		}
		log.WarnContext(ctx, "waiting for the database", "error", err)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(every):
		}
	}
}

// openStoreReadOnly opens the database for looking, also while servers run on it.
func openStoreReadOnly(ctx context.Context, cfg *config.Config, log *slog.Logger) (store.Store, error) {
	if cfg.Database.URL == "" {
		st, err := store.OpenSQLiteReadOnly(ctx, ca.DatabasePath(cfg.DataDir))
		if err != nil {
			return nil, starting(err)
		}
		return st, nil
	}
	st, err := postgres.OpenReadOnly(ctx, postgresConfig(cfg, log))
	if err != nil {
		return nil, starting(explainDatabase(err))
	}
	return st, nil
}

// dataDirLock is the lock of a data directory without a database in it: the one
// that SQLite's would have.
func dataDirLock(cfg *config.Config) string { return ca.DatabasePath(cfg.DataDir) + ".lock" }

func postgresConfig(cfg *config.Config, log *slog.Logger) postgres.Config {
	return postgres.Config{ConnString: cfg.Database.URL, PasswordFile: cfg.Database.PasswordFile, Log: log}
}

// explainDatabase says which key of the configuration an error is about.
func explainDatabase(err error) error {
	if attest.KindOf(err) == attest.Unavailable {
		return fmt.Errorf("database.url: %w", err)
	}
	return &cli.UsageError{Err: fmt.Errorf("database.url: %w", err), Hint: cli.Hint(err)}
}

// sharedStore is a database that other servers write too, with the lock on what is
// this server's alone.
type sharedStore struct {
	*postgres.Store
	lock *store.DataDirLock
}

// Close closes the database, and lets go of the data directory at last.
func (s *sharedStore) Close() error { return errors.Join(s.Store.Close(), s.lock.Release()) }

// notInitialised says that init was never run here, if so.
func notInitialised(cfg *config.Config) error {
	what, file := "no database", ca.DatabasePath(cfg.DataDir)
	if cfg.Database.URL != "" {
		what, file = "no keys", ca.KeysPath(cfg.DataDir)
	}
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		hint := "run `assayd init --trust-domain " + cfg.TrustDomain + "` first, or mend data_dir"
		if cfg.Database.URL != "" {
			hint = "run `assayd init` for the first server of a trust domain and `assayd join` for every other, or mend data_dir"
		}
		return cli.Usagef(hint, "%s holds %s", filepath.Clean(cfg.DataDir), what)
	}
	return nil
}
