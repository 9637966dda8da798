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
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/tpm"
)

func initCommand() *cobra.Command {
	var trustDomain, dataDir string
	var simulators simulatorRoots
	var shared sharedDatabase
	var tenant bool
	c := &cobra.Command{
		Use:   "init --trust-domain TD",
		Short: "Make the keys, the database and a configuration that starts as it is",
		Long: `init makes what a new server needs: the bootstrap root that agents pin, the
verifier root that relying parties pin, the database, a commented configuration
and a policy that grants nothing yet. It overwrites nothing.

The trust domain, and whether its hardware is simulated, are fixed from then on.
A trust domain of simulated hardware has a name that begins with "simulated."
and needs the root of each simulator that it serves.

With --database the ledger and the authorities are kept in PostgreSQL, which
several servers share: this makes the first of them, ` + "`assayd join`" + ` every other.

With --tenant the trust domain is one that a process serves beside another: its
configuration says nothing of what belongs to the process.`,
		Example: `  assayd init --trust-domain attested.example.org
  assayd init --trust-domain b.example.org --data-dir /srv/assay/b --tenant
  assayd init --trust-domain attested.example.org --server eu-1 --database 'postgres://assay@db.example.org/assay?sslmode=verify-full'
  assayd init --trust-domain simulated.example.org --data-dir ~/assay --simulated-root root.pem`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			layout, err := initLayout(trustDomain, dataDir, simulators)
			if err != nil {
				return err
			}
			if err := shared.check(); err != nil {
				return err
			}
			if layout.Tenant = tenant; tenant && dataDir == "" {
				return cli.Usagef("--data-dir DIR", "--tenant without a directory of its own")
			}
			return initialise(c, trustDomain, layout, shared)
		},
	}
	c.Flags().StringVar(&trustDomain, "trust-domain", "", "SPIFFE trust domain, for example attested.example.org (required)")
	c.Flags().StringVar(&dataDir, "data-dir", "", "keep everything in this directory, for one who is not root")
	c.Flags().BoolVar(&tenant, "tenant", false, "make a trust domain that a process serves beside another")
	shared.add(c)
	simulators.add(c)
	return c
}

// add adds the flags of a simulated trust domain.
func (r *simulatorRoots) add(c *cobra.Command) {
	c.Flags().StringVar(&r.nitro, "simulated-root", "", "PEM file with the root of a simulated Nitro, for a simulated trust domain")
	c.Flags().StringVar(&r.sevsnp, "simulated-snp-roots", "", "PEM file with the roots of a simulated SEV-SNP, likewise")
	c.Flags().StringVar(&r.tpm, "simulated-tpm-root", "", "PEM file with the root of a simulated TPM manufacturer, likewise")
}

// simulatorRoots are the files that init was given.
type simulatorRoots struct{ nitro, sevsnp, tpm string }

func (r simulatorRoots) any() bool { return r.nitro != "" || r.sevsnp != "" || r.tpm != "" }

// initLayout checks the flags and says where things will be.
func initLayout(trustDomain, dataDir string, roots simulatorRoots) (config.Layout, error) {
	if err := config.CheckTrustDomain(trustDomain); err != nil {
		return config.Layout{}, cli.Usagef("for example --trust-domain attested.example.org", "--trust-domain %q: %w", trustDomain, err)
	}
	layout := config.SystemLayout()
	if dataDir != "" {
		abs, err := filepath.Abs(dataDir)
		if err != nil {
			return config.Layout{}, err
		}
		layout = config.LayoutIn(abs)
	}
	simulated := strings.HasPrefix(trustDomain, config.SimulatedPrefix)
	switch {
	case simulated && !roots.any():
		return config.Layout{}, cli.Usagef("add --simulated-root FILE (`teesim nitro root` prints one), --simulated-snp-roots FILE (`teesim sevsnp roots`) or --simulated-tpm-root FILE (`teesim tpm root`)", "a simulated trust domain needs the root of its simulator")
	case !simulated && roots.any():
		return config.Layout{}, cli.Usagef(`name it "`+config.SimulatedPrefix+trustDomain+`"`, "a simulated root in a trust domain of hardware")
	}
	return layout, roots.place(&layout)
}

// place checks the files of simulators' roots, and enters them.
func (r simulatorRoots) place(layout *config.Layout) error {
	for _, r := range []struct {
		file  string
		to    *string
		check func(pem []byte) error
		hint  string
	}{
		{r.nitro, &layout.SimulatedRoot, func(pem []byte) error { _, err := nitro.SimulatedRoots(pem); return err }, "`teesim nitro root --authority DIR` prints one"},
		{r.sevsnp, &layout.SimulatedSNPRoots, func(pem []byte) error { _, err := sevsnp.SimulatedRoots(pem); return err }, "`teesim sevsnp roots` prints them"},
		{r.tpm, &layout.SimulatedTPMRoot, func(pem []byte) error { _, err := tpm.SimulatedRoots(pem); return err }, "`teesim tpm root` prints one"},
	} {
		if r.file == "" {
			continue
		}
		pem, err := cli.ReadFile(r.file, maxRoots)
		if err != nil {
			return cli.Usagef("", "cannot read the simulated root: %w", err)
		}
		if err := r.check(pem); err != nil {
			return cli.Usagef(r.hint, "%s is not a simulator's root: %w", r.file, err)
		}
		if *r.to, err = filepath.Abs(r.file); err != nil {
			return err
		}
	}
	return nil
}

func initialise(c *cobra.Command, trustDomain string, l config.Layout, shared sharedDatabase) error {
	if _, err := os.Lstat(l.File); !errors.Is(err, fs.ErrNotExist) {
		return cli.Usagef("start it with `assayd run`, or choose another --data-dir", "%s is there already: nothing is overwritten", l.File)
	}
	// The configuration comes last: without it nothing runs, and init can be
	// run again after it was interrupted.
	if err := os.MkdirAll(filepath.Dir(l.DataDir), 0o755); err != nil { //nolint:gosec // the data directory itself is 0700
		return cli.Usagef("use --data-dir DIR for a directory of your own", "%w", err)
	}
	made, err := ca.Init(c.Context(), ca.InitConfig{
		DataDir: l.DataDir, TrustDomain: trustDomain, Simulated: l.Simulated(), Server: shared.server,
		Open: shared.opener(trustDomain, l, c.ErrOrStderr()), Now: time.Now,
	})
	if err != nil {
		return starting(err)
	}
	// Of a server alone it is drawn at the first start; here every other server takes
	// it from this one.
	secret := filepath.Join(l.DataDir, rolloutFile)
	if _, err := os.Lstat(secret); shared.url != "" && errors.Is(err, fs.ErrNotExist) {
		if _, err := drawSecret(secret); err != nil {
			return err
		}
	}
	keptPolicy, err := write(l.Policy, config.StarterPolicy(trustDomain, l.Simulated()))
	if err != nil {
		return err
	}
	kept, err := write(l.File, shared.configure(config.Starter(trustDomain, l)))
	if err != nil {
		return err
	}
	if kept {
		return cli.Usagef("", "%s has appeared meanwhile: nothing is overwritten", l.File)
	}
	tell(c, trustDomain, l, made, keptPolicy)
	return nil
}

// write makes a file that must not be there yet; kept says that it was.
func write(path string, content []byte) (kept bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // /etc/assay holds no secret
		return false, cli.Usagef("use --data-dir DIR for a directory of your own", "%w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, cli.Usagef("use --data-dir DIR for a directory of your own", "%w", err)
	}
	_, err = f.Write(content)
	return false, errors.Join(err, f.Sync(), f.Close())
}

// where is the flag that names a configuration.
func where(l config.Layout) string {
	switch {
	case filepath.Dir(l.File) == l.DataDir:
		return "--data-dir " + l.DataDir
	case l.File == config.DefaultPath:
		return ""
	}
	return "--config " + l.File
}

// tell prints what was made and what to do next.
func tell(c *cobra.Command, trustDomain string, l config.Layout, made ca.InitReport, keptPolicy bool) {
	command := func(s string) string { return strings.TrimSpace("assayd " + s + " " + where(l)) }
	kind := "hardware"
	if l.Simulated() {
		kind = "SIMULATED hardware"
	}
	policy := "grants nothing yet"
	if keptPolicy {
		policy = "was there already, and is kept"
	}
	check, run := command("check"), command("run")
	if l.Tenant {
		check, run = "add "+l.File+" to `tenants` in the configuration of the process,", "and send it SIGHUP"
	}
	_, _ = fmt.Fprintf(c.OutOrStdout(), `trust domain %s, of %s, for life

  %s    the configuration
  %s    the policy: %s
  %s    keys and database (0700)

bootstrap root, SHA-256 of the certificate: %s

next:
  1. give agents the bootstrap root to pin, inside their measured image:
       %s > bootstrap-root.pem
  2. give relying parties %s to pin
  3. write workloads into the policy
  4. %s
     %s
  5. take keys/bootstrap-root.key and keys/verifier-root.key out of %s when you know how to bring
     them back: the server needs them only to renew what they sign
`, trustDomain, kind, l.File, l.Policy, policy, l.DataDir, made.Fingerprint,
		command("bootstrap export"), filepath.Join(l.DataDir, "verifier-root.pem"), check, run, l.DataDir)
}
