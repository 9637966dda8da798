package ca

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// notReady is why nothing is signed for a use.
func (c *CA) notReady(s *snapshot, use store.Use, now time.Time) error {
	var wait *authority
	var ended, held *authority
	for _, a := range s.all {
		if a.row.Use != use || a.row.Server != c.cfg.Chain {
			continue
		}
		if now.Before(a.held) && !a.condemned() && a.said(store.Retired) == nil && a.validAt(now) {
			held = a
		}
		if c.pending(a, now) {
			wait = a
		} else if _, active := a.saidAt(store.Active); active {
			ended = a
		}
	}
	unavailable := func(check, hint, format string, args ...any) error {
		return &attest.Error{Kind: attest.Unavailable, Check: check, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	switch {
	case wait != nil && wait.waits():
		return unavailable("authority_not_ready", "`assay authority csr` and `assay authority import`", "the %s authority %s waits for the upstream CA", use, wait.row.ID)
	case wait != nil:
		from, ok := c.usable(wait)
		if !ok {
			return unavailable("authority_not_ready", "bring the verifier root's key to a server of the trust domain", "the %s authority %s is not published yet: no document of the verifier root names it", use, wait.row.ID)
		}
		return unavailable("authority_not_ready", "", "the %s authority %s signs from %s on: it must have been published for %v", use, wait.row.ID, from.Format(time.RFC3339), c.cfg.Propagation)
	case held != nil:
		return unavailable("authority_not_ready", "or taint it: its successor then signs as soon as it is known", "the %s authority %s may have retired in the time that the restored database has lost: it signs from %s on", use, held.row.ID, held.held.Format(time.RFC3339))
	case ended != nil && !now.Before(ended.row.NotAfter):
		return unavailable("authority_expired", "check the clock", "the %s authority %s ended at %s", use, ended.row.ID, ended.row.NotAfter.Format(time.RFC3339))
	case ended != nil && ended.condemned():
		return unavailable("authority_not_ready", "`assay authority list`", "the %s authority %s is %s, and no other can sign", use, ended.row.ID, ended.state())
	}
	return unavailable("authority_not_ready", "`assay authority list`", "this server has no %s authority that can sign", use)
}

// Ready is nil when this server can issue: one of its X.509 authorities and one
// of its verifier keys sign, which others can know. Otherwise the error, of kind
// Unavailable, says what it waits for. A server that has lost touch with the
// others is not ready either: it would show relying parties an old bundle. Nor is
// one whose own rows in the database do not hold together.
func (c *CA) Ready() error {
	s, now := c.now.Load(), c.cfg.Now()
	if age, limit := now.Sub(time.Unix(0, c.loaded.Load())), max(2*interval, c.cfg.Propagation/4); age > limit {
		return &attest.Error{Kind: attest.Unavailable, Check: "authorities_stale", Err: fmt.Errorf("what other servers say of their authorities has not been read for %v", age.Truncate(time.Second))}
	}
	if s.fault != nil {
		return &attest.Error{Kind: attest.Unavailable, Check: "authorities_fault", Err: s.fault}
	}
	for _, use := range []store.Use{store.X509, store.Verifier} {
		if c.signer(s, use, now) == nil {
			return c.notReady(s, use, now)
		}
	}
	return nil
}

// signer is the authority of a use that signs at a time, or nil. One that relying
// parties know by a document signs only while the newest one names it.
func (c *CA) signer(s *snapshot, use store.Use, now time.Time) *authority {
	a := s.pick(use, c.cfg.Chain, now)
	if a != nil && byDocument(use) && !c.inDocument(a) {
		return nil
	}
	return a
}

// jwtAuthority is the JWT authority that signs now. Before a signature, call its
// use with the end of the token; on errSuperseded ask for the authority anew. It
// reads no database. The error, of kind Unavailable, says why there is none.
func (c *CA) jwtAuthority(context.Context) (*authority, error) {
	s, now := c.now.Load(), c.cfg.Now()
	if a := c.signer(s, store.JWT, now); a != nil {
		return a, nil
	}
	return nil, c.notReady(s, store.JWT, now)
}
