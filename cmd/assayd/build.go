package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
// operator can mend what is on this machine. What is elsewhere and does not answer
// is no mistake.
func starting(err error) error {
	var (
		usage *cli.UsageError
		yaml  strictyaml.Errors
		ae    *attest.Error
	)
	switch {
	case err == nil, errors.As(err, &usage), errors.As(err, &yaml), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &ae) && ae.Kind == attest.Unavailable:
		return err // nothing here is wrong: a database or a signer is away, and a supervisor tries again
	case errors.Is(err, store.ErrUnavailable): // it was there, and has gone since: likewise
		return &attest.Error{Kind: attest.Unavailable, Check: "database", Err: err}
	case errors.As(err, &ae):
		return &cli.UsageError{Err: err, Hint: ae.Hint}
	}
	return &cli.UsageError{Err: err}
}

// data is what the server keeps on disk, open.
type data struct {
	store  store.Store
	ledger *ledger.Ledger
	ca     *ca.CA
	signer crypto.Signer // the checkpoint key
}

// openData opens database, keys, ledger and CA. The caller closes the store.
func openData(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *data, err error) {
	if err := notInitialised(cfg); err != nil {
		return nil, err
	}
	st, err := awaitStore(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = starting(errors.Join(err, st.Close()))
		}
	}()
	if err := checkKind(ctx, cfg, st); err != nil {
		return nil, err
	}
	ring, err := openKeys(cfg)
	if err != nil {
		return nil, err
	}
	if err := adoptKeys(cfg, log); err != nil {
		return nil, err
	}
	signer, err := ca.CheckpointSigner(ctx, ring)
	if err != nil {
		return nil, err
	}
	options, err := ledgerOptions(cfg, log)
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, st, cfg.TrustDomain, signer, options)
	if err != nil {
		return nil, err
	}
	settings := caConfig(cfg, ring, st, l, log)
	if settings.Upstream, err = openUpstream(cfg); err != nil {
		return nil, err
	}
	authority, err := ca.Open(ctx, settings)
	if err != nil {
		return nil, err
	}
	d := &data{store: st, ledger: l, ca: authority, signer: signer}
	l.FollowPeers(d.members)
	return d, nil
}

// members are the checkpoint keys of the trust domain's servers, by name.
func (d *data) members() map[string]ed25519.PublicKey {
	out := map[string]ed25519.PublicKey{}
	for _, m := range d.ca.Members() {
		out[m.Name] = m.Key
	}
	return out
}

// peers is how the policy in force is shared between servers. A database of one
// server's own is shared with nobody.
func (d *data) peers(cfg *config.Config) issuer.PolicyPeers {
	return issuer.PolicyPeers{Server: cfg.Server, Signer: d.signer, Keys: d.members}
}

// events follows what other servers change; nothing where there cannot be any.
func (d *data) events(cfg *config.Config, log *slog.Logger) *issuer.Events {
	source, _ := d.store.(store.Watcher) // an SQLite file is one server's alone
	return issuer.NewEvents(source, cfg.TrustDomain, log, time.Now)
}

// checkKind compares the trust domain and its kind with the database's: both
// are fixed for life.
func checkKind(ctx context.Context, cfg *config.Config, st store.Store) error {
	tds, err := st.TrustDomains(ctx)
	if err != nil {
		return starting(err)
	}
	for _, td := range tds {
		if td.Name != cfg.TrustDomain {
			continue
		}
		if td.Simulated != cfg.Simulated() {
			return cli.Usagef("use another data_dir or database", "%s was made for a trust domain of another kind (simulated: %t)", databaseOf(cfg), td.Simulated)
		}
		return nil
	}
	var names []string
	for _, td := range tds {
		names = append(names, td.Name)
	}
	hint := "the trust domain of a data directory is fixed for life: mend trust_domain or data_dir"
	if cfg.Database.URL != "" {
		hint = "run `assayd init` for the first server of a trust domain, or mend trust_domain or database.url"
	}
	return cli.Usagef(hint, "%s was made for trust domain %v, not %s", databaseOf(cfg), names, cfg.TrustDomain)
}

// databaseOf names what holds the trust domain, without a password.
func databaseOf(cfg *config.Config) string {
	if cfg.Database.URL != "" {
		return "the database of database.url"
	}
	return cfg.DataDir
}

// checkData looks at the data without changing anything, also while a server
// runs on it.
func checkData(ctx context.Context, cfg *config.Config, policy *issuer.PolicyFile, log *slog.Logger) (err error) {
	if err := notInitialised(cfg); err != nil {
		return err
	}
	st, err := openStoreReadOnly(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := checkKind(ctx, cfg, st); err != nil {
		return err
	}
	ring, err := openKeys(cfg)
	if err != nil {
		return starting(err)
	}
	settings := caConfig(cfg, ring, st, nil, log)
	if settings.Upstream, err = openUpstream(cfg); err != nil {
		return err
	}
	// Everything that `run` would refuse, each by the code that `run` uses.
	return starting(errors.Join(
		checkKeys(ctx, ring),
		ca.Check(ctx, settings),
		checkLedger(ctx, cfg, ring, st, log),
		policy.Resume(ctx, st),
		checkWeb(cfg, log),
	))
}

// checkLedger is the ledger's part, where its key can be read; where it cannot,
// ca.Check says so.
func checkLedger(ctx context.Context, cfg *config.Config, ring keys.Ring, st store.Store, log *slog.Logger) error {
	signer, err := ca.CheckpointSigner(ctx, ring)
	if err != nil {
		return nil //nolint:nilerr // ca.Check reports it
	}
	options, err := ledgerOptions(cfg, log)
	if err != nil {
		return err
	}
	return ledger.Check(ctx, st, cfg.TrustDomain, signer, options)
}

func ledgerOptions(cfg *config.Config, log *slog.Logger) (ledger.Options, error) {
	chain, err := ledgerChain(cfg.DataDir, cfg.Server)
	return ledger.Options{Chain: chain, Now: time.Now, Log: log, Sink: cfg.CheckpointSink, Retain: cfg.RetainEvidence, Quotas: issuer.LedgerQuotas(cfg.Quotas)}, err
}

func caConfig(cfg *config.Config, ring keys.Ring, st store.Store, results ca.ResultKeeper, log *slog.Logger) ca.Config {
	return ca.Config{
		TrustDomain: cfg.TrustDomain, Simulated: cfg.Simulated(), Chain: cfg.Server, DataDir: cfg.DataDir,
		Keys: ring, Store: st, Results: results, Now: time.Now, Log: log,
		AuthorityTTL: cfg.Authorities.X509TTL, JWTTTL: cfg.Authorities.JWTTTL, VerifierKeyTTL: cfg.Authorities.VerifierTTL,
		Propagation: cfg.Authorities.Propagation, RefreshHint: cfg.Authorities.RefreshHint,
		MaxTokenTTL: cfg.JWT.MaxTTL, NameConstraints: cfg.Authorities.NameConstraints,
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
