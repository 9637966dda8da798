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
	maxTCBs      = 256              // endorsements that are fetched for one chip in all
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
	chips   *lru.Cache[chipKey, *rate.Limiter]

	notAllowed, negative, chipLimited, fetched, fetchFailed, refused, joined atomic.Uint64
	refreshed, refreshFailed                                                 atomic.Uint64
}

var _ sevsnp.Collateral = (*Source)(nil)

// flight is a fetch that others may wait for.
type flight struct {
	done chan struct{}
	der  []byte
	err  error
	gone bool // its caller gave up: no answer for anybody
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
//     permit; what comes is verified, must be what was asked for, and is kept.
//
// The error is [ErrNone], or of kind Unavailable.
func (s *Source) Endorsement(ctx context.Context, k sevsnp.Key) ([]byte, error) {
	w, ok := want(k)
	if !ok {
		return nil, ErrNone
	}
	h := s.cache.endorsement(w)
	if h != nil && h.validAt(s.now()) {
		return h.der, nil
	}
	der, err := s.fetch(ctx, k, w)
	if err != nil && h != nil {
		return h.der, nil // the verifier says "expired", which tells more than "there is none"
	}
	return der, err
}

func (s *Source) fetch(ctx context.Context, k sevsnp.Key, w wanted) ([]byte, error) {
	if s.kds == nil || w.signingKey != sevsnp.VCEK {
		return nil, ErrNone
	}
	if !s.allowed(k.Product, bytes.Clone(k.ChipID)) {
		s.notAllowed.Add(1)
		return nil, ErrNone
	}
	id := w.id()
	for {
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
		if !others {
			s.lead(ctx, f, k, w)
			return f.der, f.err
		}
		s.joined.Add(1)
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: ctx.Err()}
		}
		if !f.gone {
			return f.der, f.err
		}
	}
}

// lead makes the request for all who wait. If its own caller gives up, the next
// one of them takes over.
func (s *Source) lead(ctx context.Context, f *flight, k sevsnp.Key, w wanted) {
	f.err = errors.New("collateral: the fetch ended without a result")
	defer func() {
		s.mu.Lock()
		delete(s.flights, w.id())
		s.mu.Unlock()
		close(f.done)
	}()
	f.der, f.err = s.ask(ctx, k, w)
	f.gone = f.err != nil && ctx.Err() != nil
}

// ask fetches one VCEK, verifies it and keeps it.
func (s *Source) ask(ctx context.Context, k sevsnp.Key, w wanted) ([]byte, error) {
	// Whoever led before us may have brought it.
	if h := s.cache.endorsement(w); h != nil && h.validAt(s.now()) {
		return h.der, nil
	}
	if s.cache.tcbsOf(w.chip()) >= maxTCBs || !s.chipRate(w.chip()).AllowN(s.now(), 1) {
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
	o, err := s.keep(der, w)
	if err != nil {
		s.refused.Add(1)
		s.log.WarnContext(ctx, "the KDS answered with something else than was asked for", "product", w.product, "error", err.Error())
		return nil, s.kds.wrong("its answer is not what was asked for")
	}
	s.fetched.Add(1)
	return o.DER, nil
}

// keep verifies a fetched VCEK, demands that it is the one that was asked for,
// and puts it into the cache. A cache that cannot be written does not keep the
// certificate from being used.
func (s *Source) keep(der []byte, w wanted) (*Object, error) {
	o, err := s.cache.trust.certificate(der)
	if err != nil {
		return nil, err
	}
	if o.Kind != VCEK || o.Product != w.product || !bytes.Equal(o.ChipID, w.hwid) || keyOf(*o.TCB) != keyOf(w.tcb) {
		return nil, fmt.Errorf("it is for %s, chip %.16s…, TCB %s", o.Product, o.ChipID, tcbName(o.Product, *o.TCB))
	}
	if _, _, err := s.cache.PutCertificate(der); err != nil {
		s.log.Error("a fetched certificate could not be kept", "error", err.Error())
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
