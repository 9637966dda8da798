package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/backup"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

const maxWitness = 256 << 20 // bytes of a file of checkpoints

func restoreCommand() *cobra.Command {
	var r restoration
	c := &cobra.Command{
		Use:   "restore FILE --data-dir DIR",
		Short: "Make a data directory from a backup",
		Long: `restore makes a data directory from what ` + "`assayd backup`" + ` wrote. It verifies every
digest, the database, and the ledger from its first entry: against the checkpoints
in the backup, those of --checkpoints, and the checkpoint sink that the server had,
if it is on this machine. DIR must be empty or missing; nothing is overwritten.
"-" reads standard input.

What the server issued after the backup is not in it, and checkpoints over that
are with others. So the restored server goes on in a new chain of the ledger, and
numbers its trust bundle higher than any before. With --moved it goes on in the old
one: say so only when the server was stopped before the backup was made, and has
not run since. restore refuses where a checkpoint shows that it has.

docs/guides/recovery.md says what else to do: what was banned, revoked, rotated
or pushed after the backup has to be done again.`,
		Example: `  assayd restore assay.tar --data-dir /var/lib/assay --checkpoints /mnt/witness/checkpoints
  age -d -i key assay.tar.age | assayd restore - --data-dir /var/lib/assay --config-dir /etc/assay`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if r.dataDir == "" {
				return cli.Usagef("for example --data-dir /var/lib/assay", "--data-dir is required")
			}
			return r.run(c, args[0])
		},
	}
	c.Flags().StringVar(&r.dataDir, "data-dir", "", "the data directory to make (required)")
	c.Flags().StringVar(&r.configDir, "config-dir", "", "also write the configuration files of the backup, into this directory")
	c.Flags().StringArrayVar(&r.checkpoints, "checkpoints", nil, "`FILE` with checkpoints that were kept elsewhere; may be repeated")
	c.Flags().BoolVar(&r.moved, "moved", false, "the server was stopped before the backup and has not run since: go on in the same chain")
	return c
}

type restoration struct {
	dataDir, configDir string
	checkpoints        []string
	moved              bool

	manifest backup.Manifest
	told     []string // what the operator should know, a line each
}

func (r *restoration) tell(format string, a ...any) {
	r.told = append(r.told, fmt.Sprintf(format, a...))
}

func (r *restoration) run(c *cobra.Command, file string) (err error) {
	dir, err := filepath.Abs(r.dataDir)
	if err != nil {
		return err
	}
	if err := emptyOrMissing(dir); err != nil {
		return err
	}
	in := c.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return cli.Usagef("", "%w", err)
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	// All is made beside the directory, and has its name when it is good.
	stage, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restoring-*") // 0700
	if err != nil {
		return cli.Usagef("the directory above it must be there", "%w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	if r.manifest, err = backup.Extract(in, stage); err != nil {
		return verdict(err)
	}
	made := filepath.Join(stage, backup.DataDir)
	if _, err := keys.MakeDir(made); err != nil {
		return starting(err)
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	if r.manifest.Database == backup.SQLite {
		if err := r.database(c.Context(), made, log); err != nil {
			return verdict(err)
		}
	} else {
		r.tell("the database is PostgreSQL's. If it was restored too, run `assayd newchain` on every server before it starts")
	}
	if err := r.configuration(filepath.Join(stage, backup.ConfigDir)); err != nil {
		return err
	}
	if err := keys.SyncDir(made); err != nil {
		return starting(err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cli.Usagef("nothing is overwritten", "%w", err) // it is not empty any more
	}
	if err := os.Rename(made, dir); err != nil {
		return cli.Usagef("check the permissions of the directory above it", "%w", err)
	}
	if err := keys.SyncDir(filepath.Dir(dir)); err != nil {
		return starting(err)
	}
	return r.print(c.OutOrStdout(), dir)
}

// verdict keeps what is wrong with a backup apart, by its exit code, from what is
// wrong on this machine.
func verdict(err error) error {
	switch attest.KindOf(err) {
	case attest.Malformed, attest.Untrusted, attest.Stale:
		return err
	case attest.Denied, attest.Unavailable, attest.Internal:
	}
	return starting(err)
}

func emptyOrMissing(dir string) error {
	all, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return cli.Usagef("name a directory that is empty or missing", "%w", err)
	case len(all) > 0:
		return cli.Usagef("name another one, or move away what is there and keep it: it may have what the backup lacks",
			"%s is not empty: nothing is overwritten", dir)
	}
	return nil
}

// database verifies the restored database, and begins a new chain in it.
func (r *restoration) database(ctx context.Context, dir string, log *slog.Logger) (err error) {
	m := r.manifest
	path := ca.DatabasePath(dir)
	if err := store.CheckSQLite(ctx, path); err != nil {
		return err
	}
	st, err := store.OpenSQLite(ctx, path) // migrates it, like a start
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, st.Close())
		if rerr := os.Remove(path + ".lock"); err == nil && rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = rerr
		}
	}()
	td, err := st.TrustDomain(ctx, m.TrustDomain)
	if err != nil {
		return contradiction("the database does not serve %s: %w", m.TrustDomain, err)
	}
	if td.Simulated != m.Simulated {
		return contradiction("the database is of a simulated trust domain: %t, the manifest says %t", td.Simulated, m.Simulated)
	}
	ring, err := keys.OpenDir(ca.KeysPath(dir))
	if err != nil {
		return err
	}
	if err := r.chains(ctx, st, ring); err != nil {
		return err
	}
	if r.moved {
		r.tell("the ledger goes on where the backup ends")
		return nil
	}
	b := beginning{dataDir: dir, trustDomain: m.TrustDomain, server: m.Server, ring: ring, store: st, log: log, say: r.tell}
	chain, err := b.begin(ctx, "Restore", "restored from the backup of "+m.CreatedAt.Format(time.RFC3339), time.Now())
	if err != nil {
		return err
	}
	r.tell("the ledger goes on in the chain %s", chain)
	return nil
}

func contradiction(format string, a ...any) error {
	return &attest.Error{Kind: attest.Malformed, Check: "backup_database", Err: fmt.Errorf(format, a...), Hint: "the archive was put together from parts that do not belong together: use another one"}
}

// chains verifies each chain of this server from its first entry, against the
// checkpoints of the backup and those that were kept elsewhere.
func (r *restoration) chains(ctx context.Context, st store.Store, ring keys.Ring) error {
	m := r.manifest
	signer, err := ca.CheckpointSigner(ctx, ring)
	if err != nil {
		return err
	}
	witnesses, err := r.witnesses()
	if err != nil {
		return err
	}
	for _, c := range m.Chains {
		key, err := ledger.NewVerifierKey(ledger.ChainName(m.TrustDomain, c.Name), signer.Public())
		if err != nil {
			return err
		}
		reader := ledger.NewReader(st, m.TrustDomain, c.Name)
		notes, err := reader.Checkpoints(ctx)
		if err != nil {
			return err
		}
		var ahead ledger.Checkpoint
		for _, note := range witnesses {
			cp, err := ledger.ParseCheckpoint(note, key)
			switch {
			case err != nil || cp.Chain != c.Name || cp.TrustDomain != m.TrustDomain:
				continue // another chain's
			case cp.Size <= c.Sequence:
				notes = append(notes, note)
			case cp.Size > ahead.Size:
				ahead = cp
			}
		}
		report, err := ledger.VerifyChain(m.TrustDomain, c.Name, reader.Entries(ctx, 0), notes, key)
		if err != nil {
			return err
		}
		if report.Entries != c.Sequence || report.Head.String() != c.Hash.String() {
			return contradiction("the chain %s ends at entry %d, %s; the manifest says %d, %s", c.Name, report.Entries, report.Head, c.Sequence, c.Hash)
		}
		r.tell("the chain %s holds: %s, %s", c.Name, cli.Count(report.Entries, "entry", "entries"), cli.Count(report.Checkpoints, "checkpoint"))
		if ahead.Size == 0 {
			continue
		}
		if r.moved {
			return &attest.Error{
				Kind: attest.Stale, Check: "sink_ahead",
				Err:  fmt.Errorf("a checkpoint of %s covers %d entries of the chain %s, the backup has %d: the server ran on after it", ahead.Time.Format(time.RFC3339), ahead.Size, c.Name, c.Sequence),
				Hint: "use a later backup, or restore without --moved",
			}
		}
		r.tell("LOST: entries %d to %d of the chain %s. A checkpoint of %s covers them", c.Sequence+1, ahead.Size, c.Name, ahead.Time.Format(time.RFC3339))
	}
	return nil
}

// witnesses reads the checkpoints that were kept elsewhere: those of the flag,
// and of the sink that the server had, if it is here.
func (r *restoration) witnesses() (notes [][]byte, err error) {
	files := r.checkpoints
	if s := r.manifest.Sink; s != "" {
		if _, err := os.Stat(s); err == nil {
			files = append(files, s)
		} else {
			r.tell("the checkpoint sink %s is not here: what was lost after the backup cannot be told", s)
		}
	}
	for _, f := range files {
		text, err := cli.ReadFile(f, maxWitness)
		if err != nil {
			return nil, cli.Usagef("", "cannot read the checkpoints: %w", err)
		}
		notes = append(notes, ledger.SplitNotes(text)...)
	}
	return notes, nil
}

// configuration writes the configuration files where they are wanted.
func (r *restoration) configuration(from string) error {
	for _, f := range r.manifest.Files {
		name, ok := strings.CutPrefix(f.Path, backup.ConfigDir+"/")
		if !ok {
			continue
		}
		if r.configDir == "" {
			r.tell("not written, for want of --config-dir: %s, which was %s", f.Path, f.Origin)
			continue
		}
		body, err := cli.ReadFile(filepath.Join(from, filepath.FromSlash(name)), maxFileSize)
		if err != nil {
			return err
		}
		to := filepath.Join(r.configDir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // what is secret has its own mode
			return cli.Usagef("check the permissions", "%w", err)
		}
		err = keys.WriteFile(to, body, f.Mode&0o644, keys.Refuse)
		switch {
		case errors.Is(err, fs.ErrExist):
			r.tell("%s was there already, and is kept", to)
		case err != nil:
			return starting(err)
		default:
			r.tell("wrote %s, which was %s", to, f.Origin)
		}
	}
	return nil
}

func (r *restoration) print(w io.Writer, dir string) error {
	m := r.manifest
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%s: trust domain %s, server %s, as of %s\n\n", dir, m.TrustDomain, m.Server, m.CreatedAt.Format(time.RFC3339))
	for _, line := range r.told {
		_, _ = fmt.Fprintf(&b, "  %s\n", cli.Escape(line))
	}
	if m.Policy != "" {
		_, _ = fmt.Fprintf(&b, "  the policy was %s: if a newer one was in force since, publish it again\n", cli.Escape(m.Policy))
	}
	_, _ = fmt.Fprint(&b, `
next:
  1. make sure that the old server does not run, and never will again
  2. do again what was done since the backup: bans, revocations, tainted authorities, policies
  3. assayd check, assayd run
`)
	_, err := io.WriteString(w, b.String())
	return err
}
