package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/config"
)

func runCommand() *cobra.Command {
	var f deviceFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Attest, and serve the Workload API until stopped",
		Long: `run attests, serves the SPIFFE Workload API, and attests again before an SVID
ends. It prints the line that workloads need in their environment. A server that
is away does not end it: what is valid is served, and it tries again.

SIGTERM and SIGINT stop it.`,
		Example: "  assay-agent run\n  assay-agent run --data-dir ~/agent",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.load()
			if err != nil {
				return err
			}
			return runAgent(c, s)
		},
	}
	f.add(c)
	return c
}

func runAgent(c *cobra.Command, s *config.Settings) error {
	log := newLog(c.ErrOrStderr(), s)
	// Without its device this machine will never attest: say so at once.
	attester, err := s.Attester(log)
	if err != nil {
		return err
	}
	device, err := attester.Probe(c.Context())
	switch {
	case c.Context().Err() != nil:
		return nil // stopped before it began
	case err != nil:
		return err
	}
	conf := s.Agent(attester, log)
	conf.Listening = func(addr string) {
		log.Info("serving the SPIFFE Workload API", "address", addr, "trust_domain", s.TrustDomain.Name(), "server", s.Config.Server, "tee", string(attester.Platform()), "device", device, "key_residency", string(s.KeyResidency))
		_, _ = fmt.Fprintf(c.OutOrStdout(), "%s=%s\n", endpointVariable, addr)
	}
	a, err := agent.New(conf)
	if err != nil {
		return err
	}
	if err := a.Run(c.Context()); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

func newLog(w io.Writer, s *config.Settings) *slog.Logger {
	o := &slog.HandlerOptions{Level: s.Level()}
	if s.Config.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
