package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/keys"
)

// joining is what `assayd join` is told.
type joining struct {
	from, dataDir string
	copyRootKeys  bool
	shared        sharedDatabase
	simulators    simulatorRoots
}

func joinCommand() *cobra.Command {
	var j joining
	c := &cobra.Command{
		Use:   "join --server NAME --from DIR --database URL",
		Short: "Make another server of a trust domain, on the database that they share",
		Long: `join makes a server of a trust domain that others serve already. It needs the
files of the roots and the bootstrap root's key: in the data directory of another
server, or in a directory that was taken offline. With that key it endorses the new
server's own keys; without such an endorsement nobody believes what a server writes
into the database. The key is used once, and kept only with --copy-root-keys.

Where the configuration is there already, it is used; it must name the server and
the database. Otherwise one is written, with the policy of DIR if there is one.

The new server starts with ` + "`assayd run`" + `. It is not ready before its authorities have
been published for the propagation time.`,
		Example: `  assayd join --server eu-2 --from /media/roots --database 'postgres://assay@db.example.org/assay?sslmode=verify-full'
  assayd join --server b --from ~/a --data-dir ~/b --database 'postgres://localhost/assay' --simulated-root root.pem`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return j.run(c) },
	}
	c.Flags().StringVar(&j.from, "from", "", "directory with the roots' files and the bootstrap root's key (required)")
	c.Flags().StringVar(&j.dataDir, "data-dir", "", "keep everything in this directory, for one who is not root")
	c.Flags().BoolVar(&j.copyRootKeys, "copy-root-keys", false, "keep the roots' keys that DIR holds, so that this server renews what they sign")
	j.shared.add(c)
	j.simulators.add(c)
	return c
}

func (j *joining) run(c *cobra.Command) error {
	switch {
	case j.from == "":
		return cli.Usagef("the data directory of another server, or a copy of its roots' files", "--from is missing")
	case !c.Flags().Changed("server"):
		return cli.Usagef("for example --server eu-2", "--server is missing: every server has a name of its own")
	}
	if err := j.shared.check(); err != nil {
		return err
	}
	trustDomain, simulated, err := ca.TrustDomainOf(j.from)
	if err != nil {
		return starting(err)
	}
	layout, written, err := j.layout(trustDomain)
	if err != nil {
		return err
	}
	if j.shared.url == "" {
		return cli.Usagef("add --database URL: one server alone keeps its database in its data directory", "--database is missing")
	}
	if !written && simulated != layout.Simulated() {
		return cli.Usagef("as for `assayd init`: --simulated-root FILE, --simulated-snp-roots FILE or --simulated-tpm-root FILE, and only for simulated hardware", "trust domain %s, of simulated hardware: %t", trustDomain, simulated)
	}
	if err := os.MkdirAll(filepath.Dir(layout.DataDir), 0o755); err != nil { //nolint:gosec // the data directory itself is 0700
		return cli.Usagef("use --data-dir DIR for a directory of your own", "%w", err)
	}
	report, err := ca.Join(c.Context(), ca.JoinConfig{
		DataDir: layout.DataDir, From: j.from, Server: j.shared.server, CopyRootKeys: j.copyRootKeys,
		Open: j.shared.opener(trustDomain, layout, c.ErrOrStderr()), Now: time.Now,
	})
	if err != nil {
		return starting(err)
	}
	if err := j.rollouts(layout.DataDir); err != nil {
		return err
	}
	if !written {
		if err := j.configure(trustDomain, layout); err != nil {
			return err
		}
	}
	j.tell(c, layout, report)
	return nil
}

// layout says where things are, and whether there is a configuration already. What
// that says of server and database, the flags need not repeat and must not
// contradict.
func (j *joining) layout(trustDomain string) (l config.Layout, written bool, err error) {
	l = config.SystemLayout()
	if j.dataDir != "" {
		abs, err := filepath.Abs(j.dataDir)
		if err != nil {
			return l, false, err
		}
		l = config.LayoutIn(abs)
	}
	if _, err := os.Lstat(l.File); errors.Is(err, fs.ErrNotExist) {
		return l, false, j.simulators.place(&l)
	}
	cfg, err := config.Load(l.File)
	if err != nil {
		return l, true, err
	}
	contradicts := func(key, says, flag string) (config.Layout, bool, error) {
		return l, true, cli.Usagef("mend "+key+" in the configuration, or the flag", "%s says %s %q, and the command %q", l.File, key, says, flag)
	}
	switch {
	case cfg.TrustDomain != trustDomain:
		return contradicts("trust_domain", cfg.TrustDomain, trustDomain)
	case cfg.Server != j.shared.server:
		return contradicts("server", cfg.Server, j.shared.server)
	case j.shared.url != "" && j.shared.url != cfg.Database.URL:
		return l, true, cli.Usagef("leave --database away, or mend database.url", "%s names another database.url than --database", l.File) // they may hold passwords
	}
	j.shared.url, j.shared.passwordFile, l.DataDir = cfg.Database.URL, cfg.Database.PasswordFile, cfg.DataDir
	return l, true, nil
}

// configure writes policy and configuration. The policy of the other server is
// taken where it is beside the roots: servers of one trust domain have one policy.
func (j *joining) configure(trustDomain string, l config.Layout) error {
	policy := config.StarterPolicy(trustDomain, l.Simulated())
	if theirs, err := cli.ReadFile(filepath.Join(j.from, filepath.Base(l.Policy)), maxJoinedPolicy); err == nil {
		policy = theirs
	} else if !errors.Is(err, fs.ErrNotExist) {
		return cli.Usagef("", "cannot read the policy: %w", err)
	}
	if _, err := write(l.Policy, policy); err != nil {
		return err
	}
	_, err := write(l.File, j.shared.configure(config.Starter(trustDomain, l)))
	return err
}

// maxJoinedPolicy bounds the policy that is copied, in bytes.
const maxJoinedPolicy = 4 << 20

// rollouts copies the secret of rollouts, by which every server must draw the same
// share of the hardware.
func (j *joining) rollouts(dataDir string) error {
	secret, err := cli.ReadFile(filepath.Join(j.from, rolloutFile), 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cli.Usagef("", "the secret of rollouts: %w", err)
	}
	err = keys.WriteFile(filepath.Join(dataDir, rolloutFile), secret, 0o600, keys.Refuse)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return starting(err)
	}
	return nil
}

func (j *joining) tell(c *cobra.Command, l config.Layout, r ca.JoinReport) {
	command := func(s string) string { return strings.TrimSpace("assayd " + s + " " + where(l)) }
	what := "is a server of"
	if r.Existed {
		what = "was a server already of"
	}
	kept := "the roots' keys were used, and are not kept: bring the bootstrap root's key to renew the server's\n     TLS certificate (7 days), or join with --copy-root-keys"
	if len(r.Copied) > 0 {
		kept = "kept: " + strings.Join(r.Copied, ", ")
	}
	secret := ""
	if _, err := os.Lstat(filepath.Join(l.DataDir, rolloutFile)); errors.Is(err, fs.ErrNotExist) {
		secret = ", and copy " + rolloutFile + " from one of them: all draw rollouts by it"
	}
	_, _ = fmt.Fprintf(c.OutOrStdout(), `%s %s %s, with %s

  %s    the configuration
  %s    the policy
  %s    keys (0700)

bootstrap root, SHA-256 of the certificate: %s

next:
  1. see that the policy is that of the other servers%s
  2. %s
     %s
     It is ready when its authorities have been published for the propagation time.
  3. %s
`, j.shared.server, what, r.TrustDomain, strings.Join(r.Others, ", "), l.File, l.Policy, l.DataDir, r.Fingerprint, secret, command("check"), command("run"), kept)
}
