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
			for _, s := range p.tenants {
				s.asked()
			}
			p.reload(p.ctx)
		}
	}
}

// reload takes over from the configuration files what can be changed while the
// server runs. Either all of that is in force afterwards, in every trust domain,
// or nothing is. What needs a restart is named, and stays as it was.
func (p *process) reload(ctx context.Context) {
	next, err := config.LoadAll(p.file)
	if err == nil && next[0].TrustDomain != p.configs[0].TrustDomain {
		err = errors.New("the first trust domain cannot be changed without a restart")
	}
	if err != nil {
		p.front.Reloaded("refused", 0)
		p.log.ErrorContext(ctx, "the configuration is refused, and nothing of it is in force", "file", p.file, "error", err)
		return
	}
	running := map[string]*config.Config{}
	for _, c := range p.configs {
		running[c.TrustDomain] = c
	}
	var (
		apply   []func()
		restart []string
		inForce []*config.Config
	)
	for _, c := range next {
		old := running[c.TrustDomain]
		if old == nil {
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
		effective, keys := config.Effective(old, c)
		for _, k := range keys {
			if c != next[0] && config.OfTheProcess(k) {
				continue // it stands in the first file, and is named once
			}
			restart = append(restart, c.TrustDomain+": "+k)
		}
		if t != nil {
			f, err := t.server.PrepareReload(*effective)
			if err != nil {
				p.front.Reloaded("refused", 0)
				p.log.ErrorContext(ctx, "the configuration is refused, and nothing of it is in force", "file", p.file, "trust_domain", c.TrustDomain, "error", err)
				return
			}
			apply = append(apply, f)
		}
		apply = append(apply, func() { s.configure(effective) })
		inForce = append(inForce, effective)
	}

	// From here on nothing fails.
	for _, c := range p.configs {
		if !slices.Contains(names(inForce), c.TrustDomain) {
			p.remove(ctx, c.TrustDomain)
		}
	}
	p.configs = inForce
	setLevel(p.level, inForce[0])
	p.front.Configure(inForce[0].Limits, names(inForce))
	for _, f := range apply {
		f()
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

// add begins to serve a trust domain.
func (p *process) add(ctx context.Context, cfg *config.Config) {
	t, err := p.openTenant(ctx, cfg)
	if err != nil {
		p.notServed(ctx, cfg.TrustDomain, err)
	}
	p.supervise(cfg, t)
}

// remove ends the serving of one; those in flight finish.
func (p *process) remove(ctx context.Context, trustDomain string) {
	s := p.tenants[trustDomain]
	delete(p.tenants, trustDomain)
	p.log.InfoContext(ctx, "the trust domain is not configured any more", "trust_domain", trustDomain)
	s.stop()
	<-s.done
}

// setLevel puts the log's level in force.
func setLevel(v *slog.LevelVar, cfg *config.Config) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err == nil { // validated before
		v.Set(level)
	}
}
