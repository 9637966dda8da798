package sevsnp

import (
	"context"
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
const platform = attest.AMDSEVSNP

var _ verifiers.Verifier = (*Verifier)(nil)

// Verifier authenticates SEV-SNP reports under its pinned roots. It starts no
// goroutine, reads no clock, and is safe for concurrent use. It uses the network
// only through a [Collateral] that does.
type Verifier struct {
	roots      Roots
	pins       string // fingerprints, for messages
	collateral Collateral
	revoke     RevocationPolicy
	cache      *cache
}

// Option changes a Verifier in the making.
type Option func(*options)

type options struct {
	cacheSize  int
	collateral Collateral
	revoke     RevocationPolicy
}

// WithCacheSize bounds the chain cache: at most n endorsements are remembered. 0
// remembers nothing. The default is [DefaultCacheSize].
func WithCacheSize(n int) Option { return func(o *options) { o.cacheSize = n } }

// WithCollateral lets the verifier ask c for endorsements and CRLs that the
// attester did not bring. Without it, only what is brought counts.
func WithCollateral(c Collateral) Option { return func(o *options) { o.collateral = c } }

// WithRevocation says what a missing or expired CRL means. Without it, claims
// say "not_checked" where no current CRL covers the chain.
func WithRevocation(p RevocationPolicy) Option { return func(o *options) { o.revoke = p } }

// New builds a Verifier over pinned roots. It refuses the zero Roots, which
// could verify nothing.
func New(r Roots, opts ...Option) (*Verifier, error) {
	o := options{cacheSize: DefaultCacheSize}
	for _, f := range opts {
		f(&o)
	}
	switch {
	case len(r.lines) == 0:
		return nil, errors.New("sevsnp: no root: use HardwareRoots or SimulatedRoots")
	case o.cacheSize < 0:
		return nil, fmt.Errorf("sevsnp: cache size %d, want 0 or more", o.cacheSize)
	case o.revoke.Grace < 0:
		return nil, fmt.Errorf("sevsnp: grace of %s for CRLs, want 0 or more", o.revoke.Grace)
	}
	var pins []string
	for p, sum := range r.Fingerprints() {
		pins = append(pins, fmt.Sprintf("ARK of %s %s", p, sum))
	}
	slices.Sort(pins)
	return &Verifier{roots: r, pins: strings.Join(pins, ", "), collateral: o.collateral, revoke: o.revoke, cache: newCache(o.cacheSize)}, nil
}

// Platform returns amd-sev-snp.
func (v *Verifier) Platform() attest.Platform { return platform }

// Simulated reports whether the roots are a simulator's.
func (v *Verifier) Simulated() bool { return v.roots.simulated }

// CacheStats returns the counters of the chain cache.
func (v *Verifier) CacheStats() CacheStats { return v.cache.stats() }

// Authenticate checks a report at the given time and returns its claims. The
// evidence's body is the report, 1184 bytes; its endorsements are certificates
// and CRLs in DER, in any order ([ParseExtendedReport] makes them of a host's
// certificate table). The error is an *attest.Error whose Check is one of
// [Checks]; claims and error are never both returned.
func (v *Verifier) Authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error) {
	c, _, _, err := v.authenticate(ctx, ev, at)
	return c, err
}

// AuthenticateComplete implements [verifiers.Completer]: the certificate, its
// issuer and the CRL that the collateral gave are in the evidence it returns.
func (v *Verifier) AuthenticateComplete(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, attest.Evidence, error) {
	c, e, b, err := v.authenticate(ctx, ev, at)
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	ev.Endorsements = b.complete(e)
	return c, ev, nil
}

// AuthenticateWithUse is Authenticate, and says which of the endorsements did
// not belong: their indexes, ascending.
func (v *Verifier) AuthenticateWithUse(ctx context.Context, ev attest.Evidence, at time.Time) (c *attest.Claims, unused []int, err error) {
	c, e, b, err := v.authenticate(ctx, ev, at)
	if err != nil {
		return nil, nil, err
	}
	return c, b.unused(e), nil
}

func (v *Verifier) authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, *endorsement, *bundle, error) {
	if err := check.Admit(ctx, ev, at, platform, refuse); err != nil {
		return nil, nil, nil, err
	}
	// 1. Take it apart. Nothing of it is believed yet.
	r, err := read(ev.Body)
	if err != nil {
		return nil, nil, nil, err
	}
	b, err := bring(ev.Endorsements)
	if err != nil {
		return nil, nil, nil, err
	}
	// 2. The endorsement, from a pinned root to the report's key.
	e, err := v.endorse(ctx, r, b, at)
	if err != nil {
		return nil, nil, nil, err
	}
	// 3. Revocation.
	revocation, err := v.revocation(ctx, e, b, at)
	if err != nil {
		return nil, nil, nil, err
	}
	// 4. The report's signature, by that key and no other.
	if err := v.checkSignature(r, e); err != nil {
		return nil, nil, nil, err
	}
	v.remember(ctx, b)
	// 5. Relations, and claims.
	if err := checkRelations(r, e.issuer.line.product); err != nil {
		return nil, nil, nil, err
	}
	return complete(r, e, revocation, v.roots.simulated), e, b, nil
}

// remember stores what a report that verified has shown.
func (v *Verifier) remember(ctx context.Context, b *bundle) {
	if b.leaf != nil {
		v.cache.leaves.Put(b.leafSum, b.leaf)
	}
	if b.issuer != nil {
		v.cache.issuers.Put(b.issuerSum, b.issuer)
	}
	for _, c := range b.crls {
		v.cache.crls.Put(c.sum, c.crl)
	}
	if k, ok := v.collateral.(Keeper); ok && b.lent != nil {
		k.Keep(ctx, b.lentFor, b.lent)
	}
}
