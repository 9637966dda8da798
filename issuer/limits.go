package issuer

import (
	"container/list"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
)

// Limits of those who have proved who they are: an instance by its evidence, an
// SVID or an administrator by a key. There is none by address, behind which may
// be any number of them.

// waitError is a refusal for want of room that says when there may be some.
type waitError struct {
	err   *attest.Error
	after time.Duration
}

func (w *waitError) Error() string { return w.err.Error() }
func (w *waitError) Unwrap() error { return w.err }

// The least and the most that a client is asked to wait.
const (
	minRetry = 250 * time.Millisecond
	maxRetry = time.Minute
)

// comeBack is a refusal of kind Unavailable: come back after so long.
func comeBack(check string, after time.Duration, what string) error {
	return &waitError{&attest.Error{Kind: attest.Unavailable, Check: check, Err: errors.New(what)}, after}
}

// retryOf is how long the client of a refusal is asked to wait: a little more
// than necessary, and not all the same, so that they do not come back together.
func retryOf(err error) time.Duration {
	var w *waitError
	if !errors.As(err, &w) {
		return retryAfter
	}
	after := min(max(w.after, minRetry), maxRetry)
	return after + rand.N(after/2) //nolint:gosec // not a secret
}

// maxRates is how many of a kind are remembered. Who is forgotten begins anew;
// to be forgotten takes as many others, each with evidence that verified.
const maxRates = 1 << 16

// rates holds a rate for each of many.
type rates struct {
	mu        sync.Mutex
	perMinute int
	max       int
	byKey     map[string]*list.Element
	recent    *list.List // of *keyedRate, the most recent first
}

type keyedRate struct {
	key   string
	limit *rate.Limiter
}

func newRates(perMinute int) *rates {
	return &rates{perMinute: perMinute, max: maxRates, byKey: map[string]*list.Element{}, recent: list.New()}
}

// resize changes the rate. What each has left of the old one is kept.
func (r *rates) resize(at time.Time, perMinute int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.perMinute == perMinute {
		return
	}
	r.perMinute = perMinute
	for e := r.recent.Front(); e != nil; e = e.Next() {
		if k, ok := e.Value.(*keyedRate); ok {
			k.limit.SetLimitAt(at, perMinuteRate(perMinute))
			k.limit.SetBurstAt(at, perMinute)
		}
	}
}

// perMinuteRate is so many a minute.
func perMinuteRate(n int) rate.Limit { return rate.Limit(float64(n) / 60) }

// take takes one, or says how long to wait until there is one.
func (r *rates) take(key string, at time.Time) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.byKey[key]
	if e == nil {
		for r.recent.Len() >= r.max {
			last := r.recent.Back()
			if k, ok := r.recent.Remove(last).(*keyedRate); ok {
				delete(r.byKey, k.key)
			}
		}
		e = r.recent.PushFront(&keyedRate{key, rate.NewLimiter(perMinuteRate(r.perMinute), r.perMinute)})
		r.byKey[key] = e
	}
	r.recent.MoveToFront(e)
	k, ok := e.Value.(*keyedRate)
	if !ok {
		return 0
	}
	return reserve(k.limit, at)
}

// reserve takes one from a limiter, or says how long to wait until there is one.
func reserve(l *rate.Limiter, at time.Time) (wait time.Duration) {
	x := l.ReserveN(at, 1)
	if wait = x.DelayFrom(at); wait > 0 {
		x.CancelAt(at)
	}
	return wait
}

// attested is called with evidence that verified. Checks: instance_rate and
// trust_domain_rate (unavailable).
func (s *Server) attested(v *verifiers.Verified) error {
	now := s.now()
	if wait := s.instances.take(v.Claims().Instance().Guest(), now); wait > 0 {
		s.metrics.limited.WithLabelValues("attestation", "instance").Inc()
		return comeBack("instance_rate", wait, "this instance attests too often")
	}
	if wait := reserve(s.perSecond, now); wait > 0 {
		s.metrics.limited.WithLabelValues("attestation", "trust_domain").Inc()
		return comeBack("trust_domain_rate", wait, "too many attestations in the trust domain")
	}
	return nil
}

// allowToken takes one JWT-SVID for an instance, whichever of its X.509-SVIDs asks:
// an attestation brings new certificates, and not new room. The error is of kind
// Unavailable and says when to come back. Check: token_rate.
func (s *Server) allowToken(instance attest.Instance) error {
	if wait := s.tokens.take(instance.Guest(), s.now()); wait > 0 {
		s.metrics.limited.WithLabelValues("token", "instance").Inc()
		return comeBack("token_rate", wait, "too many tokens for this instance")
	}
	return nil
}

// allowAdminCall takes one call of an administrator, by name and without what
// changes from call to call. The error is of kind Unavailable and says when to
// come back. Check: admin_rate.
func (s *Server) allowAdminCall(actor string) error {
	if wait := s.adminCalls.take(actor, s.now()); wait > 0 {
		s.metrics.limited.WithLabelValues("admin", "actor").Inc()
		return comeBack("admin_rate", wait, "too many calls of this administrator")
	}
	return nil
}

// limit puts the limits of a configuration in force.
func (s *Server) limit(c limitsOf) {
	now := s.now()
	s.instances.resize(now, c.AttestationsPerInstance)
	s.tokens.resize(now, c.TokensPerInstance)
	s.adminCalls.resize(now, c.AdminCalls)
	s.perSecond.SetLimitAt(now, rate.Limit(c.AttestationsPerSecond))
	s.perSecond.SetBurstAt(now, c.AttestationsPerSecond)
	s.unverified.resize(c.Unverified, c.UnverifiedPerAddress, int64(c.EventLogMiB)<<20)
}
