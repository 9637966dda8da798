package nitro

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// platform is what this package verifies.
const platform = attest.AWSNitro

var _ verifiers.Verifier = (*Verifier)(nil)

// Verifier authenticates Nitro Enclaves documents under its pinned roots. It
// starts no goroutine, reads no clock, and is safe for concurrent use.
type Verifier struct {
	modes     modes
	roots     map[digest]*link
	pins      string // fingerprints, for messages
	simulated bool
	cache     *cache
}

// Option changes a Verifier in the making.
type Option func(*options)

type options struct{ cacheSize int }

// WithCacheSize bounds the chain cache: at most n leaves and n issuers are
// remembered. 0 remembers nothing. The default is [DefaultCacheSize].
func WithCacheSize(n int) Option { return func(o *options) { o.cacheSize = n } }

// New builds a Verifier over pinned roots. It refuses the zero Roots, which
// could verify nothing.
func New(r Roots, opts ...Option) (*Verifier, error) {
	o := options{cacheSize: DefaultCacheSize}
	for _, f := range opts {
		f(&o)
	}
	if len(r.pinned) == 0 {
		return nil, errors.New("nitro: no root: use HardwareRoots or SimulatedRoots")
	}
	if o.cacheSize < 0 {
		return nil, fmt.Errorf("nitro: cache size %d, want 0 or more", o.cacheSize)
	}
	m, err := newModes()
	if err != nil {
		return nil, fmt.Errorf("nitro: CBOR options: %w", err)
	}
	pins := r.Fingerprints()
	slices.Sort(pins)
	v := &Verifier{
		modes: m, roots: make(map[digest]*link, len(r.pinned)), pins: strings.Join(pins, " or "),
		simulated: r.simulated, cache: newCache(o.cacheSize),
	}
	for _, c := range r.pinned {
		v.roots[sha256.Sum256(c.Raw)] = rootLink(c)
	}
	return v, nil
}

// Platform returns aws-nitro.
func (v *Verifier) Platform() attest.Platform { return platform }

// Simulated reports whether the roots are a simulator's.
func (v *Verifier) Simulated() bool { return v.simulated }

// CacheStats returns the counters of the chain cache.
func (v *Verifier) CacheStats() CacheStats { return v.cache.stats() }

// Authenticate checks a document at the given time and returns its claims. The
// error is an *attest.Error whose Check is one of [Checks]; claims and error
// are never both returned. Endorsements are not looked at: a document carries
// its own chain.
func (v *Verifier) Authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error) {
	// nitrite takes the zero time for the machine's clock: it must never get it.
	if err := check.Admit(ctx, ev, at, platform, refuse); err != nil {
		return nil, err
	}
	// 1. Take it apart. Nothing of it is believed yet.
	env, err := v.modes.open(ev.Body)
	if err != nil {
		return nil, err
	}
	doc, err := v.modes.read(env.payload)
	if err != nil {
		return nil, err
	}
	// 2. The chain, from a pinned root to the leaf.
	ch, err := v.verifyChain(doc, at)
	if err != nil {
		return nil, err
	}
	// 3. The document's signature, by the leaf and no other.
	if err := v.checkSignature(ev.Body, env, doc, ch.leaf, at); err != nil {
		return nil, err
	}
	v.cache.remember(ch.fresh)
	// 4. The document's time. 5. Claims.
	if err := checkTimes(doc, ch.leaf, at); err != nil {
		return nil, err
	}
	return doc.claims(v.simulated), nil
}
