package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

func checkCommand() *cobra.Command {
	var flags configFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Validate configuration, policy, keys and database without starting",
		Example: `  assayd check
  assayd check --config ./assayd.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			tees, err := newPlatforms(cfg, nil, nil)
			if err != nil {
				return err
			}
			if _, err := newKDS(cfg); err != nil {
				return err
			}
			p, err := loadPolicy(cfg, logger(cfg, c.ErrOrStderr()))
			if err != nil {
				return err
			}
			if err := checkData(c.Context(), cfg, p, logger(cfg, c.ErrOrStderr())); err != nil {
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
			_, err = fmt.Fprintf(c.OutOrStdout(), "ok: trust domain %s, of %s; policy %s with %s\n", cfg.TrustDomain, kind, b.Version(), cli.Count(len(b.Workloads()), "workload"))
			return err
		},
	}
	flags.add(c)
	return c
}
