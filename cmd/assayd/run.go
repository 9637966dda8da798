package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
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
SIGHUP reads policies and configuration again: what can be changed while it runs
is (limits, the log's level, tenants), and what needs a restart is named in the
log. The log goes to standard error.

A tenant whose configuration file has a mistake at the start is left out until the
file is mended and SIGHUP sent; so is one that cannot be opened, which is tried
again by itself.`,
		Example: `  assayd run
  assayd run --data-dir ~/assay`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, left, err := flags.loadStart()
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			p := &process{file: flags.path(), configs: all, left: left, level: level, log: newLogger(all[0], c.ErrOrStderr(), level), tenants: map[string]*supervised{}}
			return p.run(c.Context())
		},
	}
	flags.add(c)
	return c
}

// process is what runs: one front, and behind it one trust domain or several.
type process struct {
	file    string
	level   *slog.LevelVar
	log     *slog.Logger
	tracing *issuer.Tracing
	front   *issuer.Front
	left    []config.LeftOut // tenants whose files could not be used at the start
	address string           // of the attestation service
	metrics string           // and of the metrics, or "off"

	// Used by run and by reload, which do not overlap.
	tenants map[string]*supervised
	group   *errgroup.Group

	// Held while a configuration is put in force, from the look at what is open.
	applying sync.Mutex
	mu       sync.Mutex       // of configs, which every trust domain asks for
	configs  []*config.Config // in force, the first file's first
	ctx      context.Context  //nolint:containedctx // of the group: tenants that a reload adds live as long
}

// run serves until ctx ends.
func (p *process) run(ctx context.Context) (err error) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	first := p.configs[0]
	setLevel(p.level, first)
	if p.tracing, err = issuer.OpenTracing(ctx, first.Tracing, cli.Version(), p.log); err != nil {
		return starting(err)
	}
	defer p.tracing.Close()
	if p.front, err = issuer.NewFront(*first, issuer.FrontParts{TrustDomains: p.announced(), Log: p.log, Now: time.Now}); err != nil {
		return starting(err)
	}
	p.front.Counter("assay_trace_failures_total", "Batches of traces that the collector did not take.", func() float64 { return float64(p.tracing.Failures()) })
	p.leaveOut(ctx)
	opened, err := p.openAll(ctx)
	if err != nil {
		return err
	}
	// What may be in use by another process, before any work is done.
	attestation, metrics, err := listenFront(first)
	if err != nil {
		for _, t := range opened {
			err = errors.Join(err, t.close())
		}
		return err
	}
	p.address, p.metrics = attestation.Addr().String(), address(metrics)

	p.group, p.ctx = errgroup.WithContext(ctx)
	p.group.Go(func() error { return p.front.Run(p.ctx, attestation, metrics) })
	for _, cfg := range p.configs {
		p.supervise(cfg, opened[cfg.TrustDomain])
	}
	p.group.Go(func() error { return p.reloading(hangup) })
	err = p.group.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	p.log.InfoContext(context.WithoutCancel(ctx), "stopped")
	return err
}

// inForce is the configuration of each trust domain, the first file's first.
func (p *process) inForce() []*config.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.configs
}

// alone reports whether the process serves one trust domain only.
func (p *process) alone() bool { return len(p.inForce()) == 1 }

// announced are the trust domains that the front answers for at the start: also
// those that are left out, so that nobody else answers to their names.
func (p *process) announced() []string {
	out := names(p.configs)
	for _, l := range p.left {
		if l.TrustDomain != "" && !slices.Contains(out, l.TrustDomain) {
			out = append(out, l.TrustDomain)
		}
	}
	return out
}

// leaveOut says which tenants are not served for a mistake in their files. A reload
// takes all files or none, and so adds them when they are mended.
func (p *process) leaveOut(ctx context.Context) {
	served := names(p.configs)
	for _, l := range p.left {
		if l.TrustDomain != "" && !slices.Contains(served, l.TrustDomain) {
			p.front.Absent(l.TrustDomain, l.Err)
		}
		p.log.ErrorContext(ctx, "a tenant's configuration cannot be used, and it is not served", "file", l.File, "trust_domain", l.TrustDomain, "error", l.Err,
			"hint", "mend it (`assayd check` names every mistake), then send SIGHUP")
	}
}

// listenFront opens what belongs to the process.
func listenFront(cfg *config.Config) (attestation, metrics net.Listener, err error) {
	if attestation, err = tcp("listen", cfg.Listen); err != nil {
		return nil, nil, err
	}
	if cfg.MetricsListen != "" {
		if metrics, err = tcp("metrics_listen", cfg.MetricsListen); err != nil {
			return nil, nil, errors.Join(err, attestation.Close())
		}
	}
	return attestation, metrics, nil
}

// listenOwn opens what each trust domain has for itself.
func listenOwn(cfg *config.Config) (l issuer.Listeners, err error) {
	defer func() {
		if err != nil {
			for _, x := range []net.Listener{l.Admin, l.AdminTLS, l.Web, l.BundleEndpoint} {
				if x != nil {
					_ = x.Close()
				}
			}
			l = issuer.Listeners{}
		}
	}()
	for _, x := range []struct {
		key, address string
		to           *net.Listener
	}{
		{"administration.listen", cfg.Administration.Listen, &l.AdminTLS},
		{"web.listen", cfg.Web.Listen, &l.Web},
		{"federation.spiffe_listen", cfg.Federation.SPIFFEListen, &l.BundleEndpoint},
	} {
		if x.address == "" {
			continue
		}
		if *x.to, err = tcp(x.key, x.address); err != nil {
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

func names(all []*config.Config) []string {
	var out []string
	for _, c := range all {
		out = append(out, c.TrustDomain)
	}
	return out
}

// newLogger is the log of the process, whose level can be changed.
func newLogger(cfg *config.Config, w io.Writer, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
