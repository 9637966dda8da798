package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// tenant is one trust domain of the process, open: its own data, keys, policy,
// verifiers and listeners.
type tenant struct {
	cfg       *config.Config
	log       *slog.Logger
	policy    *issuer.PolicyFile
	source    *collateral.Source // nil where it has no SEV-SNP
	data      *data
	server    *issuer.Server
	listeners issuer.Listeners
	hangup    chan os.Signal
	closers   []func() error
}

// openTenant opens everything of a trust domain. On an error nothing stays open.
func (p *process) openTenant(ctx context.Context, cfg *config.Config) (_ *tenant, err error) {
	log := p.log
	if !p.alone() {
		log = log.With("trust_domain", cfg.TrustDomain)
	}
	level := slog.LevelInfo
	if cfg.Simulated() {
		level = slog.LevelWarn
	}
	log.Log(ctx, level, describe(cfg), "version", cli.Version(), "data_dir", cfg.DataDir)

	t := &tenant{cfg: cfg, log: log, hangup: make(chan os.Signal, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.policy, err = loadPolicy(cfg, log); err != nil {
		return nil, err
	}
	source, cache, err := openCollateral(cfg, t.policy, log)
	if err != nil {
		return nil, err
	}
	t.source = source
	if cache != nil {
		t.closers = append(t.closers, cache.Close)
	}
	if t.data, err = openData(ctx, cfg, log); err != nil {
		return nil, err
	}
	t.closers = append(t.closers, t.data.store.Close)
	registry, err := openTPMs(ctx, cfg, t.data.store)
	if err != nil {
		return nil, err
	}
	tees, err := newPlatforms(cfg, asCollateral(t.source), registry)
	if err != nil {
		return nil, err
	}
	secret, err := rolloutSecret(cfg, log)
	if err != nil {
		return nil, err
	}
	if err := sameRollouts(ctx, cfg, t.data.store, secret, log); err != nil {
		return nil, err
	}
	if err := t.policy.UseSecret(secret); err != nil {
		return nil, starting(err)
	}
	t.policy.Share(t.data.peers(cfg))
	if err := t.policy.Resume(ctx, t.data.store); err != nil {
		return nil, starting(err)
	}
	if err := startWeb(cfg, log); err != nil {
		return nil, err
	}
	federations, err := t.data.federations(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	metrics := issuer.NewMetrics(cfg.TrustDomain)
	platformMetrics(metrics, tees, t.source, registry)
	t.server, err = issuer.New(*cfg, issuer.Parts{
		Set: tees.set, Policy: t.policy, Ledger: t.data.ledger, CA: t.data.ca, Store: t.data.store,
		Metrics: metrics, TPMs: registry, Log: log, Now: time.Now, Version: cli.Version(), Tracing: p.tracing, Events: t.data.events(cfg, log),
		Federation: federations, Background: t.background(), Warnings: t.warnings,
	})
	if err != nil {
		return nil, starting(err)
	}
	if t.listeners, err = listenOwn(cfg); err != nil {
		return nil, err
	}
	t.listeners.Front = p.front
	t.closers = append(t.closers, t.closeListeners)
	if err := t.policy.Remember(ctx, t.data.store, time.Now); err != nil {
		return nil, starting(err)
	}
	authority := t.data.ca.Status()
	for _, w := range t.policy.Current().Lint(issuer.PolicyLint(authority, time.Now())) {
		log.WarnContext(ctx, "policy", "warning", w.Error())
	}
	for _, w := range authority.Warnings {
		log.WarnContext(ctx, "authority", "warning", w)
	}
	if fetched, _ := newKDS(cfg); fetched == nil { // otherwise it is on its way
		for _, w := range t.warnings(time.Now()) {
			log.WarnContext(ctx, "collateral", "warning", w)
		}
	}
	return t, nil
}

// background are the parts that run as long as the server.
func (t *tenant) background() []func(context.Context) error {
	return []func(context.Context) error{
		t.data.ca.Run,
		func(ctx context.Context) error { return t.policy.Run(ctx, t.hangup) },
		func(ctx context.Context) error { return runCollateral(ctx, t.source) },
	}
}

// closeListeners closes what the server never came to serve; what it did is
// closed already.
func (t *tenant) closeListeners() error {
	for _, l := range []interface{ Close() error }{t.listeners.Admin, t.listeners.AdminTLS, t.listeners.Web, t.listeners.BundleEndpoint} {
		if l != nil {
			_ = l.Close()
		}
	}
	return nil
}

// close closes what is open, the last first.
func (t *tenant) close() error {
	var err error
	for len(t.closers) > 0 {
		last := len(t.closers) - 1
		err = errors.Join(err, t.closers[last]())
		t.closers = t.closers[:last]
	}
	return err
}

// run serves until ctx ends. It can be called once.
func (t *tenant) run(ctx context.Context) error {
	// The ledger stops last: it drains and signs its last checkpoint when no
	// attestation can reach it any more.
	ledgerCtx, stopLedger := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLedger()
	var ledgerGroup errgroup.Group
	g, gctx := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	ledgerGroup.Go(func() error {
		defer close(ended)
		return t.data.ledger.Run(ledgerCtx)
	})
	g.Go(func() error {
		select {
		case <-ended:
			return errors.New("the ledger's writer ended")
		case <-gctx.Done():
			return nil
		}
	})
	g.Go(func() error { return t.server.Run(gctx, t.listeners) })
	err := g.Wait()
	stopLedger()
	err = errors.Join(err, ledgerGroup.Wait())
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	return err
}

// openAll opens every trust domain. One that cannot be opened is left for later
// where there are others: what is broken in one must not stop them. It is an
// error when none can be.
func (p *process) openAll(ctx context.Context) (map[string]*tenant, error) {
	opened := map[string]*tenant{}
	var wrong []error
	for _, cfg := range p.configs {
		t, err := p.openTenant(ctx, cfg)
		if err == nil {
			opened[cfg.TrustDomain] = t
			continue
		}
		if len(p.configs) > 1 {
			err = ofTenant(cfg, err)
		}
		wrong = append(wrong, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(opened) == 0 || ctx.Err() != nil && len(wrong) > 0 {
		for _, t := range opened {
			wrong = append(wrong, t.close())
		}
		return nil, p.none(ctx, wrong)
	}
	for _, err := range wrong {
		var x *tenantError
		if errors.As(err, &x) {
			p.notServed(ctx, x.trustDomain, x.err)
		}
	}
	return opened, nil
}

// none is the error of a process that can serve nobody. Of several trust domains
// the log says why of each.
func (p *process) none(ctx context.Context, wrong []error) error {
	if len(p.configs) == 1 || ctx.Err() != nil {
		return errors.Join(wrong...)
	}
	later := false
	for _, err := range wrong {
		p.log.ErrorContext(ctx, "cannot be served", "error", err, "hint", cli.Hint(err))
		var ae *attest.Error
		later = later || errors.As(err, &ae) && ae.Kind == attest.Unavailable
	}
	why := fmt.Errorf("none of %d trust domains can be served; the log says why", len(p.configs))
	if later { // of one at least: a supervisor tries again
		return &attest.Error{Kind: attest.Unavailable, Check: "trust_domains", Err: why}
	}
	return cli.Usagef("`assayd check` names every mistake", "%w", why)
}

// tenantError is an error of one trust domain of several.
type tenantError struct {
	trustDomain string
	err         error
}

func ofTenant(cfg *config.Config, err error) error { return &tenantError{cfg.TrustDomain, err} }

func (e *tenantError) Error() string { return "trust domain " + e.trustDomain + ": " + e.err.Error() }
func (e *tenantError) Unwrap() error { return e.err }

func (p *process) notServed(ctx context.Context, trustDomain string, err error) {
	p.front.Absent(trustDomain, err)
	attrs := []any{"trust_domain", trustDomain, "error", err}
	if hint := cli.Hint(err); hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	p.log.ErrorContext(ctx, "the trust domain is not served; it is tried again", attrs...)
}

// supervised is one trust domain of the process, open or not.
type supervised struct {
	mu   sync.Mutex
	cfg  *config.Config
	open *tenant // nil while it is not
	stop context.CancelFunc
	wake chan struct{} // tries to open it now
	done chan struct{} // closed when it is over
}

// now is what is open now, and its configuration.
func (s *supervised) now() (*tenant, *config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.cfg
}

func (s *supervised) set(t *tenant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = t
}

// configure is what it will be opened with the next time, or runs with.
func (s *supervised) configure(cfg *config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg = cfg
}

// opened takes what was opened with a configuration, if that is still the one in
// force.
func (p *process) opened(s *supervised, t *tenant, with *config.Config) bool {
	p.applying.Lock() // either it is open when a reload looks, or it sees what the reload left
	defer p.applying.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !reflect.DeepEqual(s.cfg, with) {
		return false
	}
	s.open = t
	return true
}

// asked has policies read again, and what is not open tried.
func (s *supervised) asked() {
	t, _ := s.now()
	if t != nil {
		select {
		case t.hangup <- syscall.SIGHUP:
		default:
		}
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// How long a trust domain that failed is left alone: it doubles. Who has run for
// a while begins anew.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// supervise serves a trust domain for as long as the process runs, or until it is
// removed. t is nil when it could not be opened. When it fails it is opened
// again; alone, as it is at that moment, its end is the process's, for whatever
// supervises that to see.
func (p *process) supervise(cfg *config.Config, t *tenant) {
	ctx, stop := context.WithCancel(p.ctx)
	s := &supervised{cfg: cfg, open: t, stop: stop, wake: make(chan struct{}, 1), done: make(chan struct{})}
	p.tenants[cfg.TrustDomain] = s
	p.group.Go(func() error {
		defer close(s.done)
		defer stop()
		retry := firstRetry
		for {
			if t != nil {
				began := time.Now()
				err := p.serve(ctx, t)
				s.set(nil)
				err = errors.Join(err, t.close())
				if ctx.Err() != nil {
					return err
				}
				if err == nil {
					err = errors.New("it ended by itself")
				}
				if p.alone() {
					return err
				}
				p.notServed(ctx, cfg.TrustDomain, err)
				if time.Since(began) > lastRetry {
					retry = firstRetry
				}
			}
			if !s.waits(ctx, retry) {
				return nil
			}
			retry = min(2*retry, lastRetry)
			t = p.reopen(ctx, s)
		}
	})
}

// waits waits until it is time to try again, or to end.
func (s *supervised) waits(ctx context.Context, retry time.Duration) bool {
	timer := time.NewTimer(retry)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-s.wake:
	case <-timer.C:
	}
	return true
}

// reopen tries to open it, with the configuration that is in force when it is open;
// nil where it cannot be.
func (p *process) reopen(ctx context.Context, s *supervised) *tenant {
	for ctx.Err() == nil {
		_, with := s.now()
		t, err := p.openTenant(ctx, with)
		if err != nil {
			if ctx.Err() == nil {
				p.notServed(ctx, with.TrustDomain, err)
			}
			return nil
		}
		if p.opened(s, t, with) {
			return t
		}
		if err := t.close(); err != nil { // another configuration has come meanwhile
			p.log.WarnContext(ctx, "closing what was opened with an older configuration", "trust_domain", with.TrustDomain, "error", err)
		}
	}
	return nil
}

// serve runs a trust domain that is open.
func (p *process) serve(ctx context.Context, t *tenant) error {
	t.listeners.Serving = func() {
		t.log.InfoContext(ctx, "serving", "attestation", p.address, "admin", t.cfg.AdminSocket, "metrics", p.metrics,
			"policy", t.policy.Current().Version(), "platforms", fmt.Sprint(t.server.Platforms()))
	}
	return t.run(ctx)
}
