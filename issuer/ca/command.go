package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Errors of what an operator asks, told apart with errors.Is. An unknown
// authority is store.ErrNotFound.
var (
	// ErrPrepared: the next authority of that use is prepared already.
	ErrPrepared = errors.New("the next authority is prepared already")
	// ErrTooEarly: the authority is not in the state that this needs, or another
	// cannot take its place yet.
	ErrTooEarly = errors.New("not possible now")
)

// AuthorityInfo is what there is to tell about an authority.
type AuthorityInfo struct {
	Use                 store.Use
	ID                  string
	Server              string
	State               store.State // Published is told as Prepared
	NotBefore, NotAfter time.Time
	Published           time.Time // zero: not yet
	Usable              time.Time // from when on it may sign; zero: not known yet
	LastSVID            time.Time // the latest end of what it signed, as far as known; zero: nothing
	Public              [][]byte  // certificates, DER, its own first; or its SubjectPublicKeyInfo; or, while it waits, the request
	KeyID               string    // JWT: the kid
	Reason, Actor       string    // of the latest change
}

// Authorities tells of every authority of the trust domain, of all servers, oldest
// first, and of none that is not believed.
func (c *CA) Authorities() []AuthorityInfo {
	s := c.now.Load()
	out := make([]AuthorityInfo, len(s.all))
	for i, a := range s.all {
		out[i] = c.info(a)
	}
	return out
}

// Server is the name of this server.
func (c *CA) Server() string { return c.cfg.Chain }

// Propagation is how long an authority is published before it signs.
func (c *CA) Propagation() time.Duration { return c.cfg.Propagation }

func (c *CA) info(a *authority) AuthorityInfo {
	out := AuthorityInfo{
		Use: a.row.Use, ID: a.row.ID, Server: a.row.Server, State: a.state(), NotBefore: a.row.NotBefore, NotAfter: a.row.NotAfter, KeyID: a.kid,
	}
	if out.State == store.Published {
		out.State = store.Prepared
	}
	if at, ok := a.published(); ok {
		out.Published, out.Usable = at, at.Add(c.cfg.Propagation)
		if active, ok := a.saidAt(store.Active); ok && active.Before(out.Usable) {
			out.Usable = active // the first, or forced
		}
	}
	if a.usage != nil && a.usage.last.Load() > 0 {
		out.LastSVID = time.Unix(a.usage.last.Load(), 0).UTC()
	}
	if r := a.said(store.Retired); r != nil {
		out.LastSVID = r.EndsAt
	}
	if n := len(a.changes); n > 0 {
		last := a.said(a.state())
		if last == nil {
			last = &a.changes[n-1]
		}
		out.Reason, out.Actor = last.Reason, last.Actor
	}
	for _, cert := range a.certs {
		out.Public = append(out.Public, cert.Raw)
	}
	if len(a.certs) == 0 {
		out.Public = [][]byte{a.row.Public}
	}
	return out
}

// command does what an operator asks: f with the newest snapshot, under the lock
// of maintenance, and then what follows from it.
// withdrawing: it takes trust away, for which nothing else has to hold together.
func (c *CA) command(ctx context.Context, withdrawing bool, f func(s *snapshot) (store.Use, string, error)) (AuthorityInfo, error) {
	c.maintenance.Lock()
	info, err := c.commandLocked(ctx, withdrawing, f)
	ch := c.untold
	c.untold = Change{}
	c.maintenance.Unlock()
	c.tell(ch)
	return info, err
}

func (c *CA) commandLocked(ctx context.Context, withdrawing bool, f func(s *snapshot) (store.Use, string, error)) (AuthorityInfo, error) {
	if err := c.loadDocuments(ctx); err != nil {
		return AuthorityInfo{}, err
	}
	s, err := c.load(ctx)
	if err != nil {
		return AuthorityInfo{}, err
	}
	c.changed(s)
	if s.fault != nil && !withdrawing {
		return AuthorityInfo{}, s.fault
	}
	use, id, err := f(s)
	if err != nil {
		return AuthorityInfo{}, err
	}
	// What was asked is done and durable, or is said at the end not to be. What follows from it (documents, the one
	// that takes its place) is tried again by Run if it fails now.
	follow := c.maintainLocked(ctx, noStop)
	a := c.now.Load().find(use, id)
	if a == nil {
		return AuthorityInfo{}, errors.Join(fmt.Errorf("the %s authority %s: %w", use, id, store.ErrNotFound), follow)
	}
	return c.info(a), nil
}

// lookUp finds an authority, of this server or any.
func (c *CA) lookUp(s *snapshot, use store.Use, id string, own bool) (*authority, error) {
	a := s.find(use, id)
	switch {
	case a == nil:
		return nil, fmt.Errorf("the %s authority %.40q: %w", use, id, store.ErrNotFound)
	case own && a.row.Server != c.cfg.Chain:
		return nil, tooEarly("ask that server", "the %s authority %s is the server %s's", use, id, a.row.Server)
	}
	return a, nil
}

func tooEarly(hint, format string, args ...any) error {
	return &attest.Error{Kind: attest.Denied, Check: "authority_state", Err: fmt.Errorf("%w: %w", ErrTooEarly, fmt.Errorf(format, args...)), Hint: hint}
}

// Prepare makes the next authority of a use, and publishes it: ErrPrepared where
// there is one. It signs from Activate on, or when the one that signs is half over
// or tainted; never before the propagation time is over.
func (c *CA) Prepare(ctx context.Context, use store.Use, actor string) (AuthorityInfo, error) {
	if !slices.Contains(uses(), use) {
		return AuthorityInfo{}, fmt.Errorf("use %.20q: %w", use, store.ErrNotFound)
	}
	return c.command(ctx, false, func(s *snapshot) (store.Use, string, error) {
		now := c.cfg.Now()
		for _, a := range s.all {
			if a.row.Use == use && c.pending(a, now) {
				return "", "", fmt.Errorf("%w: %s", ErrPrepared, a.row.ID)
			}
		}
		if err := c.room(s, use, false); err != nil {
			return "", "", err
		}
		a, err := c.prepareNext(ctx, s, use, 2*c.cfg.Propagation)
		if err != nil {
			return "", "", err
		}
		if !byDocument(use) && !a.waits() {
			err = c.say(ctx, a, store.AuthorityChange{State: store.Published, At: c.cfg.Now(), Actor: actor})
		}
		return use, a.row.ID, err
	})
}

// prepareNext makes an authority, in any state of the others.
func (c *CA) prepareNext(ctx context.Context, s *snapshot, use store.Use, least time.Duration) (*authority, error) {
	if err := c.makeAuthority(ctx, use, store.Prepared, s.rows, least, noStop); err != nil {
		return nil, err
	}
	next, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	c.changed(next)
	for _, a := range slices.Backward(next.all) {
		if a.row.Use == use && a.row.Server == c.cfg.Chain && s.find(use, a.row.ID) == nil {
			return a, nil
		}
	}
	return nil, internal("authority", errors.New("the authority that was made is not there"))
}

// Activate has a prepared authority of this server sign from now on: ErrTooEarly
// before it has been published for the propagation time. One that signs already
// stays as it is.
func (c *CA) Activate(ctx context.Context, use store.Use, id, actor string) (AuthorityInfo, error) {
	return c.command(ctx, false, func(s *snapshot) (store.Use, string, error) {
		now := c.cfg.Now()
		a, err := c.lookUp(s, use, id, true)
		if err != nil {
			return "", "", err
		}
		if a == c.signer(s, use, now) {
			return use, id, nil
		}
		if !c.ready(a, now) {
			if c.pending(a, now) {
				from, ok := c.usable(a)
				if !ok {
					return "", "", tooEarly("a verifier or deny-list key needs a document by the verifier root's key, an X.509 authority its certificate", "it is not published yet")
				}
				return "", "", tooEarly("", "it signs from %s on: it must have been published for %v", from.Format(time.RFC3339), c.cfg.Propagation)
			}
			return "", "", tooEarly("`assay authority prepare` makes another", "it is %s", a.state())
		}
		return use, id, c.say(ctx, a, store.AuthorityChange{State: store.Active, At: now, Actor: actor})
	})
}

// Taint says that an authority of any server is not to be trusted any more. No
// server signs with it from then on, and agents who hold something of it are asked
// to attest again; it stays in the bundle until it is revoked, so that they can.
// One that signs needs another that can take its place: ErrTooEarly, unless force
// is set. Then its server makes one that signs at once, before others can know it.
func (c *CA) Taint(ctx context.Context, use store.Use, id, reason, actor string, force bool) (AuthorityInfo, error) {
	return became(store.Tainted)(c.command(ctx, true, func(s *snapshot) (store.Use, string, error) {
		now := c.cfg.Now()
		a, err := c.lookUp(s, use, id, false)
		if err != nil {
			return "", "", err
		}
		if lost := s.lostOf(a, store.Tainted); lost != nil {
			return use, id, c.restate(ctx, s, *lost)
		}
		if a.condemned() {
			return use, id, nil
		}
		ch := store.AuthorityChange{State: store.Tainted, At: now, Reason: reason, Actor: actor}
		if c.irreplaceable(s, a, now) {
			if !force {
				return "", "", tooEarly("`assay authority prepare` first, and taint it when that can sign; or --force: another signs at once, and relying parties with an older bundle refuse what it signs until they fetch the new one",
					"the %s authority %s signs, and the server %s has no other that can yet", use, id, a.row.Server)
			}
			ch.Body = []byte(forceTaint)
		}
		// First its successor, then the taint: there is no moment without one.
		if a.row.Server == c.cfg.Chain && a == s.pick(use, c.cfg.Chain, now) {
			if err := c.succeed(ctx, s, a, force, actor, now); err != nil {
				return "", "", err
			}
		}
		return use, id, c.say(ctx, a, ch)
	}))
}

// became fails where an authority has not become what was asked. A command that
// takes trust away must not seem to have done it.
func became(want store.State) func(AuthorityInfo, error) (AuthorityInfo, error) {
	return func(info AuthorityInfo, err error) (AuthorityInfo, error) {
		if err == nil && info.State != want && info.State != store.Revoked {
			return AuthorityInfo{}, fault("authority_state", fmt.Errorf("NOT DONE: the %s authority %s is %s", info.Use, info.ID, info.State), "see the server's warnings: `assay server status`")
		}
		return info, err
	}
}

// irreplaceable says that an authority signs, and its server has no other that may
// sign by now.
func (c *CA) irreplaceable(s *snapshot, a *authority, now time.Time) bool {
	if !a.signsAt(now) {
		return false
	}
	return !slices.ContainsFunc(s.all, func(o *authority) bool {
		if o == a || o.row.Use != a.row.Use || o.row.Server != a.row.Server || o.condemned() || !o.validAt(now) || o.said(store.Retired) != nil {
			return false
		}
		from, ok := c.usable(o)
		return ok && !now.Before(from) && (!byDocument(o.row.Use) || c.inDocument(o))
	})
}

// succeed has another authority of this server take the place of one that signs.
func (c *CA) succeed(ctx context.Context, s *snapshot, a *authority, force bool, actor string, now time.Time) error {
	var next *authority
	for _, o := range s.all {
		if o.row.Use == a.row.Use && c.ready(o, now) {
			next = o
		}
	}
	if next != nil {
		return c.say(ctx, next, store.AuthorityChange{State: store.Active, At: now, Reason: "the one before it is tainted", Actor: actor})
	}
	if !force {
		return nil
	}
	for _, o := range s.all {
		if o.row.Use == a.row.Use && c.pending(o, now) && !o.waits() {
			next = o
		}
	}
	if next == nil {
		if err := c.room(s, a.row.Use, true); err != nil {
			return err
		}
		made, err := c.prepareNext(ctx, s, a.row.Use, 0)
		if err != nil {
			return err
		}
		if made.waits() {
			return nil // it is tainted all the same: nobody signs until the upstream CA has answered
		}
		next = made
	}
	if byDocument(a.row.Use) && !c.inDocument(next) {
		// Relying parties take a key from a document alone: a few moments without
		// one do less harm than results that nobody can check.
		for _, kind := range documentKinds() {
			if _, err := c.renewDocument(ctx, kind, noStop, func(string, ...any) {}); err != nil {
				return err
			}
		}
		if !c.inDocument(next) {
			return tooEarly("bring the verifier root's key, and try again", "no document names the key that would take its place")
		}
	}
	at := c.cfg.Now()
	if _, ok := next.published(); !ok {
		if err := c.say(ctx, next, store.AuthorityChange{State: store.Published, At: at}); err != nil {
			return err
		}
	}
	return c.say(ctx, next, store.AuthorityChange{State: store.Active, At: at, Reason: forcedReason, Actor: actor, Body: insteadOf(a)})
}

// Revoke takes an authority of any server out of the bundle, or out of the
// documents: ErrTooEarly unless it is tainted, or has retired.
func (c *CA) Revoke(ctx context.Context, use store.Use, id, reason, actor string) (AuthorityInfo, error) {
	return became(store.Revoked)(c.command(ctx, true, func(s *snapshot) (store.Use, string, error) {
		a, err := c.lookUp(s, use, id, false)
		if err != nil {
			return "", "", err
		}
		if lost := s.lostOf(a, store.Revoked); lost != nil {
			return use, id, c.restate(ctx, s, *lost)
		}
		switch a.state() {
		case store.Revoked:
			return use, id, nil
		case store.Tainted, store.Retired:
			return use, id, c.say(ctx, a, store.AuthorityChange{State: store.Revoked, At: c.cfg.Now(), Reason: reason, Actor: actor})
		case store.Requested, store.Prepared, store.Published, store.Active:
		}
		return "", "", tooEarly("`assay authority taint` first: who has something of it attests again, and then nobody misses it", "it is %s", c.info(a).State)
	}))
}

// CSR is the certificate request of an X.509 authority of this server that waits
// for the upstream CA: PKCS#10, DER.
func (c *CA) CSR(_ context.Context, id string) ([]byte, error) {
	a, err := c.lookUp(c.now.Load(), store.X509, id, true)
	switch {
	case err != nil:
		return nil, err
	case a.row.State != store.Requested:
		return nil, tooEarly("", "it needs no upstream CA")
	}
	return slices.Clone(a.row.Public), nil
}

// Import hands in what the upstream CA made of the request of an authority of this
// server: its certificate and those above it, DER, in that order. The checks are
// those of the upstream.
func (c *CA) Import(ctx context.Context, id string, chain [][]byte, actor string) (AuthorityInfo, error) {
	return c.command(ctx, false, func(s *snapshot) (store.Use, string, error) {
		a, err := c.lookUp(s, store.X509, id, true)
		if err != nil {
			return "", "", err
		}
		if !a.waits() || a.condemned() {
			return "", "", tooEarly("", "it waits for no certificate: it is %s", c.info(a).State)
		}
		var certs []*x509.Certificate
		for i, der := range chain {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return "", "", &attest.Error{Kind: attest.Malformed, Check: "upstream_chain", Err: fmt.Errorf("certificate %d: %w", i+1, err)}
			}
			certs = append(certs, cert)
		}
		now := c.cfg.Now()
		whole, err := c.cfg.Upstream.accept(certs, a.public, c.td, now)
		if err != nil {
			return "", "", err
		}
		if !whole[0].NotAfter.After(now.Add(2 * c.cfg.Propagation)) {
			return "", "", &attest.Error{Kind: attest.Untrusted, Check: "upstream_validity",
				Err: fmt.Errorf("the intermediate ends at %s: it would end before others know it and its successor", whole[0].NotAfter.Format(time.RFC3339))}
		}
		return store.X509, id, c.say(ctx, a, store.AuthorityChange{State: store.Prepared, At: now, Actor: actor, Body: anchored(c.cfg.Upstream, whole)})
	})
}
