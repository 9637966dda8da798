package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/assay-project/assay/issuer/config"
)

// reloading reads everything again when it is asked to.
func (p *process) reloading(hangup <-chan os.Signal) error {
	for {
		select {
		case <-p.ctx.Done():
			return nil
		case <-hangup:
			p.hungUp(p.ctx)
		}
	}
}

// hungUp answers a SIGHUP: what is not open is tried with the files as they are now.
func (p *process) hungUp(ctx context.Context) {
	p.reload(ctx)
	for _, s := range p.tenants {
		s.asked()
	}
}

// reload takes over from the configuration files what can be changed while the
// server runs. Either all of that is in force afterwards, in every trust domain,
// or nothing is. What needs a restart is named, and stays as it was.
func (p *process) reload(ctx context.Context) {
	old := p.inForce()
	next, err := config.LoadAll(p.file)
	if err == nil && next[0].TrustDomain != old[0].TrustDomain {
		err = errors.New("the first trust domain cannot be changed without a restart")
	}
	if err != nil {
		p.refuse(ctx, err)
		return
	}
	inForce, restart, ok := p.apply(ctx, old, next)
	if !ok {
		return
	}
	// What takes time comes last: what is in force is so by now.
	var gone []*supervised
	for _, c := range old {
		if !slices.Contains(names(inForce), c.TrustDomain) {
			gone = append(gone, p.remove(ctx, c.TrustDomain))
		}
	}
	for _, s := range gone {
		<-s.done
	}
	for _, c := range inForce {
		if p.tenants[c.TrustDomain] == nil {
			p.add(ctx, c)
		}
	}
	p.front.Reloaded("loaded", len(restart))
	p.log.InfoContext(ctx, "the configuration was read again", "file", p.file, "trust_domains", strings.Join(names(inForce), " "))
	for _, k := range restart {
		td, key, _ := strings.Cut(k, ": ")
		p.log.WarnContext(ctx, "a change needs a restart, and is not in force", "trust_domain", td, "key", key)
	}
}

func (p *process) refuse(ctx context.Context, err error, attrs ...any) {
	p.front.Reloaded("refused", 0)
	p.log.ErrorContext(ctx, "the configuration is refused, and nothing of it is in force", append([]any{"file", p.file, "error", err}, attrs...)...)
}

// apply puts in force what can be of the next configuration, and returns what is in
// force then and which keys need a restart; or ok is false, and nothing changed.
func (p *process) apply(ctx context.Context, old, next []*config.Config) (inForce []*config.Config, restart []string, ok bool) {
	p.applying.Lock() // nothing opens between the look and the change
	defer p.applying.Unlock()
	running := map[string]*config.Config{}
	for _, c := range old {
		running[c.TrustDomain] = c
	}
	var apply []func()
	for _, c := range next {
		before := running[c.TrustDomain]
		if before == nil {
			inForce = append(inForce, c)
			continue
		}
		s := p.tenants[c.TrustDomain]
		t, _ := s.now()
		if t == nil && c.TrustDomain != next[0].TrustDomain {
			// It is not open: all of the new one is for the next try.
			apply = append(apply, func() { s.configure(c) })
			inForce = append(inForce, c)
			continue
		}
		effective, keys := config.Effective(before, c)
		for _, k := range keys {
			if c != next[0] && config.OfTheProcess(k) {
				continue // it stands in the first file, and is named once
			}
			restart = append(restart, c.TrustDomain+": "+k)
		}
		if t != nil {
			f, err := t.server.PrepareReload(*effective)
			if err != nil {
				p.refuse(ctx, err, "trust_domain", c.TrustDomain)
				return nil, nil, false
			}
			apply = append(apply, f)
		}
		apply = append(apply, func() { s.configure(effective) })
		inForce = append(inForce, effective)
	}

	// From here on nothing fails.
	p.mu.Lock()
	p.configs = inForce
	p.mu.Unlock()
	setLevel(p.level, inForce[0])
	p.front.Configure(inForce[0].Limits, names(inForce))
	for _, f := range apply {
		f()
	}
	return inForce, restart, true
}

// add begins to serve a trust domain.
func (p *process) add(ctx context.Context, cfg *config.Config) {
	t, err := p.openTenant(ctx, cfg)
	if err != nil {
		p.notServed(ctx, cfg.TrustDomain, err)
	}
	p.supervise(cfg, t)
}

// remove ends the serving of one; those in flight finish before it is done.
func (p *process) remove(ctx context.Context, trustDomain string) *supervised {
	s := p.tenants[trustDomain]
	delete(p.tenants, trustDomain)
	p.log.InfoContext(ctx, "the trust domain is not configured any more", "trust_domain", trustDomain)
	s.stop()
	return s
}

// setLevel puts the log's level in force.
func setLevel(v *slog.LevelVar, cfg *config.Config) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err == nil { // validated before
		v.Set(level)
	}
}
