package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
)

func runCommand() *cobra.Command {
	var flags configFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the server until SIGTERM",
		Long: `run serves until SIGTERM or SIGINT, then lets attestations in flight finish.
SIGHUP reads the policy again. The log goes to standard error.`,
		Example: `  assayd run
  assayd run --data-dir ~/assay`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			return run(c.Context(), cfg, logger(cfg, c.ErrOrStderr()))
		},
	}
	flags.add(c)
	return c
}

func run(ctx context.Context, cfg *config.Config, log *slog.Logger) (err error) {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	level := slog.LevelInfo
	if cfg.Simulated() {
		level = slog.LevelWarn
	}
	log.Log(ctx, level, describe(cfg), "version", cli.Version(), "data_dir", cfg.DataDir)

	policy, err := loadPolicy(cfg, log)
	if err != nil {
		return err
	}
	source, cache, err := openCollateral(cfg, policy, log)
	if err != nil {
		return err
	}
	if cache != nil {
		defer func() { err = errors.Join(err, cache.Close()) }()
	}
	data, err := openData(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.store.Close()) }()
	registry, err := openTPMs(ctx, cfg, data.store)
	if err != nil {
		return err
	}
	tees, err := newPlatforms(cfg, asCollateral(source), registry)
	if err != nil {
		return err
	}

	secret, err := rolloutSecret(cfg, log)
	if err != nil {
		return err
	}
	if err := policy.UseSecret(secret); err != nil {
		return starting(err)
	}
	if err := policy.Resume(ctx, data.store); err != nil {
		return starting(err)
	}

	tracing, err := issuer.OpenTracing(ctx, cfg.Tracing, cli.Version(), log)
	if err != nil {
		return starting(err)
	}
	defer tracing.Close()
	metrics := issuer.NewMetrics(cfg.TrustDomain)
	platformMetrics(metrics, tees, source, registry)
	server, err := issuer.New(*cfg, issuer.Parts{
		Set: tees.set, Policy: policy, Ledger: data.ledger, CA: data.ca,
		Metrics: metrics, TPMs: registry, Log: log, Now: time.Now, Version: cli.Version(), Tracing: tracing,
	})
	if err != nil {
		return starting(err)
	}
	listeners, err := listen(cfg)
	if err != nil {
		return err
	}
	if err := policy.Remember(ctx, data.store, time.Now); err != nil {
		return starting(err)
	}
	authority := data.ca.Status()
	for _, w := range policy.Current().Lint(issuer.PolicyLint(authority, time.Now())) {
		log.WarnContext(ctx, "policy", "warning", w.Error())
	}
	for _, w := range authority.Warnings {
		log.WarnContext(ctx, "authority", "warning", w)
	}
	log.InfoContext(ctx, "serving", "attestation", listeners.Attestation.Addr().String(), "admin", cfg.AdminSocket,
		"metrics", address(listeners.Metrics), "policy", policy.Current().Version(), "platforms", fmt.Sprint(tees.set.Platforms()))

	// The ledger stops last: it drains and signs its last checkpoint when no
	// attestation can reach it any more.
	ledgerCtx, stopLedger := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLedger()
	var ledgerGroup errgroup.Group
	g, gctx := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	ledgerGroup.Go(func() error {
		defer close(ended)
		return data.ledger.Run(ledgerCtx)
	})
	g.Go(func() error {
		select {
		case <-ended:
			return errors.New("the ledger's writer ended")
		case <-gctx.Done():
			return nil
		}
	})
	g.Go(func() error { return server.Run(gctx, listeners) })
	g.Go(func() error { return data.ca.Run(gctx) })
	g.Go(func() error { return policy.Run(gctx, reload) })
	g.Go(func() error { return runCollateral(gctx, source) })
	err = g.Wait()
	stopLedger()
	err = errors.Join(err, ledgerGroup.Wait())
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	log.InfoContext(context.WithoutCancel(ctx), "stopped")
	return err
}

// listen opens the sockets, the ones that may be in use by another server
// before any work is done.
func listen(cfg *config.Config) (l issuer.Listeners, err error) {
	defer func() {
		if err != nil {
			for _, x := range []net.Listener{l.Attestation, l.Metrics, l.Admin} {
				if x != nil {
					_ = x.Close()
				}
			}
			l = issuer.Listeners{}
		}
	}()
	if l.Attestation, err = tcp("listen", cfg.Listen); err != nil {
		return l, err
	}
	if cfg.MetricsListen != "" {
		if l.Metrics, err = tcp("metrics_listen", cfg.MetricsListen); err != nil {
			return l, err
		}
	}
	l.Admin, err = issuer.ListenAdmin(cfg.AdminSocket)
	return l, err
}

func tcp(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr) //nolint:noctx // it does not block
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, cli.Usagef("stop it, or set "+key+" to another address in the configuration", "%s %s: another process listens there", key, addr)
	}
	if err != nil {
		return nil, cli.Usagef("set "+key+" to another address in the configuration", "%s: %w", key, err)
	}
	return l, nil
}

func address(l net.Listener) string {
	if l == nil {
		return "off"
	}
	return l.Addr().String()
}
