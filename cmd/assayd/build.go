package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// starting makes an error of the start-up a mistake in the configuration: the
// operator can mend what is on this machine.
func starting(err error) error {
	var (
		usage *cli.UsageError
		yaml  strictyaml.Errors
		ae    *attest.Error
	)
	switch {
	case err == nil, errors.As(err, &usage), errors.As(err, &yaml), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &ae):
		return &cli.UsageError{Err: err, Hint: ae.Hint}
	}
	return &cli.UsageError{Err: err}
}

// data is what the server keeps on disk, open.
type data struct {
	store  *store.SQLite
	ledger *ledger.Ledger
	ca     *ca.CA
}

// notInitialised says that init was never run here, if so.
func notInitialised(cfg *config.Config) error {
	if _, err := os.Stat(ca.DatabasePath(cfg.DataDir)); errors.Is(err, fs.ErrNotExist) {
		return cli.Usagef("run `assayd init --trust-domain "+cfg.TrustDomain+"` first, or mend data_dir", "%s holds no database", cfg.DataDir)
	}
	return nil
}

// openData opens database, keys, ledger and CA. The caller closes the store.
func openData(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *data, err error) {
	if err := notInitialised(cfg); err != nil {
		return nil, err
	}
	st, err := store.OpenSQLite(ctx, ca.DatabasePath(cfg.DataDir))
	if err != nil {
		return nil, starting(err)
	}
	defer func() {
		if err != nil {
			err = starting(errors.Join(err, st.Close()))
		}
	}()
	if err := checkKind(ctx, cfg, st); err != nil {
		return nil, err
	}
	ring, err := keys.OpenDir(ca.KeysPath(cfg.DataDir))
	if err != nil {
		return nil, err
	}
	signer, err := ca.CheckpointSigner(ctx, ring)
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, st, cfg.TrustDomain, signer, ledgerOptions(cfg, log))
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(ctx, caConfig(cfg, ring, st, l, log))
	if err != nil {
		return nil, err
	}
	return &data{store: st, ledger: l, ca: authority}, nil
}

func quotas(cfg *config.Config) ledger.Quotas {
	q := cfg.Quotas
	return ledger.Quotas{
		DenialsPerInstance: q.DenialsPerInstance, DenialsPerHour: q.DenialsPerHour, Denials: q.Denials,
		EvidencePerInstance: q.EvidencePerInstance, EvidenceBytes: int64(q.EvidenceMiB) << 20, DeniedEvidenceBytes: int64(q.DeniedEvidenceMiB) << 20,
	}
}

// checkKind compares the trust domain and its kind with the database's: both
// are fixed for life.
func checkKind(ctx context.Context, cfg *config.Config, st *store.SQLite) error {
	tds, err := st.TrustDomains(ctx)
	if err != nil {
		return starting(err)
	}
	for _, td := range tds {
		if td.Name != cfg.TrustDomain {
			continue
		}
		if td.Simulated != cfg.Simulated() {
			return cli.Usagef("use another data_dir", "%s was made for a trust domain of another kind (simulated: %t)", cfg.DataDir, td.Simulated)
		}
		return nil
	}
	var names []string
	for _, td := range tds {
		names = append(names, td.Name)
	}
	return cli.Usagef("the trust domain of a data directory is fixed for life: mend trust_domain or data_dir", "%s was made for trust domain %v, not %s", cfg.DataDir, names, cfg.TrustDomain)
}

// checkData looks at the data without changing anything, also while a server
// runs on it.
func checkData(ctx context.Context, cfg *config.Config, policy *issuer.PolicyFile, log *slog.Logger) (err error) {
	if err := notInitialised(cfg); err != nil {
		return err
	}
	st, err := store.OpenSQLiteReadOnly(ctx, ca.DatabasePath(cfg.DataDir))
	if err != nil {
		return starting(err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := checkKind(ctx, cfg, st); err != nil {
		return err
	}
	ring, err := keys.OpenDir(ca.KeysPath(cfg.DataDir))
	if err != nil {
		return starting(err)
	}
	// Everything that `run` would refuse, each by the code that `run` uses.
	return starting(errors.Join(
		ca.Check(ctx, caConfig(cfg, ring, st, nil, log)),
		checkLedger(ctx, cfg, ring, st, log),
		policy.Resume(ctx, st),
	))
}

// checkLedger is the ledger's part, where its key can be read; where it cannot,
// ca.Check says so.
func checkLedger(ctx context.Context, cfg *config.Config, ring keys.Ring, st *store.SQLite, log *slog.Logger) error {
	signer, err := ca.CheckpointSigner(ctx, ring)
	if err != nil {
		return nil //nolint:nilerr // ca.Check reports it
	}
	return ledger.Check(ctx, st, cfg.TrustDomain, signer, ledgerOptions(cfg, log))
}

func ledgerOptions(cfg *config.Config, log *slog.Logger) ledger.Options {
	return ledger.Options{Now: time.Now, Log: log, Sink: cfg.CheckpointSink, Retain: cfg.RetainEvidence, Quotas: quotas(cfg)}
}

func caConfig(cfg *config.Config, ring keys.Ring, st *store.SQLite, results ca.ResultKeeper, log *slog.Logger) ca.Config {
	return ca.Config{
		TrustDomain: cfg.TrustDomain, Simulated: cfg.Simulated(), DataDir: cfg.DataDir,
		Keys: ring, Store: st, Results: results, Now: time.Now, Log: log,
	}
}

// logger is the log that the configuration asks for.
func logger(cfg *config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		level = slog.LevelInfo // validated before
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// describe is the first line of the log: what this server is.
func describe(cfg *config.Config) string {
	if cfg.Simulated() {
		return fmt.Sprintf("SIMULATED trust domain %s: its identities stand for no hardware", cfg.TrustDomain)
	}
	return "trust domain " + cfg.TrustDomain
}
