package collateral

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// The schedule of [Source.Run].
const (
	// DefaultRefresh is the longest time between two looks at a CRL. AMD's live for
	// about a year, and a revocation should not take half of that to arrive.
	DefaultRefresh = 24 * time.Hour
	// chainRefresh is the time between two looks at an ASK or ASVK.
	chainRefresh = 7 * 24 * time.Hour
	// leastRefresh keeps a CRL that is about to expire from being fetched without a
	// rest.
	leastRefresh = time.Hour

	baseRetry    = time.Minute      // after the first failure; twice as long after each further one
	topRetry     = time.Hour        // the most
	tokenWait    = 5 * time.Second  // until the next look for a token
	rescanPeriod = 15 * time.Second // between two looks at the directory
)

// job is one thing that is fetched again and again.
type job struct {
	slot
	chain    bool // the ASK or ASVK; else the CRL
	next     time.Time
	failures int
}

func (j *job) String() string {
	if j.chain {
		return j.slot.String() + " chain"
	}
	return j.slot.String() + " CRL"
}

// Run keeps CRLs, ASKs and ASVKs fresh, and sees what other processes put into
// the cache directory, until the context ends; then it returns nil. A KDS that
// fails is asked again, later each time: no outage ends Run.
//
// A CRL is looked for again at half of its life, and at least every
// [Config.Refresh], a little earlier at random so that servers do not come all at
// once. A restart does not begin anew: the files' dates say when that was last
// done.
func (s *Source) Run(ctx context.Context) error {
	jobs := s.jobs()
	scan := s.now().Add(rescanPeriod)
	for {
		now := s.now()
		if !now.Before(scan) {
			if err := s.cache.Rescan(); err != nil {
				s.log.WarnContext(ctx, "the collateral cache cannot be read again", "error", err.Error())
			}
			scan = now.Add(rescanPeriod)
		}
		next := scan
		for _, j := range jobs {
			if !j.next.After(now) {
				s.work(ctx, j)
			}
			if j.next.Before(next) {
				next = j.next
			}
		}
		t := time.NewTimer(max(next.Sub(s.now()), 0))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// jobs are the CRLs first: revocation is what a server must not lack.
func (s *Source) jobs() []*job {
	if s.kds == nil {
		return nil
	}
	now := s.now()
	var out []*job
	for _, at := range slots(s.cache.trust.roots) {
		j := &job{slot: at, next: now}
		if o, checked := s.cache.crl(at); o != nil && !checked.After(now) {
			j.next = s.crlDue(o, checked)
		}
		out = append(out, j)
	}
	for _, at := range slots(s.cache.trust.roots) {
		out = append(out, &job{slot: at, chain: true, next: now})
	}
	return out
}

// crlDue is when a CRL that was looked for at a time is looked for again.
func (s *Source) crlDue(o *Object, at time.Time) time.Time {
	d := s.refresh
	if !o.NotAfter.IsZero() {
		half := o.NotBefore.Add(o.NotAfter.Sub(o.NotBefore) / 2)
		d = min(d, max(half.Sub(at), min(leastRefresh, s.refresh)))
	}
	return at.Add(jitter(d, 0.1))
}

// work does a job that is due, and says when it is due again.
func (s *Source) work(ctx context.Context, j *job) {
	now := s.now()
	if !s.kds.spare() {
		j.next = now.Add(max(s.kds.pause(), tokenWait))
		return
	}
	var err error
	if j.chain {
		err = s.refreshChain(ctx, j.slot)
		j.next = now.Add(jitter(chainRefresh, 0.1))
	} else {
		var o *Object
		if o, err = s.refreshCRL(ctx, j.slot); err == nil {
			j.next = s.crlDue(o, now)
		}
	}
	switch {
	case err == nil:
		j.failures = 0
		s.refreshed.Add(1)
	case ctx.Err() != nil:
	default:
		s.refreshFailed.Add(1)
		d := jitter(min(baseRetry<<min(j.failures, 10), topRetry), 0.5)
		j.failures++
		j.next = now.Add(max(d, s.kds.pause()))
		s.log.WarnContext(ctx, "collateral could not be refreshed", "what", j.String(), "error", err.Error(), "retry", j.next)
	}
}

// Refresh fetches the ASK or ASVK and the CRL of a product line now: what Run
// does on its schedule. The first error is returned, and the rest done all the
// same.
func (s *Source) Refresh(ctx context.Context, product, signingKey string) error {
	if s.kds == nil {
		return ErrNone
	}
	at := slot{product, signingKey}
	_, err := s.refreshCRL(ctx, at)
	if chainErr := s.refreshChain(ctx, at); err == nil {
		err = chainErr
	}
	return err
}

// refreshCRL fetches a CRL. Keeping the one that we have is a success if it is
// the very same. One that has expired is a failure, kept or not: there must be a
// newer one, and somebody is keeping it from us.
func (s *Source) refreshCRL(ctx context.Context, at slot) (*Object, error) {
	der, err := s.kds.CRL(ctx, at.product, at.signingKey)
	if errors.Is(err, ErrNone) {
		return nil, s.kds.wrong("it has no CRL for " + at.String())
	}
	if err != nil {
		return nil, err
	}
	o, stored, err := s.cache.PutCRL(at.product, at.signingKey, der)
	if err != nil {
		s.refused.Add(1)
		return nil, &attest.Error{Kind: attest.Untrusted, Check: "kds", Err: err}
	}
	held, _ := s.cache.crl(at)
	now := s.now()
	switch {
	case !stored && held != nil && held.newerThan(o):
		s.refused.Add(1)
		return nil, &attest.Error{Kind: attest.Stale, Check: "kds", Err: fmt.Errorf("the CRL of %s that it gave is older than the one that is held", at)}
	case !o.NotAfter.IsZero() && now.After(o.NotAfter):
		s.refused.Add(1)
		return nil, &attest.Error{Kind: attest.Stale, Check: "kds", Err: fmt.Errorf("the CRL of %s that it gave expired at %s", at, o.NotAfter.UTC().Format(time.RFC3339))}
	}
	s.cache.touch(at, now)
	return held, nil
}

// refreshChain fetches an ASK or ASVK. The ARK beside it must be the pinned one:
// another is never taken, and worth an alarm.
func (s *Source) refreshChain(ctx context.Context, at slot) error {
	ders, err := s.kds.Chain(ctx, at.product, at.signingKey)
	if errors.Is(err, ErrNone) {
		return s.kds.wrong("it has no certificate chain for " + at.String())
	}
	if err != nil {
		return err
	}
	ark := s.cache.trust.roots.Root(at.product)
	var first error
	found := false
	for _, der := range ders {
		if bytes.Equal(der, ark.Raw) {
			continue
		}
		o, _, err := s.cache.PutCertificate(der)
		switch {
		case err == nil && o.Product == at.product && o.SigningKey == at.signingKey && (o.Kind == ASK || o.Kind == ASVK):
			found = true
		case first == nil:
			if err == nil {
				err = fmt.Errorf("a %s of %s is not of this chain", o.Kind, o.Product)
			}
			first = err
		}
	}
	if first == nil && !found {
		first = errors.New("no ASK or ASVK is in it")
	}
	if first != nil {
		s.refused.Add(1)
		return &attest.Error{Kind: attest.Untrusted, Check: "kds", Err: fmt.Errorf("the certificate chain of %s: %w", at, first), Hint: "a root is pinned, never taken from the network; a new one comes with a new version of this software"}
	}
	return nil
}
