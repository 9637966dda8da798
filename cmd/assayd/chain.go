package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// chainFile holds the name of the chain that a server writes since its database
// was restored. Without it, that is the server's name.
const chainFile = "ledger.chain"

// ledgerChain is the chain that this server writes.
func ledgerChain(dataDir, server string) (string, error) {
	path := filepath.Join(dataDir, chainFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return server, nil
	}
	text, err := cli.ReadFile(path, 256)
	if err != nil {
		return "", cli.Usagef("", "the name of the ledger's chain: %w", err)
	}
	name := strings.TrimSuffix(string(text), "\n")
	if !ledger.ValidChain(name) || ledger.ChainOwner(name) != server {
		return "", cli.Usagef("`assayd restore` and `assayd newchain` write it; the name of a server is fixed for the life of its data directory",
			"%s names the chain %.80q, which is not one of the server %s", path, name, server)
	}
	return name, nil
}

func newchainCommand() *cobra.Command {
	var flags configFlags
	var reason string
	c := &cobra.Command{
		Use:   "newchain --reason TEXT",
		Short: "Begin a new chain of the ledger, after the database was restored",
		Long: `newchain is for a database that was put back to an older state by other means
than ` + "`assayd restore`" + `: a snapshot of its disk, or pg_restore. The entries that
were written since are lost, and others have signed checkpoints over them. This
server must not sign other entries under the same numbers: it begins a new chain,
whose first entry says why and where the old one ended, and numbers the trust
bundle higher than any that was published.

The server must not run. Where several share the database, each begins its own.`,
		Example: `  assayd newchain --reason "pg_restore of last night's dump, incident 4711"
  assayd newchain --data-dir ~/assay --reason "disk snapshot of 08:00"`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if strings.TrimSpace(reason) == "" {
				return cli.Usagef("it becomes the first entry of the new chain", "--reason is empty")
			}
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			if err := notInitialised(cfg); err != nil {
				return err
			}
			log := logger(cfg, c.ErrOrStderr())
			st, err := openStore(c.Context(), cfg, log)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, st.Close()) }()
			if err := checkKind(c.Context(), cfg, st); err != nil {
				return err
			}
			ring, err := openKeys(cfg)
			if err != nil {
				return starting(err)
			}
			b := beginning{dataDir: cfg.DataDir, trustDomain: cfg.TrustDomain, server: cfg.Server, ring: ring, store: st, log: log}
			b.say = func(format string, a ...any) { cli.Warn(c.ErrOrStderr(), format, a...) }
			chain, err := b.begin(c.Context(), "NewChain", reason, time.Now())
			if err != nil {
				return starting(err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "the ledger goes on in the chain %s\n", chain)
			return err
		},
	}
	flags.add(c)
	c.Flags().StringVar(&reason, "reason", "", "why, for the ledger (required)")
	return c
}

// beginning is what a new chain begins in. The store is open for writing, and
// ours alone.
type beginning struct {
	dataDir, trustDomain, server string
	ring                         keys.Ring
	store                        store.Store
	log                          *slog.Logger
	say                          func(format string, a ...any) // to the operator, a line each
}

// tell says which keys are set aside.
func (b beginning) tell(aside []string) {
	if len(aside) == 0 {
		return
	}
	b.say("the database does not name %s: of authorities that were lost, or spares. No authority will have them; in an HSM, make new spares (docs/guides/hsm.md)", strings.Join(aside, ", "))
}

// begin begins a new chain, and numbers the bundle anew. Its first entry says
// why, and where the chain before it ends in this database. The order is: the
// name, durable; the numbers; the entry. Stopped anywhere, it can be begun again.
func (b beginning) begin(ctx context.Context, method, reason string, now time.Time) (string, error) {
	before, err := ledgerChain(b.dataDir, b.server)
	if err != nil {
		return "", err
	}
	head, err := b.store.Head(ctx, b.trustDomain, before)
	if err != nil {
		return "", err
	}
	chain := ledger.RestoredChain(b.server, now)
	if taken, err := b.store.Head(ctx, b.trustDomain, chain); err != nil || taken.Sequence > 0 {
		return "", errors.Join(err, fmt.Errorf("the chain %s was begun in this very second", chain))
	}
	restored, ok := b.store.(store.RestoredStore)
	if !ok {
		return "", fmt.Errorf("a %T cannot be restored", b.store)
	}
	signer, err := ca.CheckpointSigner(ctx, b.ring)
	if err != nil {
		return "", err
	}
	if err := keys.WriteFile(filepath.Join(b.dataDir, chainFile), []byte(chain+"\n"), 0o600, keys.Replace); err != nil {
		return "", err
	}
	// Authorities of the lost time are not in the database, and what was said of them
	// neither: that one is stolen. No new authority takes the key of one of them.
	aside, err := ca.SetAside(ctx, b.dataDir, b.ring, b.store, b.trustDomain)
	if err != nil {
		return "", err
	}
	b.tell(aside)
	if err := ca.Restored(b.dataDir, now); err != nil {
		return "", err
	}
	// Every change of the bundle counts its number up by one. Nobody changes it
	// once a second for years: the time is above whatever was published.
	if err := restored.RaiseBundleSequence(ctx, b.trustDomain, uint64(max(now.Unix(), 0))); err != nil {
		return "", err
	}
	l, err := ledger.Open(ctx, b.store, b.trustDomain, signer, ledger.Options{Chain: chain, Now: func() time.Time { return now }, Log: b.log})
	if err != nil {
		return "", err
	}
	lctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(lctx) }()
	_, err = l.RecordAction(ctx, ledger.Action{
		Actor: fmt.Sprintf("uid %d", os.Getuid()), Role: "operator", Method: method, Target: before, At: now, Outcome: "done",
		Detail: fmt.Sprintf("%s; the chain %s ends at entry %d, %x", reason, before, head.Sequence, head.Hash),
	})
	stop()
	return chain, errors.Join(err, <-ended)
}
