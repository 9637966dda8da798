package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// maintain does and renews what is due. An error means that something is missing
// that the server cannot do without.
func (c *CA) maintain(ctx context.Context, at stops) error {
	c.maintenance.Lock()
	err := c.maintainLocked(ctx, at)
	ch := c.untold
	c.untold = Change{}
	c.maintenance.Unlock()
	c.tell(ch)
	return err
}

func (c *CA) maintainLocked(ctx context.Context, at stops) error {
	var warnings []string
	warn := func(format string, args ...any) {
		w := fmt.Sprintf(format, args...)
		if !slices.Contains(warnings, w) {
			warnings = append(warnings, w)
		}
	}
	var errs []error
	// First the documents that are there: what they name may sign.
	err := c.loadDocuments(ctx)
	if err == nil {
		err = c.advance(ctx, at, warn)
	}
	errs = append(errs, err)
	s := c.now.Load()
	if s == nil { // the start: there is nothing to go on with
		return errors.Join(errs...)
	}
	renewed := false
	for _, kind := range documentKinds() {
		did, err := c.renewDocument(ctx, kind, at, warn)
		renewed = renewed || did
		errs = append(errs, err)
	}
	if renewed { // a key that has just been published in one
		errs = append(errs, c.advance(ctx, at, warn))
	}
	errs = append(errs, c.renewServer(ctx, at, warn), c.renewEndpoint())
	s = c.now.Load()
	for _, w := range s.warnings {
		warn("%s", w)
	}
	c.warnOfAuthorities(s, warn)
	errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, errNothingToDo) })
	err = errors.Join(errs...)
	if err != nil {
		warn("%v", err)
	}
	if old := c.warnings.Load(); true {
		for _, w := range warnings {
			if old == nil || !slices.Contains(*old, w) {
				c.log.Warn("ca: " + w)
			}
		}
	}
	c.warnings.Store(&warnings)
	return err
}

// warnOfAuthorities says what an operator should know of authorities.
func (c *CA) warnOfAuthorities(s *snapshot, warn func(string, ...any)) {
	now := c.cfg.Now()
	for _, use := range uses() {
		a := s.pick(use, c.cfg.Chain, now)
		if a == nil {
			if err := c.notReady(s, use, now); err != nil {
				warn("%v", err)
			}
			continue
		}
		if left := a.row.NotAfter.Sub(now); left < a.row.NotAfter.Sub(a.row.NotBefore)/4 {
			warn("the %s authority %s ends at %s; what it signs ends with it", a.row.Use, a.row.ID, a.row.NotAfter.Format(time.RFC3339))
		}
	}
	for _, use := range uses() {
		if n := s.trusted(use); n >= MaxAuthorities/2 {
			warn("%d %s authorities are trusted, and agents take at most %d: `assay authority revoke` those that are tainted", n, use, MaxAuthorities)
		}
	}
	for _, a := range s.all {
		if a.row.Server == c.cfg.Chain && a.waits() && !a.condemned() && now.Before(a.row.NotAfter) {
			warn("the X.509 authority %s waits for the upstream CA: `assay authority csr %s`, then `assay authority import`", a.row.ID, a.row.ID)
		}
	}
}

// Reload reads what other servers, or another process, have changed. Call it when
// the store tells of a change of authorities, members or documents.
func (c *CA) Reload(ctx context.Context) error {
	c.maintenance.Lock()
	err := c.loadDocuments(ctx)
	s, lerr := c.load(ctx)
	if lerr == nil {
		c.changed(s)
		err = errors.Join(err, s.fault, c.renewEndpoint())
	}
	ch := c.untold
	c.untold = Change{}
	c.maintenance.Unlock()
	c.tell(ch)
	c.lookSoon() // what that makes due is done by Run
	return errors.Join(err, lerr)
}

// lookSoon has Run look at once what is due.
func (c *CA) lookSoon() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Run advances the authorities' lives, and renews documents and certificates, when
// that is due, and returns nil when ctx ends. What it cannot do it warns of, and
// tries again.
func (c *CA) Run(ctx context.Context) error {
	for {
		wait := time.NewTimer(c.nextDue())
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		case <-c.kick:
		}
		wait.Stop()
		if err := c.maintain(ctx, noStop); err != nil && ctx.Err() == nil {
			c.log.Error("ca: renewal failed", slog.Any("error", err))
		}
	}
}

// interval is how often Run looks, whatever is due.
const interval = 10 * time.Minute

// nextDue is how long there is nothing to do.
func (c *CA) nextDue() time.Duration {
	s, now := c.now.Load(), c.cfg.Now()
	wait := interval
	at := func(t time.Time) {
		if d := t.Sub(now); d > 0 && d < wait {
			wait = d
		}
	}
	for _, a := range s.all {
		if a.revoked() {
			continue
		}
		at(a.ends().Add(maxBackdate + c.patience(a) + time.Second))
		if a.row.Server != c.cfg.Chain {
			continue
		}
		if from, ok := c.usable(a); ok {
			at(from)
		}
		at(a.held)
		if a == s.signing[a.row.Use] {
			at(a.half())
			at(a.row.NotAfter)
		} else if a.signer != nil && a.signsAt(now) {
			at(now.Add(time.Second)) // somebody is still signing with the one before
		}
	}
	for _, kind := range documentKinds() {
		if d := c.documentOf(kind).Load(); d != nil {
			at(middle(d.keys.IssuedAt, d.keys.NextUpdate))
		}
	}
	if cert := c.server.Load(); cert != nil {
		at(middle(cert.Leaf.NotBefore, cert.Leaf.NotAfter))
	}
	if e := c.endpoint.Load(); e != nil {
		at(middle(e.cert.Leaf.NotBefore, e.cert.Leaf.NotAfter))
	}
	return max(wait, 10*time.Millisecond)
}
