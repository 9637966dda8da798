package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/child"
	"github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/internal/cli"
)

func runCommand() *cobra.Command {
	var (
		f deviceFlags
		w writeFlags
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Attest, and serve the Workload API until stopped",
		Long: `run attests, serves the SPIFFE Workload API, and attests again before an SVID
ends. It prints the line that workloads need in their environment. A server that
is away does not end it: what is valid is served, and it tries again.

With --write DIR it also keeps files for software that reads PEM, and follows
renewals: svid.pem, svid.key (0600), both in svid-with-key.pem, bundle.pem, and
federated.TRUST-DOMAIN.pem. All of a set are switched in one step, and are those
of DIR/..data. Tokens (--jwt, --aws-role) are replaced at half of their lives.
DIR must be on a tmpfs or ramfs, and nobody else may be able to change it.

A signal (--reload-signal, to the process in --reload-pid-file) or a command
(--reload-command) tells the software that certificates changed.

SIGTERM and SIGINT stop it; the files stay.`,
		Example: `  assay-agent run
  assay-agent run --data-dir ~/agent
  assay-agent run --write /run/nginx-svid --write-owner www-data --reload-signal HUP --reload-pid-file /run/nginx.pid
  assay-agent run --write /run/pg --write-key-mode 0640 --write-owner root:postgres --reload-command 'pg_ctlcluster 15 main reload'
  assay-agent run --write /run/orders --jwt vault=vault-token --aws-role arn:aws:iam::123456789012:role/orders`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := w.check(c, false); err != nil {
				return err
			}
			s, err := f.load()
			if err != nil {
				return err
			}
			return runAgent(c, s, &w)
		},
	}
	f.add(c)
	w.add(c)
	return c
}

func runAgent(c *cobra.Command, s *config.Settings, files *writeFlags) error {
	log := newLog(c.ErrOrStderr(), s)
	closeMemory(log)
	a, err := newAgent(c.Context(), s, log, func(addr string) {
		_, _ = fmt.Fprintf(c.OutOrStdout(), "%s=%s\n", endpointVariable, addr)
	})
	if err != nil || a == nil {
		return err
	}
	keeper := child.New()
	writer, done, err := files.openFor(s, keeper, nil, log)
	if err != nil {
		return err
	}
	defer done()
	g, ctx := errgroup.WithContext(c.Context())
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return keeper.Run(ctx) })
	if writer != nil {
		g.Go(func() error { return writer.Run(ctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// newAgent makes the agent of the settings; nil without an error where it was stopped
// before it began.
func newAgent(ctx context.Context, s *config.Settings, log *slog.Logger, listening func(addr string)) (*agent.Agent, error) {
	// Without its device this machine will never attest: say so at once.
	attester, err := s.Attester(log)
	if err != nil {
		return nil, err
	}
	device, err := attester.Probe(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, nil //nolint:nilnil // stopped before it began
	case err != nil:
		return nil, err
	}
	conf := s.Agent(attester, log)
	if built := cli.Built(); built.After(conf.NotBefore) {
		conf.NotBefore = built
	}
	conf.Listening = func(addr string) {
		first, log := s.Memberships[0], log
		if more := further(s); more != "" {
			log = log.With("further", more)
		}
		log.Info("serving the SPIFFE Workload API", "address", addr, "trust_domain", first.TrustDomain.Name(), "server", first.Server, "tee", string(attester.Platform()), "device", device, "key_residency", string(s.KeyResidency))
		listening(addr)
	}
	return agent.New(conf)
}

// further names the trust domains beside the first.
func further(s *config.Settings) string {
	var out []string
	for _, m := range s.Memberships[1:] {
		out = append(out, m.TrustDomain.Name()+" "+m.Server)
	}
	return strings.Join(out, ", ")
}

func newLog(w io.Writer, s *config.Settings) *slog.Logger {
	o := &slog.HandlerOptions{Level: s.Level()}
	if s.Config.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
