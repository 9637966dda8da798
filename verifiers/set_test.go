package verifiers_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
)

// hostile is a verifier that misbehaves as a test tells it to. No real one can
// be made to: these tests are about what the Set does when one does.
type hostile struct {
	platform     attest.Platform
	simulated    bool
	authenticate func() (*attest.Claims, error)
	bound        func() error
}

func (h hostile) Platform() attest.Platform { return h.platform }
func (h hostile) Simulated() bool           { return h.simulated }
func (h hostile) Authenticate(context.Context, attest.Evidence, time.Time) (*attest.Claims, error) {
	return h.authenticate()
}
func (h hostile) Bound(*attest.Claims, attest.Binding) error { return h.bound() }

// activating is a hostile verifier with a second round.
type activating struct {
	hostile
	activate func(verifiers.Exchange) error
}

func (a activating) AuthenticatePending(context.Context, attest.Evidence, time.Time) (*attest.Claims, error) {
	return a.authenticate()
}

// Authenticate refuses: without the second round nothing is known.
func (a activating) Authenticate(context.Context, attest.Evidence, time.Time) (*attest.Claims, error) {
	return nil, &attest.Error{Kind: attest.Untrusted, Check: "ak_unactivated"}
}

func (a activating) Activate(_ context.Context, _ attest.Evidence, _ *attest.Claims, _ attest.Binding, x verifiers.Exchange, _ time.Time) error {
	return a.activate(x)
}

func honest() hostile {
	return hostile{
		platform: attest.AWSNitro,
		authenticate: func() (*attest.Claims, error) {
			return &attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{ModuleID: "i-1"}}, nil
		},
		bound: func() error { return nil },
	}
}

var (
	evidence = attest.Evidence{Platform: attest.AWSNitro, Body: []byte("document")}
	now      = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func challenge() attest.Challenge {
	return attest.Challenge{
		Platform: attest.AWSNitro, TrustDomain: "example.org", ServerID: "spiffe://example.org/assay/server",
		Exporter: [32]byte(bytes.Repeat([]byte{1}, 32)), Nonce: attest.Nonce(bytes.Repeat([]byte{2}, 32)),
		Keys: []attest.BoundKey{{SPKI: []byte("key")}}, Purpose: attest.Boot,
	}
}

func set(t *testing.T, vs ...verifiers.Verifier) verifiers.Set {
	t.Helper()
	s, err := verifiers.NewSet(vs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verify(t *testing.T, v verifiers.Verifier) (*verifiers.Verified, error) {
	t.Helper()
	return set(t, v).Verify(t.Context(), evidence, challenge(), nil, now)
}

func TestSimulatedRootsBesideHardwareRootsAreRefused(t *testing.T) {
	real, fake := honest(), honest()
	fake.platform, fake.simulated = attest.TPM2, true
	if _, err := verifiers.NewSet(real, fake); err == nil || !strings.Contains(err.Error(), "simulated") {
		t.Errorf("got %v", err)
	}
	if _, err := verifiers.NewSet(real, real); err == nil {
		t.Error("two verifiers for one platform were accepted")
	}
	if _, err := verifiers.NewSet(); err == nil {
		t.Error("an empty set was accepted")
	}
}

func TestAPanicInAVerifierIsAMalformedErrorAndCounted(t *testing.T) {
	inAuthenticate, inBound := honest(), honest()
	inAuthenticate.authenticate = func() (*attest.Claims, error) { panic("unknown curve P-521") }
	inBound.bound = func() error { panic("index out of range") }
	inActivate := activating{honest(), func(verifiers.Exchange) error { panic(errors.New("activate")) }}
	for name, v := range map[string]verifiers.Verifier{"Authenticate": inAuthenticate, "Bound": inBound, "Activate": inActivate} {
		s := set(t, v)
		got, err := s.Verify(t.Context(), evidence, challenge(), nil, now)
		if got != nil || attest.KindOf(err) != attest.Malformed || attest.CheckOf(err) != "panic" {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if s.Panics() != 1 {
			t.Errorf("%s: %d panics counted", name, s.Panics())
		}
		var p *verifiers.PanicError
		if !errors.As(err, &p) || len(p.Stack) == 0 {
			t.Errorf("%s: the stack is lost: %v", name, err)
		}
	}
}

func TestClaimsOfAnotherPlatformOrKindNeverBecomeVerified(t *testing.T) {
	claims := map[string]*attest.Claims{
		"none":             nil,
		"another platform": {Platform: attest.TPM2},
		"another kind":     {Platform: attest.AWSNitro, Simulated: true},
	}
	for name, c := range claims {
		v := honest()
		v.authenticate = func() (*attest.Claims, error) { return c, nil }
		got, err := verify(t, v)
		if got != nil || attest.KindOf(err) != attest.Internal {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// completing is a hostile verifier that returns evidence of its own making.
type completing struct {
	hostile
	whole attest.Evidence
}

func (c completing) AuthenticateComplete(context.Context, attest.Evidence, time.Time) (*attest.Claims, attest.Evidence, error) {
	claims, err := c.authenticate()
	return claims, c.whole, err
}

func TestTheRecordedEvidenceIsThatWhichWasSent(t *testing.T) {
	good := evidence
	good.Endorsements = [][]byte{[]byte("found elsewhere")}
	v, err := verify(t, completing{honest(), good})
	if err != nil || len(v.Evidence().Endorsements) != 1 || v.EvidenceDigest() != evidence.Digest() {
		t.Errorf("with what was found elsewhere: %v", err)
	}
	for name, other := range map[string]attest.Evidence{
		"another body":     {Platform: attest.AWSNitro, Body: []byte("other")},
		"another platform": {Platform: attest.TPM2, Body: evidence.Body},
	} {
		if got, err := verify(t, completing{honest(), other}); got != nil || attest.KindOf(err) != attest.Internal {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestEvidenceThatIsNotBoundIsNotVerified(t *testing.T) {
	v := honest()
	v.bound = func() error { return &attest.Error{Kind: attest.Untrusted, Check: "binding"} }
	if got, err := verify(t, v); got != nil || attest.CheckOf(err) != "binding" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTheSecondRoundCanRefuse(t *testing.T) {
	a := activating{honest(), func(x verifiers.Exchange) error {
		if x == nil {
			return &attest.Error{Kind: attest.Untrusted, Check: "activation"}
		}
		return nil
	}}
	if got, err := verify(t, a); got != nil || attest.CheckOf(err) != "activation" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestEvidenceOfAnotherPlatformThanTheChallengeIsRefused(t *testing.T) {
	tpm := honest()
	tpm.platform = attest.TPM2
	s := set(t, honest(), tpm)
	ch := challenge()
	ch.Platform = attest.TPM2
	if got, err := s.Verify(t.Context(), evidence, ch, nil, now); got != nil || attest.CheckOf(err) != "platform" {
		t.Errorf("got %v, %v", got, err)
	}
	other := attest.Evidence{Platform: attest.AMDSEVSNP}
	if got, err := s.Verify(t.Context(), other, challenge(), nil, now); got != nil || attest.CheckOf(err) != "platform" {
		t.Errorf("a platform without verifier: got %v, %v", got, err)
	}
	if got, err := (verifiers.Set{}).Verify(t.Context(), evidence, challenge(), nil, now); got != nil || err == nil {
		t.Errorf("the zero set verified something: %v", got)
	}
}

func TestWithoutAChallengeThereIsNoVerified(t *testing.T) {
	if got, err := set(t, honest()).Verify(t.Context(), evidence, attest.Challenge{Platform: attest.AWSNitro}, nil, now); got != nil || attest.CheckOf(err) != "challenge" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAVerifiedIsSpentOnceThoughItIsCopied(t *testing.T) {
	v, err := verify(t, honest())
	if err != nil {
		t.Fatal(err)
	}
	copied := *v
	var wins sync.Map
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			which := v
			if i%2 == 1 {
				which = &copied
			}
			if which.Spend() == nil {
				wins.Store(i, true)
			}
		})
	}
	wg.Wait()
	n := 0
	wins.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("spent %d times", n)
	}
}

func TestAVerifiedMadeElsewhereIsRefused(t *testing.T) {
	var zero verifiers.Verified
	if err := zero.Spend(); !errors.Is(err, verifiers.ErrSpent) {
		t.Errorf("the zero value: %v", err)
	}
	if err := (*verifiers.Verified)(nil).Spend(); !errors.Is(err, verifiers.ErrSpent) {
		t.Errorf("nil: %v", err)
	}
	if zero.Claims().Platform != "" || zero.Evidence().Body != nil || !zero.At().IsZero() || zero.Challenge().ServerID != "" || zero.EvidenceDigest() != [32]byte{} {
		t.Error("the zero value holds something")
	}
}
