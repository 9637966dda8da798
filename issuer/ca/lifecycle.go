package ca

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// The life of an authority, and what each step waits for:
//
//	requested  (upstream CA elsewhere only) the operator brings its certificate
//	prepared   the row is durable; a verifier key: a signed document names it
//	published  its owner has read it back. It waits for the propagation time, and
//	           until the one before it is half over, or is tainted
//	active     signs. The one before it retires as soon as nobody signs with it
//	retired    waits until the last of what it signed has ended
//	revoked    is out of the bundle
//
// A step is a row that its owner signs; what to do next is decided from the rows
// alone (plan), so that a server goes on where it was killed, at any step.
//
// Who signs has been published for the propagation time: [CA.usable] says from
// when on. There are two exceptions. The first authority of a trust domain signs
// at once, since nobody can have an older bundle: the store lets one row of each
// use begin as active, while there is no other. And an operator who taints the
// one that signs can demand, with force, that another takes its place before
// others can know it.

// maxSVIDTTL is how long an SVID, and the result in it, can be good.
const maxSVIDTTL = policy.MaxX509TTL

// step is one thing to do.
type step struct {
	do  stepKind
	use store.Use
	a   *authority // nil for create
	why string
	// tainted are those in whose place it is, where that was forced.
	tainted []*authority
}

type stepKind string

const (
	create   stepKind = "create"
	publish  stepKind = "publish"
	activate stepKind = "activate"
	retire   stepKind = "retire"
	conclude stepKind = "conclude"
)

// usable is from when on an authority may sign; false before it is published.
func (c *CA) usable(a *authority) (time.Time, bool) {
	at, ok := a.published()
	return later(at.Add(c.cfg.Propagation), a.held), ok
}

// ready says that an authority of this server has been published for the
// propagation time and can sign.
func (c *CA) ready(a *authority, now time.Time) bool {
	from, ok := c.usable(a)
	return ok && !now.Before(from) && c.pending(a, now)
}

// pending says that an authority of this server has not signed yet, and may.
func (c *CA) pending(a *authority, now time.Time) bool {
	_, active := a.saidAt(store.Active)
	if active || a.condemned() || a.row.Server != c.cfg.Chain || a.signer == nil {
		return false
	}
	if a.waits() {
		return now.Before(a.row.NotAfter)
	}
	if from, ok := c.usable(a); ok && !from.Before(a.row.NotAfter) {
		return false
	}
	published, ok := a.published()
	return a.validAt(now) && (!ok || !published.After(now)) && (!byDocument(a.row.Use) || !ok || c.inDocument(a))
}

// forced are the authorities of this server that somebody has tainted and wants
// another in the place of at once, and that no other has taken the place of yet. A
// force holds for one change: what becomes of the one after it is nobody's
// emergency. Nor is it any more when the tainted one would have ended by now.
func forced(own []*authority, now time.Time) (out []*authority) {
	for _, a := range own {
		ch := a.said(store.Tainted)
		_, active := a.saidAt(store.Active)
		if active && ch != nil && string(ch.Body) == forceTaint && now.Before(a.row.NotAfter) &&
			!slices.ContainsFunc(own, func(o *authority) bool { return o != a && o.replaces(a) }) {
			out = append(out, a)
		}
	}
	return out
}

// replaces says whether an authority has taken the place of another: it was
// activated later, or says so itself, whatever the clock has done meanwhile.
func (a *authority) replaces(o *authority) bool {
	if _, active := a.saidAt(store.Active); !active {
		return false
	}
	ch := a.said(store.Active)
	return activatedAfter(a, o) || ch != nil && slices.Contains(strings.Fields(string(ch.Body)), o.row.ID)
}

// insteadOf is the body of an activation that was forced: the IDs of the
// authorities in whose place it is.
func insteadOf(tainted ...*authority) []byte {
	var ids []string
	for _, a := range tainted {
		ids = append(ids, a.row.ID)
	}
	return []byte(strings.Join(ids, " "))
}

// Bodies of changes: a taint that is not to wait, and the end of a life, which is
// nobody's distrust.
const (
	forceTaint = "force"
	concluded  = "concluded"
)

// forcedReason is the reason of an activation that did not wait.
const forcedReason = "forced: the one before it is tainted"

// plan is what to do next about the authorities of a use, or nil. It reads
// nothing but what it is given, and c.document.
func (c *CA) plan(s *snapshot, use store.Use, now time.Time) *step {
	var own, pending []*authority
	for _, a := range s.all {
		if a.row.Use != use {
			continue
		}
		if a.row.Server == c.cfg.Chain {
			own = append(own, a)
			if c.pending(a, now) {
				pending = append(pending, a)
			}
		}
	}
	current := pickFrom(s.all, use, c.cfg.Chain, now)
	for _, a := range pending {
		if _, ok := a.published(); !ok && !a.waits() && (!byDocument(use) || c.inDocument(a)) {
			return &step{do: publish, use: use, a: a}
		}
	}
	due := current == nil || !now.Before(current.half())
	for _, a := range slices.Backward(pending) {
		if _, ok := a.published(); !ok {
			continue
		}
		switch {
		case due && c.ready(a, now):
			return &step{do: activate, use: use, a: a}
		case current == nil && c.foremost(s, a):
			return &step{do: activate, use: use, a: a, why: "the first of the trust domain"}
		case current == nil && len(forced(own, now)) > 0:
			return &step{do: activate, use: use, a: a, why: forcedReason, tainted: forced(own, now)}
		}
	}
	for _, a := range own {
		if current != nil && a != current && a.signsAt(now) && a.signer != nil && !activatedAfter(a, current) && a.said(store.Retired) == nil && a.usage.close() {
			return &step{do: retire, use: use, a: a}
		}
	}
	// Before another one is made, and whether one can be: it makes room.
	for _, a := range s.all {
		if a.row.Use == use && !a.revoked() && a.over(now.Add(-c.patience(a))) {
			return &step{do: conclude, use: use, a: a}
		}
	}
	if len(pending) == 0 && due && !slices.ContainsFunc(own, func(a *authority) bool { return c.inVain(a, now) }) {
		return &step{do: create, use: use}
	}
	return nil
}

// inVain says that an authority was made less than a propagation time ago, and is
// no use. The next one would not be either: whatever the reason is, authorities are
// not made in a row.
func (c *CA) inVain(a *authority, now time.Time) bool {
	age := now.Sub(a.row.CreatedAt)
	_, active := a.saidAt(store.Active)
	return age >= 0 && age < c.cfg.Propagation && !active && !a.condemned() && !c.pending(a, now)
}

func activatedAfter(a, b *authority) bool {
	at, _ := a.saidAt(store.Active)
	bt, _ := b.saidAt(store.Active)
	return at.After(bt)
}

// patience is how much longer a server waits before it concludes the life of an
// authority that is another's, which may be down for good.
func (c *CA) patience(a *authority) time.Duration {
	if a.row.Server == c.cfg.Chain {
		return 0
	}
	return time.Hour
}

// foremost says that nobody can have an older bundle: it is the only row of its use
// in the database, believed or not. That is so for the first authority under an
// upstream CA elsewhere, which cannot begin as active.
func (c *CA) foremost(s *snapshot, a *authority) bool {
	return a.row.State == store.Requested && !slices.ContainsFunc(s.rows, func(row store.Authority) bool { return row.Use == a.row.Use && row.ID != a.row.ID })
}

// advance does what is due about every use, and leaves the newest snapshot in
// force. What can be done without the database's help is done though something
// else fails.
func (c *CA) advance(ctx context.Context, at stops, warn func(string, ...any)) error {
	s, err := c.load(ctx)
	if err != nil {
		return err
	}
	c.changed(s)
	var errs []error
	if len(s.missing)+len(s.lost) > 0 {
		errs = append(errs, c.sayAgain(ctx, s, warn))
		if s, err = c.load(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		c.changed(s)
	}
	if s.fault != nil {
		return errors.Join(append(errs, s.fault)...)
	}
	for _, use := range uses() {
		for range 128 { // a use needs a handful of steps at a time
			next := c.plan(s, use, c.cfg.Now())
			if next == nil {
				break
			}
			if err := c.take(ctx, s, next, at, warn); err != nil {
				errs = append(errs, err)
				break
			}
			if s, err = c.load(ctx); err != nil {
				return errors.Join(append(errs, err)...)
			}
			c.changed(s)
			if s.fault != nil {
				return errors.Join(append(errs, s.fault)...)
			}
		}
	}
	return errors.Join(errs...)
}

// changed puts a snapshot in force and remembers what to tell.
func (c *CA) changed(s *snapshot) {
	ch := c.publish(s)
	c.untold.Bundle = c.untold.Bundle || ch.Bundle
	c.untold.Tainted = append(c.untold.Tainted, ch.Tainted...)
}

// take does one step.
func (c *CA) take(ctx context.Context, s *snapshot, next *step, at stops, warn func(string, ...any)) error {
	now := c.cfg.Now()
	var err error
	switch next.do {
	case create:
		return c.create(ctx, s, next.use, at, warn)
	case publish:
		err = c.say(ctx, next.a, store.AuthorityChange{State: store.Published, At: now})
	case activate:
		err = c.say(ctx, next.a, store.AuthorityChange{State: store.Active, At: now, Reason: next.why, Body: insteadOf(next.tainted...)})
	case retire:
		err = c.say(ctx, next.a, store.AuthorityChange{State: store.Retired, At: now, EndsAt: c.lastOf(next.a, now)})
	case conclude:
		err = c.say(ctx, next.a, store.AuthorityChange{State: store.Revoked, At: now, Reason: "nothing that it signed is good any more", Body: []byte(concluded)})
	}
	if err != nil {
		return err
	}
	return at(string(next.use) + " " + string(next.do))
}

// create makes the next authority of a use. It does not fail where there is time
// to do something about it.
func (c *CA) create(ctx context.Context, s *snapshot, use store.Use, at stops, warn func(string, ...any)) error {
	head, err := c.cfg.Store.Head(ctx, c.td.Name(), c.cfg.Chain)
	if err != nil {
		return err
	}
	chains, err := c.cfg.Store.Chains(ctx, c.td.Name())
	if err != nil {
		return err
	}
	begin, others := store.Prepared, false
	for _, row := range s.rows {
		others = others || row.Use == use
	}
	own := slices.ContainsFunc(s.all, func(a *authority) bool { return a.row.Use == use && a.row.Server == c.cfg.Chain })
	if !own && head.Sequence > 0 && (use == store.X509 || use == store.Verifier) {
		return noAuthority(head.Sequence, use)
	}
	// Nobody has a bundle: of JWT and deny-list keys, which came later, only while
	// no other server has a record of anything either.
	joins := slices.ContainsFunc(chains, func(chain string) bool { return ledger.ChainOwner(chain) != c.cfg.Chain })
	if !others && head.Sequence == 0 && !joins {
		begin = store.Active
	}
	current := pickFrom(s.all, use, c.cfg.Chain, c.cfg.Now())
	if err := c.room(s, use, current == nil); err != nil {
		warn("the next %s authority cannot be made: %v", use, err)
		return errNothingToDo
	}
	if up := c.cfg.Upstream; current != nil && use == store.X509 && up.Signs() && !up.ends().After(current.row.NotAfter) {
		warn("the X.509 authority %s ends at %s, and the upstream CA at %s: the next one would end no later. Configure the upstream CA's next certificate",
			current.row.ID, current.row.NotAfter.Format(time.RFC3339), up.ends().Format(time.RFC3339))
		return errNothingToDo
	}
	least := 2 * c.cfg.Propagation
	err = c.makeAuthority(ctx, use, begin, s.rows, least, at)
	switch {
	case err == nil:
		return nil
	case begin == store.Active && errors.Is(err, store.ErrConflict): // another server was first, just now
		return c.makeAuthority(ctx, use, store.Prepared, s.rows, least, at)
	case attest.CheckOf(err) == "authority_spare" && (own || use == store.JWT || use == store.DenyList):
		warn("%v", err)
		return errNothingToDo
	case attest.CheckOf(err) == "upstream_validity" && own:
		warn("%v", err)
		return errNothingToDo
	}
	return err
}

// errNothingToDo ends the steps of a use; a warning says why.
var errNothingToDo = &attest.Error{Kind: attest.Unavailable, Check: "authority_next", Err: errors.New("the next authority cannot be made")}

// lastOf is when the last of what an authority signed ends: exactly, where this
// process has seen all of it; otherwise no later than what was granted last could.
func (c *CA) lastOf(a *authority, now time.Time) time.Time {
	last := time.Unix(a.usage.last.Load(), 0).UTC()
	switch {
	case a.row.Use == store.DenyList: // lists are signed elsewhere
		last = now.Add(c.longest(a.row.Use))
	case !a.usage.whole:
		last = later(last, a.usage.since.Add(c.longest(a.row.Use)))
	}
	last = later(last, now).UTC()
	if last.After(a.row.NotAfter) {
		last = a.row.NotAfter
	}
	return last
}
