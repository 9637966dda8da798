package tpm

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// platform is what this package verifies.
const platform = attest.TPM2

var (
	_ verifiers.Verifier  = (*Verifier)(nil)
	_ verifiers.Activator = (*Verifier)(nil)
)

// Verifier authenticates TPM 2.0 quotes under its pinned roots. It starts no
// goroutine, reads no clock, uses no network, and is safe for concurrent use.
type Verifier struct {
	roots     Roots
	trusted   map[string]bool // DER SubjectPublicKeyInfo of AKs that an operator named
	bindings  Bindings
	inventory Inventory
	cache     *cache
	replays   chan struct{} // holds one for each replay that is under way
}

// Option changes a Verifier in the making.
type Option func(*options)

type options struct {
	cacheSize int
	trusted   []crypto.PublicKey
	bindings  Bindings
	inventory Inventory
}

// WithCacheSize bounds the cache: at most n keys and n certificates are
// remembered. 0 remembers nothing. The default is [DefaultCacheSize].
func WithCacheSize(n int) Option { return func(o *options) { o.cacheSize = n } }

// WithTrustedAK lets an operator vouch for AKs by name, for tools that work
// offline. It has no effect in an attestation, where only a TPM's maker or a cloud
// can.
func WithTrustedAK(keys ...crypto.PublicKey) Option {
	return func(o *options) { o.trusted = append(o.trusted, keys...) }
}

// WithBindings gives the verifier a memory of which AK belongs to which EK, so
// that a machine that is known needs no second round.
func WithBindings(b Bindings) Option { return func(o *options) { o.bindings = b } }

// WithInventory lets the verifier ask which EKs are the operator's: for a claim,
// and to accept EKs without a certificate that are.
func WithInventory(i Inventory) Option { return func(o *options) { o.inventory = i } }

// New builds a Verifier over pinned roots. It refuses the zero Roots, which
// could verify nothing.
func New(r Roots, opts ...Option) (*Verifier, error) {
	o := options{cacheSize: DefaultCacheSize}
	for _, f := range opts {
		f(&o)
	}
	switch {
	case len(r.anchors) == 0:
		return nil, errors.New("tpm: no root: use HardwareRoots or SimulatedRoots")
	case o.cacheSize < 0:
		return nil, fmt.Errorf("tpm: cache size %d, want 0 or more", o.cacheSize)
	}
	v := &Verifier{roots: r, trusted: make(map[string]bool), bindings: o.bindings, inventory: o.inventory, cache: newCache(o.cacheSize), replays: make(chan struct{}, runtime.GOMAXPROCS(0))}
	for i, k := range o.trusted {
		spki, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, fmt.Errorf("tpm: trusted AK %d: %w", i, err)
		}
		v.trusted[string(spki)] = true
	}
	return v, nil
}

// Platform returns tpm2.
func (v *Verifier) Platform() attest.Platform { return platform }

// Simulated reports whether the roots are a simulator's.
func (v *Verifier) Simulated() bool { return v.roots.simulated }

// CacheStats returns the counters of the cache.
func (v *Verifier) CacheStats() CacheStats { return v.cache.stats() }

// Authenticate checks a quote at the given time and returns its claims. The
// evidence's body is docs/spec/tpm-evidence.md's; its endorsements are
// certificates in DER between the EK's or AK's and a pinned root. The error is an
// *attest.Error whose Check is one of [Checks]; claims and error are never both
// returned.
//
// It verifies without a second round, so that only a cloud's certificate or an
// operator ([WithTrustedAK]) can vouch for the AK. Nothing then ties an EK that
// comes along to the quote: it is checked, and no claim.
func (v *Verifier) Authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error) {
	return v.authenticate(ctx, ev, at, false)
}

// AuthenticatePending implements [verifiers.Activator]: it also accepts an AK that
// only credential activation can tie to its EK. The claims then lack AKTrust, and
// vouch for nothing before [Verifier.Activate] has succeeded with them. Where an
// EK comes along, activation is demanded, also of an AK with a certificate: it is
// what makes the EK a claim. An event log that is not known yet is replayed by
// Activate: that costs more than all the rest, and who has no TPM shall not have it.
func (v *Verifier) AuthenticatePending(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error) {
	return v.authenticate(ctx, ev, at, true)
}

// parts is evidence that was taken apart.
type parts struct {
	body      *attest.TPMEvidence
	ak        *public
	akKnown   bool
	quote     *attested
	bank      *bank
	signature *signature
	certified []certified
	ek        *public
	ekKnown   bool
	along     *along
	fresh     fresh
}

func (v *Verifier) authenticate(ctx context.Context, ev attest.Evidence, at time.Time, pending bool) (*attest.Claims, error) {
	if err := check.Admit(ctx, ev, at, platform, refuse); err != nil {
		return nil, err
	}
	// 1. Take it apart. Nothing of it is believed yet.
	p, err := v.read(ev)
	if err != nil {
		return nil, err
	}
	// 2. The AK is a key that signs only what its TPM made, and it signed the quote
	// over these registers.
	if err := v.checkQuote(p); err != nil {
		return nil, err
	}
	// 3. Who vouches for the AK.
	t := &attest.TPM{Bank: p.bank.name, PCRs: p.bank.claims(p.body.PCRs), ExtraData: p.quote.extra, Safe: p.quote.safe, AK: p.ak.name, KeyResidency: attest.ResidentSoftware}
	if err := v.vouch(ctx, p, t, at, pending); err != nil {
		return nil, err
	}
	// 4. The keys that live in the TPM.
	if err := checkCertified(p.certified, p.ak, p.quote); err != nil {
		return nil, err
	}
	// 5. The event log, if it is known; offline, in any case.
	t.Boot = v.knownBoot(p.body.EventLogDigest, t)
	if !pending {
		if err := v.replay(ctx, ev, t); err != nil {
			return nil, err
		}
	}
	// 6. What else the quote says, and the memory of all that verified.
	if p.ak.primaryOf(handleEndorsement, p.quote.signer) {
		t.Clock = p.quote.clockClaims()
	}
	for _, c := range p.certified {
		t.KeyResidency = attest.ResidentTPM
		t.Certified = append(t.Certified, c.public.spki)
	}
	v.cache.remember(t, &p.fresh)
	return &attest.Claims{Platform: platform, Simulated: v.roots.simulated, TPM: t}, nil
}

// read takes the evidence apart, to the last byte.
func (v *Verifier) read(ev attest.Evidence) (*parts, error) {
	if len(ev.Body) > attest.MaxTPMBody {
		return nil, refuse(CheckSize, detail{
			Err: errors.New("the body is too large"), Expected: fmt.Sprintf("at most %d bytes", attest.MaxTPMBody), Got: fmt.Sprintf("%d bytes", len(ev.Body)),
		})
	}
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		return nil, err
	}
	if err := checkEventLog(ev, body); err != nil {
		return nil, err
	}
	if n := len(ev.Endorsements); n > maxEndorsements {
		return nil, refuse(CheckEndorsements, detail{Err: errors.New("too many endorsements"), Expected: fmt.Sprintf("at most %d", maxEndorsements), Got: fmt.Sprint(n)})
	}
	for i, e := range ev.Endorsements {
		if len(e) > maxEndorsementSize {
			return nil, refuse(CheckEndorsements, detail{
				Err: fmt.Errorf("endorsement %d is too large", i), Expected: fmt.Sprintf("at most %d bytes", maxEndorsementSize), Got: fmt.Sprintf("%d bytes", len(e)),
			})
		}
	}
	p := &parts{body: body, along: &along{der: ev.Endorsements}}
	if p.ak, p.akKnown, err = v.cache.key("ak", body.AKPublic, &p.fresh); err != nil {
		return nil, refuse(CheckAKStructure, detail{Err: fmt.Errorf("the AK's public area: %w", err)})
	}
	if p.quote, err = parseQuote(body.Quote); err != nil {
		return nil, err
	}
	if p.bank, err = checkSelection(p.quote); err != nil {
		return nil, err
	}
	if err := p.bank.checkValues(body.PCRs); err != nil {
		return nil, err
	}
	if p.signature, err = parseSignature(body.Signature); err != nil {
		return nil, refuse(CheckSignatureStructure, detail{Err: fmt.Errorf("the quote's signature: %w", err)})
	}
	if p.certified, err = parseCertified(body.Certified); err != nil {
		return nil, err
	}
	switch {
	case len(body.EKPublic) > 0:
		if p.ek, p.ekKnown, err = v.cache.key("ek", body.EKPublic, &p.fresh); err != nil {
			return nil, refuse(CheckEKStructure, detail{Err: fmt.Errorf("the EK's public area: %w", err)})
		}
	case len(body.EKCertificate) > 0:
		return nil, refuse(CheckEKStructure, detail{Err: errors.New("an EK certificate without the EK's public area")})
	}
	return p, nil
}

// checkQuote checks the AK, its signature over the quote, and the registers.
func (v *Verifier) checkQuote(p *parts) error {
	if !p.akKnown {
		if err := checkAK(p.ak); err != nil {
			return err
		}
	}
	if !p.signature.schemeOf(p.ak) {
		return refuse(CheckQuoteScheme, detail{
			Err:      errors.New("the quote is signed with another scheme than the AK's"),
			Expected: algName(p.ak.scheme) + " with " + algName(p.ak.schemeHash), Got: algName(p.signature.scheme) + " with " + algName(p.signature.hash),
		})
	}
	if _, ok := hashOf(p.signature.hash); !ok {
		return refuse(CheckQuoteHash, detail{Err: errors.New("the quote is signed with a hash that proves nothing"), Expected: "SHA-256 or better", Got: algName(p.signature.hash)})
	}
	if err := p.signature.verify(p.ak.key, p.quote.raw); err != nil {
		return refuse(CheckQuoteSignature, detail{Err: fmt.Errorf("the AK did not sign the quote: %w", err), Hint: "the quote was changed after the TPM signed it, or the AK is another one"})
	}
	return p.bank.checkDigest(p.quote, p.body.PCRs, p.signature.hash)
}

// vouch establishes what binds the AK to a TPM, and puts it into the claims.
func (v *Verifier) vouch(ctx context.Context, p *parts, t *attest.TPM, at time.Time, pending bool) error {
	if der := p.body.AKCertificate; len(der) > 0 {
		cloud, err := v.akCertificate(der, p.ak, p.along, at, &p.fresh)
		if err != nil {
			return err
		}
		// The certificate is for the key. That the rest of the public area is that of
		// the key is seen from its name, which the TPM signs as that of a primary.
		if !p.ak.primary(p.quote.signer) {
			return refuse(CheckAKName, detail{
				Err: errors.New("the quote's signer is not this public area"), Expected: check.ClipHex(primaryName(p.ak.nameAlg, p.ak.name, handleEndorsement)), Got: check.ClipHex(p.quote.signer),
			})
		}
		t.Cloud, t.AKTrust = cloud, attest.AKCertificate
	}
	vouched := false // for the EK
	if p.ek != nil {
		var err error
		if vouched, err = v.endorse(ctx, p, t, at); err != nil {
			return err
		}
	}
	switch {
	case pending && p.ek != nil && !vouched:
		return refuse(CheckEKCertificate, detail{
			Err: errors.New("nobody vouches for the EK"), Expected: "a certificate to a pinned manufacturer's root, or an entry in the inventory",
			Hint: "let the agent read the EK certificate from the TPM, or add the EK with `assay ek add`",
		})
	case pending && p.ek != nil && !p.ak.primaryOf(handleEndorsement, p.quote.signer):
		return refuse(CheckAKHierarchy, detail{
			Err:      errors.New("the AK is not a primary of the endorsement hierarchy: the TPM hides its counters, which tell whether it was cleared"),
			Expected: check.ClipHex(primaryName(p.ak.nameAlg, p.ak.name, handleEndorsement)), Got: check.ClipHex(p.quote.signer),
		})
	case pending && p.ek != nil:
		t.AKTrust = "" // until it is activated
		return nil
	}
	t.EK, t.EKCertificate, t.EKInventory = nil, nil, ""
	if t.AKTrust != "" {
		return nil
	}
	if !pending && v.trusted[string(p.ak.spki)] {
		t.AKTrust = attest.AKOperator
		if !p.ak.primary(p.quote.signer) {
			// Nothing says that the rest of the public area is the key's own.
			sum := p.ak.digest()
			t.AK = sum[:]
		}
		return nil
	}
	return refuse(CheckAKUnactivated, detail{
		Err: errors.New("nothing binds the AK to a TPM"), Expected: "a cloud's certificate for the AK, or credential activation with the EK",
		Hint: "offline, name the AK: --ak FILE",
	})
}

// endorse checks the EK, its certificate and the inventory, and puts them into
// the claims. It reports whether anybody vouches for the EK.
func (v *Verifier) endorse(ctx context.Context, p *parts, t *attest.TPM, at time.Time) (bool, error) {
	if !p.ekKnown {
		if err := checkEK(p.ek); err != nil {
			return false, err
		}
	}
	ek := p.ek.digest()
	group, listed, err := v.group(ctx, ek)
	if err != nil {
		return false, err
	}
	t.EK, t.EKInventory = ek[:], group
	if len(p.body.EKCertificate) == 0 {
		return listed, nil
	}
	if t.EKCertificate, err = v.ekCertificate(p.body.EKCertificate, p.ek, p.along, listed, at, &p.fresh); err != nil {
		return false, err
	}
	return listed || t.EKCertificate != nil, nil
}

// group asks the inventory for an EK; "" is one that it does not list.
func (v *Verifier) group(ctx context.Context, ek [32]byte) (group string, listed bool, err error) {
	if v.inventory == nil {
		return "", false, nil
	}
	group, listed, err = v.inventory.Group(ctx, ek)
	switch {
	case err != nil:
		return "", false, refuse(CheckEKInventory, detail{Err: fmt.Errorf("the inventory cannot be asked: %w", err)})
	case !listed:
		return "", false, nil
	}
	return group, true, nil
}

// guard turns a library's panic into a Malformed error: evidence comes from
// strangers.
func (v *Verifier) guard(f func() error) (err error) {
	defer check.Recover(&err, &v.cache.panics, refuse)
	return f()
}
