package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/policy"
)

func checkCommand() *cobra.Command {
	var flags configFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Validate configuration, policy, keys and database without starting",
		Long: `check refuses what run would refuse, of every trust domain that the configuration
names. Nothing is changed, and a server may run meanwhile.`,
		Example: `  assayd check
  assayd check --config ./assayd.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := flags.loadAll()
			if err != nil {
				return err
			}
			code := 0
			for _, cfg := range all {
				err := check(c, cfg)
				if err == nil {
					continue
				}
				if len(all) == 1 {
					return err
				}
				_, _ = fmt.Fprintf(c.ErrOrStderr(), "trust domain %s:\n", cfg.TrustDomain)
				cli.PrintError(c.ErrOrStderr(), err)
				code = max(code, cli.ExitCode(err))
			}
			if code != 0 {
				return &cli.Silent{Code: code}
			}
			return nil
		},
	}
	flags.add(c)
	return c
}

// check validates one trust domain.
func check(c *cobra.Command, cfg *config.Config) error {
	tees, err := newPlatforms(cfg, nil, nil)
	if err != nil {
		return err
	}
	kds, err := newKDS(cfg)
	if err != nil {
		return err
	}
	log := logger(cfg, c.ErrOrStderr())
	p, err := loadPolicy(cfg, log)
	if err != nil {
		return err
	}
	if err := checkData(c.Context(), cfg, p, log); err != nil {
		return err
	}
	kind := "hardware"
	if tees.set.Simulated() {
		kind = "SIMULATED hardware"
	}
	b := p.Current()
	for _, w := range b.Lint(policy.LintOptions{At: time.Now()}) {
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "warning: %s", w.Render())
	}
	if kds == nil { // otherwise run fetches them
		held, err := heldCRLs(cfg, log)
		if err != nil {
			return err
		}
		for _, w := range crlWarnings(cfg, b, held, time.Now()) {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "ok: trust domain %s, of %s; policy %s with %s\n", cfg.TrustDomain, kind, b.Version(), cli.Count(len(b.Workloads()), "workload"))
	return err
}
