package collateral

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/lru"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// Bounds on what one chip can cause, however often its name is used. Its
// reported TCB is a stranger's word until the report's signature has verified.
const (
	chipBurst    = 2                // requests at once for one chip
	chipInterval = 10 * time.Minute // one further request for each
	maxTCBs      = 256              // endorsements of one chip that are written
	maxPending   = 1024             // fetched endorsements that have verified no report yet, in memory
	keepRetry    = time.Minute      // until the next attempt to write one of them, after a failure
	maxChips     = 16_384           // chips whose rate is remembered
	maxNegatives = 4096             // answers "there is none" that are remembered
	negativeLife = time.Hour        // and how long
)

// Config describes a [Source].
type Config struct {
	// Cache keeps what there is. Required.
	Cache *Cache
	// KDS is where the rest is fetched, nil for never.
	KDS *KDS
	// Allowed says whether a VCEK may be fetched for a chip: whether the operator's
	// inventory, or a chip set of an enforced policy, names it. chipID has the
	// report's 64 bytes. nil allows none. It is called for every endorsement that is
	// not held, at a stranger's word: it must be fast.
	Allowed func(product string, chipID []byte) bool
	// Refresh is the longest time between two looks at a CRL; 0 = DefaultRefresh.
	Refresh time.Duration
	Now     func() time.Time // nil = time.Now
	Log     *slog.Logger     // nil = no log
}

// Source implements [sevsnp.Collateral] for a server: cache first, KDS last.
type Source struct {
	cache   *Cache
	kds     *KDS
	allowed func(product string, chipID []byte) bool
	refresh time.Duration
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex
	flights map[objectKey]*flight
	none    *lru.Cache[objectKey, time.Time] // until when the KDS is not asked again
	pending *lru.Cache[objectKey, *held]     // fetched, but no report has verified with it yet
	chips   *lru.Cache[chipKey, *rate.Limiter]

	notAllowed, negative, chipLimited, fetched, fetchFailed, refused, joined atomic.Uint64
	refreshed, refreshFailed                                                 atomic.Uint64
}

var (
	_ sevsnp.Collateral   = (*Source)(nil)
	_ sevsnp.IssuerSource = (*Source)(nil)
	_ sevsnp.Keeper       = (*Source)(nil)
)

// flight is a fetch that others may wait for.
type flight struct {
	done chan struct{}
	der  []byte
	err  error
}

// New makes a source. It starts nothing: see [Source.Run].
func New(c Config) (*Source, error) {
	switch {
	case c.Cache == nil:
		return nil, errors.New("collateral: a source needs a cache")
	case c.Refresh < 0:
		return nil, fmt.Errorf("collateral: refresh every %s, want more than 0", c.Refresh)
	}
	if c.Refresh == 0 {
		c.Refresh = DefaultRefresh
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Allowed == nil {
		c.Allowed = func(string, []byte) bool { return false }
	}
	return &Source{
		cache: c.Cache, kds: c.KDS, allowed: c.Allowed, refresh: c.Refresh, now: c.Now, log: c.Log,
		flights: make(map[objectKey]*flight),
		none:    lru.New[objectKey, time.Time](maxNegatives),
		pending: lru.New[objectKey, *held](maxPending),
		chips:   lru.New[chipKey, *rate.Limiter](maxChips),
	}, nil
}

// Endorsement finds the certificate of a report's signing key. The steps, each
// of which may end it:
//
//  1. What cannot exist (a masked chip) is not looked for.
//  2. Cache. An endorsement that has expired counts as missing, as long as
//     another can be fetched.
//  3. A VLEK, and a chip that the operator has not named, is never fetched.
//  4. What the KDS did not have lately is not asked for again.
//  5. One request for all who wait for the same, if the chip's rate and the KDS's
//     permit; what comes is verified and must be what was asked for. It is held in
//     memory; the cache gets it when a report has verified with it ([Source.Keep]).
//
// A request that has begun ends by itself: whoever hangs up leaves its result to
// the next one who asks, and cannot use up a chip's requests by asking.
//
// The error is [ErrNone], or of kind Unavailable.
func (s *Source) Endorsement(ctx context.Context, k sevsnp.Key) ([]byte, error) {
	w, ok := want(k)
	if !ok {
		return nil, ErrNone
	}
	h, unread := s.held(w)
	if h != nil && h.validAt(s.now()) {
		return h.der, nil
	}
	der, err := s.fetch(ctx, k, w)
	switch {
	case err != nil && unread != nil:
		return nil, &attest.Error{Kind: attest.Unavailable, Check: "cache", Err: unread, Hint: "it is there: see the server's log for why it cannot be read"}
	case err != nil && h != nil:
		return h.der, nil // the verifier says "expired", which tells more than "there is none"
	}
	return der, err
}

// held is what there is without the KDS: in the cache, or fetched before.
func (s *Source) held(w wanted) (*held, error) {
	h, unread := s.cache.endorsement(w)
	if h != nil && h.validAt(s.now()) {
		return h, nil
	}
	if p, ok := s.pending.Get(w.id()); ok && p.validAt(s.now()) {
		return p, nil
	}
	return h, unread
}

// Keep writes an endorsement that was fetched into the cache. The verifier calls
// it with what has verified a report, and only that is kept for good: which TCBs
// are asked for is a stranger's choice, and a directory full of those that no chip
// ever had would hold up the true one. Beyond 256 of one chip, memory has to do.
func (s *Source) Keep(ctx context.Context, k sevsnp.Key, der []byte) {
	w, ok := want(k)
	if !ok {
		return
	}
	p, ok := s.pending.Get(w.id())
	now := s.now()
	if !ok || !bytes.Equal(p.der, der) || now.Before(p.retry) || s.cache.tcbsOf(w.chip()) >= maxTCBs {
		return
	}
	if _, _, err := s.cache.PutCertificate(der); err != nil {
		s.log.ErrorContext(ctx, "a fetched certificate could not be kept", "error", err.Error(), "retry", now.Add(keepRetry))
		s.pending.Put(w.id(), &held{der: p.der, notBefore: p.notBefore, notAfter: p.notAfter, retry: now.Add(keepRetry)})
		return
	}
	s.pending.Remove(w.id())
}

func (s *Source) fetch(ctx context.Context, k sevsnp.Key, w wanted) ([]byte, error) {
	if s.kds == nil || w.signingKey != sevsnp.VCEK {
		return nil, ErrNone
	}
	if !s.allowed(k.Product, bytes.Clone(k.ChipID)) {
		s.notAllowed.Add(1)
		return nil, ErrNone
	}
	if err := ctx.Err(); err != nil {
		return nil, &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: err}
	}
	id := w.id()
	if until, ok := s.none.Get(id); ok && s.now().Before(until) {
		s.negative.Add(1)
		return nil, ErrNone
	}
	s.mu.Lock()
	f, others := s.flights[id]
	if !others {
		f = &flight{done: make(chan struct{})}
		s.flights[id] = f
	}
	s.mu.Unlock()
	if others {
		s.joined.Add(1)
	} else {
		// Not the caller's context: the KDS client has a time limit of its own.
		go s.lead(context.WithoutCancel(ctx), f, k, w)
	}
	select {
	case <-f.done:
		return f.der, f.err
	case <-ctx.Done():
		return nil, &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: ctx.Err()}
	}
}

// lead makes the request for all who wait. It outlives its caller, for ten seconds
// at most, so that it must not take the server along if it panics.
func (s *Source) lead(ctx context.Context, f *flight, k sevsnp.Key, w wanted) {
	defer func() {
		if p := recover(); p != nil {
			f.der, f.err = nil, fmt.Errorf("collateral: a fetch panicked: %v", p)
			s.log.ErrorContext(ctx, "a fetch of an endorsement panicked", "product", w.product, "panic", fmt.Sprint(p))
		}
		s.mu.Lock()
		delete(s.flights, w.id())
		s.mu.Unlock()
		close(f.done)
	}()
	f.der, f.err = s.ask(ctx, k, w)
}

// ask fetches one VCEK, verifies it, and holds it until a report verifies with it.
func (s *Source) ask(ctx context.Context, k sevsnp.Key, w wanted) ([]byte, error) {
	// Whoever led before us may have brought it.
	if h, _ := s.held(w); h != nil && h.validAt(s.now()) {
		return h.der, nil
	}
	if !s.chipRate(w.chip()).AllowN(s.now(), 1) {
		s.chipLimited.Add(1)
		return nil, &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: errors.New("this chip's limit on requests is reached"), Hint: "try again later, or use `assay collateral fetch`"}
	}
	der, err := s.kds.VCEK(ctx, k)
	switch {
	case errors.Is(err, ErrNone):
		s.none.Put(w.id(), s.now().Add(negativeLife))
		return nil, ErrNone
	case err != nil:
		s.fetchFailed.Add(1)
		return nil, err
	}
	o, err := s.right(der, w)
	if err != nil {
		s.refused.Add(1)
		s.log.WarnContext(ctx, "the KDS answered with something else than was asked for", "product", w.product, "error", err.Error())
		return nil, s.kds.wrong("its answer is not what was asked for")
	}
	s.fetched.Add(1)
	s.pending.Put(w.id(), &held{der: o.DER, notBefore: o.NotBefore, notAfter: o.NotAfter})
	return o.DER, nil
}

// right verifies a fetched VCEK, and demands that it is the one that was asked for.
func (s *Source) right(der []byte, w wanted) (*Object, error) {
	o, err := s.cache.trust.certificate(der)
	if err != nil {
		return nil, err
	}
	if o.Kind != VCEK || o.Product != w.product || !bytes.Equal(o.ChipID, w.hwid) || keyOf(*o.TCB) != keyOf(w.tcb) {
		return nil, fmt.Errorf("it is for %s, chip %.16s…, TCB %s", o.Product, o.ChipID, tcbName(o.Product, *o.TCB))
	}
	return o, nil
}

func (s *Source) chipRate(chip chipKey) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.chips.Get(chip); ok {
		return l
	}
	l := rate.NewLimiter(rate.Every(chipInterval), chipBurst)
	s.chips.Put(chip, l)
	return l
}

// CRL returns the newest CRL that there is, with whatever dates it has: what an
// expired one means is the verifier's to say. It never asks the KDS; see
// [Source.Run]. The error is [ErrNone], or of kind Unavailable where one is to
// come from the KDS and has not.
func (s *Source) CRL(_ context.Context, product, signingKey string) ([]byte, error) {
	at := slot{product, signingKey}
	if o, _ := s.cache.crl(at); o != nil {
		return o.DER, nil
	}
	if s.kds == nil || !slices.Contains(slots(s.cache.trust.roots), at) {
		return nil, ErrNone
	}
	return nil, unavailable("it has not given a CRL yet")
}

// Issuers returns the ASKs (signingKey "vcek") or ASVKs ("vlek") that are known
// beyond those of the roots, in DER. All of them are signed by the line's ARK.
func (s *Source) Issuers(_ context.Context, product, signingKey string) [][]byte {
	return s.cache.Issuers(product, signingKey)
}
