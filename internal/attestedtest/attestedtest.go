// Package attestedtest takes a test from nothing to a grant, with the real
// parts only: a simulated Nitro authority mints the evidence, the real verifier
// checks it, a real policy decides.
//
//	world := attestedtest.New(t)
//	grant := world.Grant(t, attestedtest.Request{})
package attestedtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
)

// TrustDomain is the trust domain of every World, unless it was made by
// NewFor.
const TrustDomain = "simulated.example.org"

// Image is the enclave that the policy of a World admits; any other name is one
// that it denies.
const Image = "orders"

// World is one simulated trust domain: hardware, verifier and policy.
type World struct {
	TrustDomain string
	Authority   *simnitro.Authority
	Set         verifiers.Set
	Policy      *policy.Bundle
	clock       atomic.Int64 // Unix nanoseconds
	serial      atomic.Uint64
}

// Noon is the time at which every World begins.
var Noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// New makes a World. Its policy grants spiffe://TD/orders (1 h) and
// spiffe://TD/orders/admin (30 min) to the enclave image "orders".
func New(t testing.TB) *World { return NewFor(t, TrustDomain, "") }

// NewFor makes a World for another trust domain, with another policy where
// source is not empty; "%PCR0%" in it stands for PCR0 of the image.
func NewFor(t testing.TB, trustDomain, source string) *World {
	t.Helper()
	w := &World{TrustDomain: trustDomain}
	w.clock.Store(Noon.UnixNano())
	var err error
	if w.Authority, err = simnitro.NewAuthority(simnitro.AuthorityOptions{Now: w.Now}); err != nil {
		t.Fatal(err)
	}
	roots, err := nitro.SimulatedRoots(w.Authority.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := nitro.New(roots)
	if err != nil {
		t.Fatal(err)
	}
	if w.Set, err = verifiers.NewSet(v); err != nil {
		t.Fatal(err)
	}
	if source == "" {
		source = fmt.Sprintf(`version: 1
bundle: prod
revision: 7
trust_domain: %s
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "%s"}
      pcr3: {eq: "%s"}
    issue:
      - spiffe_id: "spiffe://{td}/orders"
        x509_ttl: 1h
        attributes: {team: core}
      - spiffe_id: "spiffe://{td}/orders/admin"
        x509_ttl: 30m
`, trustDomain, hex.EncodeToString(simnitro.ImageFromSeed(Image).PCR0), hex.EncodeToString(simnitro.RolePCR(role)))
	}
	if w.Policy, err = policy.Parse("policy.yaml", []byte(source)); err != nil {
		t.Fatal(err)
	}
	return w
}

const role = "arn:aws:iam::123456789012:role/orders"

// Now is the world's clock; Advance moves it.
func (w *World) Now() time.Time { return time.Unix(0, w.clock.Load()).UTC() }

// Advance moves the world's clock.
func (w *World) Advance(d time.Duration) { w.clock.Add(int64(d)) }

// Request says what attests. The zero Request is the enclave "orders" with one
// new P-256 key.
type Request struct {
	Image      string             // "" = Image
	Module     string             // "" = a new enclave; the same name again is the same instance
	Keys       []crypto.PublicKey // nil = one new P-256 key
	RequestIDs []string           // of the keys, where they ask for one
	Purpose    attest.Purpose     // "" = attest.Boot
}

// Verified attests and verifies.
func (w *World) Verified(t testing.TB, r Request) *verifiers.Verified {
	t.Helper()
	v, err := w.verify(t, r)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Grant attests, verifies and authorizes.
func (w *World) Grant(t testing.TB, r Request) *policy.Grant {
	t.Helper()
	g, err := w.Policy.Authorize(w.Verified(t, r), w.Now())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Denied attests, verifies and is denied.
func (w *World) Denied(t testing.TB, r Request) (*verifiers.Verified, *policy.Denied) {
	t.Helper()
	v := w.Verified(t, r)
	g, err := w.Policy.Authorize(v, w.Now())
	var d *policy.Denied
	if g != nil || !errors.As(err, &d) {
		t.Fatalf("Authorize = %v, %v: want a denial", g, err)
	}
	return v, d
}

func (w *World) verify(t testing.TB, r Request) (*verifiers.Verified, error) {
	t.Helper()
	if r.Image == "" {
		r.Image = Image
	}
	if r.Purpose == "" {
		r.Purpose = attest.Boot
	}
	if r.Module == "" {
		r.Module = fmt.Sprintf("i-%017x-enc%016x", w.serial.Add(1), w.serial.Load())
	}
	if r.Keys == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r.Keys = []crypto.PublicKey{key.Public()}
	}
	ch := attest.Challenge{
		Platform: attest.AWSNitro, TrustDomain: w.TrustDomain, ServerID: "spiffe://" + w.TrustDomain + "/assay/server", Purpose: r.Purpose,
	}
	if _, err := rand.Read(ch.Nonce[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := rand.Read(ch.Exporter[:]); err != nil {
		t.Fatal(err)
	}
	for i, key := range r.Keys {
		spki, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		bound := attest.BoundKey{SPKI: spki}
		if i < len(r.RequestIDs) {
			bound.RequestedID = r.RequestIDs[i]
		}
		ch.Keys = append(ch.Keys, bound)
	}
	b, err := ch.Binding()
	if err != nil {
		t.Fatal(err)
	}
	image := simnitro.ImageFromSeed(r.Image)
	body, err := w.Authority.Mint(simnitro.Document{
		ModuleID: r.Module, Timestamp: w.Now(),
		PCRs:      map[int][]byte{0: image.PCR0, 1: image.PCR1, 2: image.PCR2, 3: simnitro.RolePCR(role), 8: image.PCR8},
		UserData:  append([]byte("assay/v1\x00"), b.B[:]...),
		Nonce:     b.Nonce[:],
		PublicKey: ch.Keys[0].SPKI,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w.Set.Verify(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: body}, ch, nil, w.Now())
}
