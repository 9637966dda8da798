package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
)

// recheck is the longest sleep before the clock is looked at again: timers
// stand still while a machine is suspended, the agent's time does not.
const recheck = 30 * time.Second

// minInterval is the least time between two attestations that succeed: events
// of a server that asks again and again are taken together.
const minInterval = time.Second

// haltedRetry is how long an agent waits, at least, before it asks for the time
// again while the wall clock departs from it.
const haltedRetry = time.Minute

// schedule is when to attest next. The moment is drawn once when an SVID
// arrives; later events only bring it forward.
type schedule struct {
	mu    sync.Mutex
	at    time.Time
	floor time.Time // an event brings the moment no further forward than this
	wake  chan struct{}

	busy  bool      // an attestation is under way
	asked time.Time // the moment that events asked for meanwhile; zero for none
}

func newSchedule() *schedule { return &schedule{wake: make(chan struct{}, 1)} }

// begin and end are an attestation. What it brings may have been decided before
// an event that comes while it is under way, so that event is not lost with the
// moment that is set by its result.
func (s *schedule) begin() {
	s.mu.Lock()
	s.busy, s.asked = true, time.Time{}
	s.mu.Unlock()
}

func (s *schedule) end() {
	s.mu.Lock()
	s.busy, s.asked = false, time.Time{}
	s.mu.Unlock()
}

// set fixes the moment, and how far forward events may bring it, those included
// that came during the attestation. It returns the moment.
func (s *schedule) set(at, floor time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.floor = at, floor
	if !s.asked.IsZero() && s.asked.Before(at) {
		s.at = s.asked
		if s.at.Before(floor) {
			s.at = floor
		}
	}
	return s.at
}

// advance brings the moment forward, never back.
func (s *schedule) advance(at time.Time) {
	s.mu.Lock()
	if s.busy && (s.asked.IsZero() || at.Before(s.asked)) {
		s.asked = at
	}
	if at.Before(s.floor) {
		at = s.floor
	}
	sooner := at.Before(s.at)
	if sooner {
		s.at = at
	}
	s.mu.Unlock()
	if sooner {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// next returns the moment.
func (s *schedule) next() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// wait returns nil when the moment has come, by the given clock.
func (s *schedule) wait(ctx context.Context, now func() time.Time) error {
	for {
		left := s.next().Sub(now())
		if left <= 0 {
			return ctx.Err()
		}
		t := time.NewTimer(min(left, recheck))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-s.wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// between draws a moment in the window, uniformly.
func between(after, before time.Time) time.Time {
	if w := before.Sub(after); w > 0 {
		return after.Add(rand.N(w)) //nolint:gosec // jitter, not a secret
	}
	return after
}

// renewal keeps the agent's identities fresh for as long as ctx lasts. Nothing
// that a server does or fails to do ends it.
func (m *member) renewal(ctx context.Context) error {
	l, err := m.dial(nil)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	var pause backoff
	for {
		if err := m.plan.wait(ctx, m.time.now); err != nil {
			return nil // the agent is stopping
		}
		m.plan.begin()
		err := m.attestAll(ctx, l)
		m.plan.end()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			pause.reset()
			continue
		}
		wait := retryAfter(err, &pause)
		if v := m.state.renewable(); v != nil && !told(err) {
			wait = hurry(wait, v.notAfter().Sub(m.time.now()))
		}
		m.health.failed(err)
		if m.state.deny(err) {
			m.tokens.forget() // no token that was kept is handed out after a denial
		}
		m.past.failed(err, m.agent.cfg.Clock.Wall(), wait)
		m.logFailure(ctx, err, wait)
		if !answered(err) {
			// gRPC would try on by itself, once a second, for as long as the connection is
			// kept: a thousand agents would meet a server that comes back within one.
			_ = l.Close()
			if l, err = m.dial(nil); err != nil {
				return err
			}
		}
		// The wait is measured without the anchored clock: a host that holds the
		// machine must not be able to shorten or stretch it to never.
		if sleep(ctx, wait) != nil {
			return nil
		}
		m.plan.set(m.time.now(), time.Time{})
	}
}

// attestAll attests until there is one key for each identity that policy
// grants: the agent learns their number from the first answer and remembers it.
//
// At boot nothing is served before all of it is there: a program that fetches once
// would have one of its identities, or all, by chance. Where the second attestation
// fails, or takes longer than secondPatience, the first one's are served.
func (m *member) attestAll(ctx context.Context, l *link) error {
	defer m.served()
	for {
		issued, err := m.attestOnce(ctx, l)
		if err == nil {
			err = m.fits(issued.svids, issued.bundle)
		}
		if err != nil {
			return err
		}
		asked := len(m.ids)
		all := len(m.of.Identities) > 0 || issued.more == 0 || asked == attest.MaxKeys
		if !all && m.state.await() {
			defer time.AfterFunc(secondPatience, m.served).Stop()
		}
		m.adopt(issued)
		if all {
			// Keys that received nothing are not made again.
			if len(m.of.Identities) == 0 {
				m.ids = m.ids[:len(issued.svids)]
			}
			if issued.more > 0 {
				m.log.Warn("policy grants more identities than this agent asks for", "more", issued.more, "asked", asked, "reference", issued.reference)
			}
			return nil
		}
		m.ids = make([]string, min(asked+issued.more, attest.MaxKeys))
		m.log.Debug("policy grants further identities, attesting again with a key for each", "keys", len(m.ids))
	}
}

// secondPatience is how long the identities of a first attestation wait for those of
// the second.
const secondPatience = 15 * time.Second

// served serves what is held.
func (m *member) served() {
	m.state.serve()
	m.reportHealth()
}

// attestOnce renews where there is a live SVID, and attests as at boot where
// there is none or where the server does not accept the renewal.
func (m *member) attestOnce(ctx context.Context, l *link) (*issuance, error) {
	try := &attestation{
		td: m.of.TrustDomain, serverID: m.server.id, attester: m.agent.cfg.Attester, time: m.time,
		keyType: m.agent.cfg.KeyType, holder: m.holder, ids: m.ids, previous: m.state.renewable(),
	}
	issued, err := guard(func() (*issuance, error) { return try.run(ctx, l) })
	if try.previous != nil && attest.CheckOf(err) == checkKeyGone {
		m.log.Warn("the TPM was reset, and the keys in it are gone: attesting as at boot")
		m.agent.keysGone(m)
		try.previous = nil
		issued, err = guard(func() (*issuance, error) { return try.run(ctx, l) })
	}
	var refused *Refusal
	if try.previous != nil && errors.As(err, &refused) && refused.ofRenewal() {
		m.log.Warn("the server does not accept the renewal proof, attesting as at boot", "kind", refused.Kind.String(), "check", refused.Check, "reference", refused.Reference)
		try.previous = nil
		issued, err = guard(func() (*issuance, error) { return try.run(ctx, l) })
	}
	return issued, err
}

// adopt takes what was issued into use, and draws the moment of the next
// renewal.
func (m *member) adopt(is *issuance) {
	m.watchClock() // the challenge anchored the time: a clock that departs must halt before there is more to serve
	switch m.state.adopt(is.svids, is.bundle) {
	case notOlder:
	case leftOut:
		m.log.Warn("the server's trust bundle is older than the one that is held, which is kept for now", "sequence", is.bundle.sequence, "revision", is.bundle.revision, "at_most", maxBehind.String())
	case taken:
		m.log.Warn("the server's trust bundle is older than the one that was held, and takes its place: that one does not vouch for what the server issues, or no server had its like for too long", "sequence", is.bundle.sequence, "revision", is.bundle.revision)
	}
	m.warnOfDropped(is.bundle)
	next := between(is.renewAfter, is.renewBefore)
	if _, tooFar := m.time.departure(); tooFar {
		// It may be that server's clock which is wrong: ask again, perhaps another.
		if again := m.time.now().Add(haltedRetry); again.Before(next) {
			next = between(again, again.Add(haltedRetry))
		}
	}
	soonest := m.time.now().Add(minInterval)
	if next.Before(soonest) {
		next = soonest
	}
	next = m.plan.set(next, soonest)
	m.past.succeeded(is.reference, m.agent.cfg.Clock.Wall())
	m.health.succeeded()
	m.reportHealth()
	names := make([]string, len(is.svids))
	for i, v := range is.svids {
		names[i] = v.id.String()
	}
	m.log.Info("attested", "identities", names, "not_after", stamp(is.svids[0].notAfter()), "renew_at", stamp(next), "reference", is.reference)
}

// retryAfter is how long to wait after a failure.
func retryAfter(err error, b *backoff) time.Duration {
	base, limit := retryBase, retryCap
	if attest.KindOf(err) == attest.Denied {
		base, limit = deniedBase, deniedCap
	}
	wait := b.next(base, limit)
	var refused *Refusal
	if errors.As(err, &refused) && refused.RetryAfter > 0 {
		// At least what the server asks for, and spread: it asks everybody.
		wait = refused.RetryAfter + rand.N(refused.RetryAfter/2+retryFloor) //nolint:gosec // jitter
	}
	return wait
}

// told reports whether the server answered, and said how it is to be: then an agent
// that hurries only asks more often.
func told(err error) bool {
	var refused *Refusal
	return attest.KindOf(err) == attest.Denied || errors.As(err, &refused) && refused.RetryAfter > 0
}

// answered reports whether it was the server that refused: the connection is good.
func answered(err error) bool {
	var refused *Refusal
	return errors.As(err, &refused)
}

// hurry shortens a wait that would take a large part of what is left of an SVID: a
// server that was away is tried four times more at least before it ends.
func hurry(wait, left time.Duration) time.Duration {
	top := max(left/4, retryBase)
	if left <= 0 || wait <= top {
		return wait
	}
	return top/2 + rand.N(top/2) //nolint:gosec // jitter, not a secret
}

// logFailure says what failed, where to look, and whether anything is still
// served.
func (m *member) logFailure(ctx context.Context, err error, wait time.Duration) {
	left := "no identity is served"
	if v := m.state.renewable(); v != nil {
		left = "identities held stay valid until " + stamp(v.notAfter())
	}
	attrs := []any{"kind", attest.KindOf(err).String(), "check", attest.CheckOf(err), "error", err.Error(), "retry_in", wait.Round(time.Millisecond).String(), "meanwhile", left}
	var refused *Refusal
	if errors.As(err, &refused) {
		attrs = append(attrs, "reference", refused.Reference)
	}
	var e *attest.Error
	if errors.As(err, &e) && e.Hint != "" {
		attrs = append(attrs, "hint", e.Hint)
	}
	msg := "attestation failed"
	if attest.KindOf(err) == attest.Denied {
		msg = "attestation denied by policy; the server's ledger explains it under the reference"
	}
	m.log.WarnContext(ctx, msg, attrs...)
}

// guard turns a panic in a library that reads bytes from elsewhere into an
// error: the agent goes on serving what it holds.
func guard[T any](f func() (T, error)) (out T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &attest.Error{Kind: attest.Internal, Check: "panic", Err: fmt.Errorf("%v", r)}
		}
	}()
	return f()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
