package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// sharedDatabase is what init and join are told of the database that servers
// share, and of this server's name among them.
type sharedDatabase struct{ server, url, passwordFile string }

func (s *sharedDatabase) add(c *cobra.Command) {
	c.Flags().StringVar(&s.server, "server", ledger.MainChain, "the name of this server among those of its trust domain: 1 to 63 of a-z, 0-9 and -")
	c.Flags().StringVar(&s.url, "database", "", "the PostgreSQL database that servers share: postgres://USER@HOST/NAME?sslmode=verify-full")
	c.Flags().StringVar(&s.passwordFile, "database-password-file", "", "a file (0600) with the database's password")
}

// check refuses what the configuration that is written would be refused for.
func (s *sharedDatabase) check() error {
	if err := config.CheckServer(s.server); err != nil {
		return cli.Usagef("for example --server eu-1", "--server: %w", err)
	}
	if s.passwordFile == "" {
		return nil
	}
	if s.url == "" {
		return cli.Usagef("add --database URL", "--database-password-file without a database")
	}
	abs, err := filepath.Abs(s.passwordFile)
	s.passwordFile = abs
	return err
}

// opener opens the shared database; nil where there is none.
func (s *sharedDatabase) opener(trustDomain string, l config.Layout, log io.Writer) func(context.Context) (store.Store, error) {
	if s.url == "" {
		return nil
	}
	cfg := config.Default()
	cfg.TrustDomain, cfg.DataDir, cfg.Server = trustDomain, l.DataDir, s.server
	cfg.Database = config.Database{URL: s.url, PasswordFile: s.passwordFile}
	return func(ctx context.Context) (store.Store, error) { return openStore(ctx, &cfg, logger(&cfg, log)) }
}

// configure adds the database, and a server's name that is not the default, to the
// commented configuration that config.Starter wrote.
func (s *sharedDatabase) configure(starter []byte) []byte {
	var b bytes.Buffer
	if s.server != ledger.MainChain {
		fmt.Fprintf(&b, "# The name of this server among those of its trust domain, fixed for the life of the data directory.\nserver: %s\n\n", strconv.Quote(s.server))
	}
	if s.url != "" {
		fmt.Fprintf(&b, "# The database that the servers of the trust domain share.\ndatabase:\n  url: %s\n", strconv.Quote(s.url))
		if s.passwordFile != "" {
			fmt.Fprintf(&b, "  password_file: %s\n", strconv.Quote(s.passwordFile))
		}
		b.WriteByte('\n')
	}
	// After the paragraph of the trust domain, where one looks for it.
	at := bytes.Index(starter, []byte("\ntrust_domain: "))
	if end := bytes.Index(starter[at+1:], []byte("\n\n")); at >= 0 && end >= 0 {
		at += 1 + end + 2
		return bytes.Join([][]byte{starter[:at], b.Bytes(), starter[at:]}, nil)
	}
	return append(append(bytes.Clone(starter), '\n'), b.Bytes()...)
}
