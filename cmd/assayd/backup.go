package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/backup"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

const (
	databaseName = "assay.db" // and with -wal, -shm, .lock
	maxFileSize  = 64 << 20   // bytes, of one file that is not the database
	maxFileTotal = 512 << 20
)

func backupCommand() *cobra.Command {
	var flags configFlags
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write database, keys and configuration into one file, also while the server runs",
		Long: `backup writes a tar archive (0600) of what this server cannot do without: a
snapshot of its SQLite database, its keys, the public files, the policies and the
configuration, with a manifest of digests. The server goes on meanwhile. FILE must
not exist; "-" writes to standard output.

THE ARCHIVE HOLDS PRIVATE KEYS and is not encrypted. Keys that are elsewhere (in
an HSM, or taken offline) are not in it, nor is the checkpoint sink.

Of a database in PostgreSQL it holds keys and files only: take the database with
pg_dump, before this. A tenant's data has a backup of its own, by its own
configuration.`,
		Example: `  assayd backup /var/backups/assay-$(date +%F).tar
  assayd backup - | age -r age1… > assay.tar.age
  pg_dump -Fc assay > assay.dump && assayd backup assay.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			return runBackup(c, cfg, flags.path(), args[0])
		},
	}
	flags.add(c)
	return c
}

func runBackup(c *cobra.Command, cfg *config.Config, configFile, file string) (err error) {
	if err := notInitialised(cfg); err != nil {
		return err
	}
	if file != "-" {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return cli.Usagef("name another one: nothing is overwritten", "%s is there already", file)
		}
	}
	// The snapshot lies where the archive will, in a directory of its own.
	beside := filepath.Dir(file)
	if file == "-" {
		beside = os.TempDir()
	}
	stage, err := os.MkdirTemp(beside, ".assay-backup-*") // 0700
	if err != nil {
		return cli.Usagef("the archive's directory must be there, and have room for the database twice", "%w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()

	log := logger(cfg, c.ErrOrStderr())
	m, sources, problem, err := collect(c, cfg, configFile, stage, log)
	if err != nil {
		return starting(err)
	}
	if file == "-" {
		return errors.Join(backup.Write(c.OutOrStdout(), m, sources), problem)
	}
	sum, size, err := writeArchive(file, filepath.Join(stage, "archive"), m, sources)
	if err != nil {
		return err
	}
	what := "keys and files; the database is PostgreSQL's: take it with pg_dump"
	if m.Database == backup.SQLite {
		what = "database, keys and files"
		for _, ch := range m.Chains {
			what += fmt.Sprintf("; the chain %s up to entry %d", ch.Name, ch.Sequence)
		}
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s, %s\n  SHA-256  %x\n  holds    %s\n", file, cli.Count(len(sources), "file"), cli.Count(int(size), "byte"), sum, what)
	return errors.Join(err, problem)
}

// writeArchive writes the archive under a temporary name, and gives it its own
// when it is durable. Nothing is replaced.
func writeArchive(file, temp string, m backup.Manifest, sources []backup.Source) (sum []byte, size int64, err error) {
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, 0, cli.Usagef("check the directory's permissions", "%w", err)
	}
	h := sha256.New()
	err = backup.Write(io.MultiWriter(f, h), m, sources)
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(temp, file) // fails where the name is taken
	}
	if err != nil {
		return nil, 0, cli.Usagef("check the disk's free space and the directory's permissions", "the archive cannot be written: %w", err)
	}
	return h.Sum(nil), size, keys.SyncDir(filepath.Dir(file))
}

// collect gathers what is archived. problem is that a server would not start
// from it: the archive is worth having all the same.
//
// The order: files, then the snapshot, then files again. A key, or a policy that
// was pushed, is durable before the database names it, so that the second look
// sees all that the snapshot names; and what is replaced meanwhile, the first saw.
func collect(c *cobra.Command, cfg *config.Config, configFile, stage string, log *slog.Logger) (m backup.Manifest, sources []backup.Source, problem, err error) {
	ctx := c.Context()
	warned := map[string]bool{}
	warn := func(format string, a ...any) {
		if text := fmt.Sprintf(format, a...); !warned[text] {
			warned[text] = true
			cli.Warn(c.ErrOrStderr(), "%s", text)
		}
	}
	m = backup.Manifest{
		CreatedAt: time.Now().UTC().Truncate(time.Second), Version: cli.Version(), TrustDomain: cfg.TrustDomain, Simulated: cfg.Simulated(),
		Server: cfg.Server, Database: backup.SQLite, Sink: cfg.CheckpointSink,
	}
	before, err := dataFiles(cfg, warn)
	if err != nil {
		return m, nil, nil, err
	}
	if cfg.Database.URL != "" {
		m.Database = backup.PostgreSQL
	} else {
		snapshot := filepath.Join(stage, databaseName)
		if err := store.SnapshotSQLite(ctx, ca.DatabasePath(cfg.DataDir), snapshot); err != nil {
			return m, nil, nil, err
		}
		if problem, err = describeSnapshot(ctx, cfg, snapshot, &m, log); err != nil {
			return m, nil, nil, err
		}
		sources = append(sources, backup.Source{Path: path.Join(backup.DataDir, databaseName), Mode: 0o600, From: snapshot})
	}
	after, err := dataFiles(cfg, warn)
	if err != nil {
		return m, nil, nil, err
	}
	for name, s := range before {
		if _, ok := after[name]; !ok {
			after[name] = s
		}
	}
	elsewhere, name, err := configFiles(cfg, configFile, warn)
	if err != nil {
		return m, nil, nil, err
	}
	m.Config = name
	for _, s := range after {
		sources = append(sources, s)
	}
	if n := len(cfg.Tenants); n > 0 {
		warn("the %s of this process: back up each by its own configuration", cli.Count(n, "tenant"))
	}
	return m, append(sources, elsewhere...), problem, nil
}

// describeSnapshot says in the manifest what the snapshot holds, and whether a
// server would start from it. It opens the snapshot by the rules of the program
// that will.
func describeSnapshot(ctx context.Context, cfg *config.Config, snapshot string, m *backup.Manifest, log *slog.Logger) (problem, err error) {
	st, err := store.OpenSQLiteReadOnly(ctx, snapshot)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := checkKind(ctx, cfg, st); err != nil {
		return nil, err
	}
	chains, err := st.Chains(ctx, cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	for _, name := range chains {
		h, err := st.Head(ctx, cfg.TrustDomain, name)
		if err != nil {
			return nil, err
		}
		m.Chains = append(m.Chains, backup.Chain{Name: name, Sequence: h.Sequence, Hash: h.Hash[:]})
	}
	changes, err := st.PolicyChanges(ctx, cfg.TrustDomain, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 1})
	if err != nil {
		return nil, err
	}
	for _, p := range changes {
		m.Policy = fmt.Sprintf("%s@%d", p.Name, p.Revision)
	}
	ring, err := openKeys(cfg)
	if err != nil {
		return nil, err
	}
	problem = errors.Join(ca.Check(ctx, caConfig(cfg, ring, st, nil, log)), checkSnapshotLedger(ctx, cfg, ring, st, log))
	if problem != nil {
		problem = &cli.UsageError{Err: fmt.Errorf("the archive is written, but a server would not start from it as it is: %w", problem), Hint: cli.Hint(problem)}
	}
	return problem, nil
}

func checkSnapshotLedger(ctx context.Context, cfg *config.Config, ring keys.Ring, st store.Store, log *slog.Logger) error {
	signer, err := ca.CheckpointSigner(ctx, ring)
	if err != nil {
		return err
	}
	options, err := ledgerOptions(cfg, log)
	if err != nil {
		return err
	}
	options.Sink = "" // it may be ahead of a snapshot by what was signed since
	return ledger.Check(ctx, st, cfg.TrustDomain, signer, options)
}

// dataFiles reads the files of the data directory, by their name in it, without
// the database, what is being written, sockets and the checkpoint sink.
func dataFiles(cfg *config.Config, warn func(string, ...any)) (map[string]backup.Source, error) {
	sink, _ := filepath.Abs(cfg.CheckpointSink)
	out := map[string]backup.Source{}
	total := int64(0)
	err := filepath.WalkDir(cfg.DataDir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(cfg.DataDir, p)
		if err != nil || rel == "." {
			return err
		}
		abs, _ := filepath.Abs(p)
		name := d.Name()
		switch {
		case d.IsDir() && holdsTrustDomain(p):
			warn("%s holds a trust domain of its own, and is left out: back it up by its own configuration", p)
			return fs.SkipDir
		case d.IsDir():
			return nil
		case strings.HasPrefix(name, "."), strings.HasPrefix(rel, databaseName), abs == sink:
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			warn("%s is a symbolic link, and is left out", p)
			return nil
		case !d.Type().IsRegular():
			return nil // the admin socket
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		body, err := cli.ReadFile(p, maxFileSize)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if total += int64(len(body)); total > maxFileTotal {
			return cli.Usagef("move what is not assayd's out of it", "%s holds more than %d MiB beside the database", cfg.DataDir, maxFileTotal>>20)
		}
		out[rel] = backup.Source{Path: path.Join(backup.DataDir, filepath.ToSlash(rel)), Mode: info.Mode().Perm(), Body: body}
		return nil
	})
	return out, err
}

func holdsTrustDomain(dir string) bool {
	for _, name := range []string{databaseName, "checkpoint.pub"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// configFiles reads the configuration and the files that it names, where they
// are not in the data directory, and says which of all is the configuration. The
// key of an upstream CA and of the web's PKI are others' to keep.
func configFiles(cfg *config.Config, configFile string, warn func(string, ...any)) (out []backup.Source, name string, err error) {
	abs, err := filepath.Abs(configFile)
	if err != nil {
		return nil, "", err
	}
	files := []string{
		abs, cfg.Policy, cfg.Nitro.SimulatedRoot, cfg.SEVSNP.SimulatedRoots, cfg.TPM.SimulatedRoot,
		cfg.Authorities.Upstream.Certificate, cfg.Web.Certificate, cfg.Administration.Bundle, cfg.Database.PasswordFile,
	}
	files = append(files, cfg.PolicySigners.Keys...)
	var seen, taken []string
	for i, p := range files {
		if p == "" || slices.Contains(seen, p) {
			continue
		}
		seen = append(seen, p)
		if rel, err := filepath.Rel(cfg.DataDir, p); err == nil && filepath.IsLocal(rel) {
			if i == 0 {
				name = path.Join(backup.DataDir, filepath.ToSlash(rel))
			}
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			warn("%s, which the configuration names, is left out: %v", p, err)
			continue
		}
		body, err := cli.ReadFile(p, maxFileSize)
		if err != nil {
			return nil, "", err
		}
		as := filepath.Base(p)
		for n := 2; slices.Contains(taken, as); n++ {
			as = fmt.Sprintf("%d-%s", n, filepath.Base(p))
		}
		taken = append(taken, as)
		s := backup.Source{Path: path.Join(backup.ConfigDir, as), Mode: info.Mode().Perm(), Body: body, Origin: p}
		if i == 0 {
			name = s.Path
		}
		out = append(out, s)
	}
	return out, name, nil
}
