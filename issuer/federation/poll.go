package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// How often an endpoint is asked. Its refresh hint counts between the two bounds: a
// low one would have us flood it, a high one would keep what it revokes alive here.
const (
	minInterval = 30 * time.Second
	maxInterval = time.Hour
	firstRetry  = 15 * time.Second // after a failure; doubled up to the interval
	claimTime   = 2 * fetchTimeout // how long the others wait for a server that died in its turn
	maxAtOnce   = 8                // fetches of this server
	idlePoll    = time.Minute      // the longest sleep: what was missed is found then
)

// interval is the time between two fetches of a bundle, before jitter.
func (f *Federations) interval(b *spiffebundle.Bundle) time.Duration {
	if b != nil {
		if hint, ok := b.RefreshHint(); ok && hint > 0 {
			// An operator who polls more often than the bound means it.
			return min(max(hint, min(minInterval, f.cfg.Poll)), maxInterval)
		}
	}
	return f.cfg.Poll
}

// retry is the time until the next fetch after so many failures in a row.
func (f *Federations) retry(b *spiffebundle.Bundle, failures int) time.Duration {
	return min(firstRetry<<min(max(failures-1, 0), 16), f.interval(b))
}

// jitter makes a time up to a fifth shorter, so that servers and federations that
// began together part, and nobody asks less often than the hint says.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/5+1) //nolint:gosec // no secret
}

// Run fetches what is due until ctx ends, and returns nil then. While the database
// cannot be reached nothing is fetched, and what is known is served on.
func (f *Federations) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxAtOnce)
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		due, next := f.due()
		for _, name := range due {
			if !f.begin(name) {
				continue
			}
			running.Go(func() {
				defer f.end(name)
				select {
				case slots <- struct{}{}:
					defer func() { <-slots }()
					f.turn(ctx, name)
				case <-ctx.Done():
				}
			})
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed:
			timer.Stop()
		case <-timer.C:
			if next == idlePoll { // also how a server learns what it was not told of
				if err := f.Reload(ctx); err != nil && ctx.Err() == nil {
					f.log.WarnContext(ctx, "federations cannot be read", "error", err)
				}
			}
		}
	}
}

// due lists what is to be fetched now, and how long to sleep otherwise.
func (f *Federations) due() (names []string, next time.Duration) {
	next = idlePoll
	now := f.cfg.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, e := range f.entries {
		if e.relation == nil || e.relation.profile == ByHand {
			continue
		}
		if wait := e.row.NextAt.Sub(now); wait > 0 && wait <= f.longest() {
			next = min(next, wait)
			continue
		}
		f.fetching.Lock()
		busy := f.busy[name]
		f.fetching.Unlock()
		if busy {
			next = min(next, 100*time.Millisecond)
		} else {
			names = append(names, name)
		}
	}
	return names, max(next, 10*time.Millisecond)
}

// longest is how far ahead a fetch can be due. What is due later than that was
// planned by a clock that was wrong, and is due now.
func (f *Federations) longest() time.Duration { return max(maxInterval, f.cfg.Poll) + claimTime }

func (f *Federations) begin(name string) bool {
	f.fetching.Lock()
	defer f.fetching.Unlock()
	if f.busy[name] {
		return false
	}
	f.busy[name] = true
	return true
}

func (f *Federations) end(name string) {
	f.fetching.Lock()
	defer f.fetching.Unlock()
	delete(f.busy, name)
}

// turn fetches one bundle, if no other server does.
func (f *Federations) turn(ctx context.Context, name string) {
	now := f.cfg.Now()
	due := now
	f.mu.Lock()
	if e := f.entries[name]; e != nil && e.row.NextAt.Sub(now) > f.longest() {
		due = e.row.NextAt
	}
	f.mu.Unlock()
	mine, err := f.cfg.Store.ClaimFederation(ctx, f.cfg.TrustDomain.Name(), name, due, now.Add(claimTime))
	if err == nil && mine {
		err = f.refresh(ctx, name)
		if attest.CheckOf(err) != "" {
			err = nil // of the endpoint: it is stored, and logged
		}
	}
	if err == nil {
		err = f.Reload(ctx) // whose turn it is next
	}
	if err != nil && ctx.Err() == nil {
		f.log.WarnContext(ctx, "a federation cannot be read or stored", "foreign_trust_domain", name, "error", err)
		select { // not at once again: the row is still due
		case <-ctx.Done():
		case <-time.After(jitter(5 * time.Second)):
		}
	}
}

// Refresh fetches a bundle now, whoever's turn it is. store.ErrNotFound; an error of
// the endpoint is an [attest.Error], and is in the status too.
func (f *Federations) Refresh(ctx context.Context, name string) (Status, error) {
	if err := f.Reload(ctx); err != nil {
		return Status{}, err
	}
	if _, err := f.status(name); err != nil {
		return Status{}, err
	}
	if err := f.refresh(ctx, name); err != nil {
		return Status{}, err
	}
	if err := f.Reload(ctx); err != nil {
		return Status{}, err
	}
	return f.status(name)
}

// refresh fetches and stores: the bundle where it is new, and how it went.
func (f *Federations) refresh(ctx context.Context, name string) error {
	f.mu.Lock()
	e := f.entries[name]
	f.mu.Unlock()
	switch {
	case e == nil:
		return nil // removed meanwhile
	case e.relation == nil:
		return refused("federation_row", errors.New("the federation is not used: "+e.fault), "set it again")
	case e.relation.profile == ByHand:
		return refused("federation_profile", fmt.Errorf("the bundle of %s is handed in: there is no endpoint", name), "")
	}
	doc, err := f.fetch(ctx, e.relation, f.source(e.relation))
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping: that is no fault of the endpoint
	}
	// One after the other, each with what was stored before it: bundles that come at
	// the same time must fit together.
	f.storing.Lock()
	defer f.storing.Unlock()
	if rerr := f.Reload(ctx); rerr != nil {
		return rerr
	}
	row, now := e.row, f.cfg.Now()
	row.CheckedAt = now
	next := e.bundle
	if err == nil {
		next, err = f.accept(ctx, e, doc)
	}
	if err != nil {
		row.Failures++
		row.Error = faultOf(err)
		row.NextAt = now.Add(jitter(f.retry(e.bundle, row.Failures)))
		f.log.WarnContext(ctx, "a foreign bundle could not be fetched; the last good one is served on", "foreign_trust_domain", name,
			"check", attest.CheckOf(err), "error", err.Error(), "failures", row.Failures, "retry_at", row.NextAt)
		return errors.Join(err, f.checked(ctx, row))
	}
	row.Failures, row.Error = 0, ""
	row.NextAt = now.Add(jitter(f.interval(next)))
	if bytes.Equal(doc, e.row.Bundle) {
		return f.checked(ctx, row)
	}
	row.Version++
	row.Bundle, row.FetchedAt = doc, now
	if err := f.cfg.Seal.bundle(&row); err != nil {
		return err
	}
	err = f.cfg.Store.PutFederation(ctx, row)
	if errors.Is(err, store.ErrConflict) {
		return nil // it was set anew, or another server was faster: what it stored counts
	}
	return err
}

// checked stores how it went. Settings that changed meanwhile make it meaningless.
func (f *Federations) checked(ctx context.Context, row store.Federation) error {
	if err := f.cfg.Store.FederationChecked(ctx, row); !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}

// accept reads a document that was fetched and compares it with the bundle before.
// The checks, beside those of Parse:
//
//	bundle_rollback  the sequence number is not lower than before, and there is one if there was
//	bundle_budget    all bundles together fit into what agents are sent
func (f *Federations) accept(ctx context.Context, e *entry, doc []byte) (*spiffebundle.Bundle, error) {
	b, ignored, err := Parse(e.relation.td, doc)
	if err != nil {
		return nil, err
	}
	if err := f.budget(e.row.Name, len(doc)); err != nil {
		return nil, err
	}
	log := f.log.With("foreign_trust_domain", e.row.Name)
	if e.bundle != nil {
		was, counted := e.bundle.SequenceNumber()
		is, counts := b.SequenceNumber()
		switch {
		case counted && counts && is < was:
			return nil, &attest.Error{Kind: attest.Stale, Check: "bundle_rollback", Err: fmt.Errorf("the sequence number is %d, and was %d before", is, was),
				Hint: "an old copy is served; where the trust domain was really made anew, remove the federation and add it again"}
		case counted && counts && is == was && !b.Equal(e.bundle):
			log.WarnContext(ctx, "a foreign bundle changed without its sequence number", "sequence", is)
		case counted && !counts: // else an old copy would come back in two steps
			return nil, &attest.Error{Kind: attest.Stale, Check: "bundle_rollback", Err: fmt.Errorf("there is no sequence number, and it was %d before", was),
				Hint: "an old copy is served; where the trust domain has really given up its numbers, remove the federation and add it again"}
		}
	}
	if bytes.Equal(doc, e.row.Bundle) {
		return b, nil
	}
	for i, why := range ignored {
		if i == 5 {
			break
		}
		log.WarnContext(ctx, "a key of a foreign bundle is ignored", "why", why)
	}
	if b.Empty() {
		log.WarnContext(ctx, "a foreign bundle has no usable key: no identity of that trust domain is accepted any more")
	}
	seq, _ := b.SequenceNumber()
	log.InfoContext(ctx, "new foreign bundle", "sequence", seq, "x509_authorities", len(b.X509Authorities()), "jwt_authorities", len(b.JWTAuthorities()))
	return b, nil
}
