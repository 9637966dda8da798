package store

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Key is one key that may be used.
type Key struct {
	signerwire.Key
	Store, Ref string

	signer crypto.Signer
	place  *place
}

func openKey(ctx context.Context, c config.Key, p *place) (*Key, error) {
	signer, err := p.key(ctx, c.Ref)
	if err != nil {
		return nil, in(err, "key %s in store %s", c.Name, c.Store)
	}
	alg, err := signerwire.AlgorithmOf(signer.Public())
	if err != nil {
		return nil, in(err, "key %s in store %s", c.Name, c.Store)
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, in(err, "key %s in store %s", c.Name, c.Store)
	}
	return &Key{
		Key:   signerwire.Key{Name: c.Name, Purposes: c.Purposes, Algorithm: alg, SPKI: spki},
		Store: c.Store, Ref: c.Ref, signer: signer, place: p,
	}, nil
}

// Sign makes a signature. It fails with signer_purpose where the key is not
// held for what the request names, and returns no signature that does not verify
// under the key. It comes back when the context ends; what the store has begun
// by then keeps its slot until the store is done with it.
func (k *Key) Sign(ctx context.Context, req signerwire.Sign) ([]byte, error) {
	if !slices.Contains(k.Purposes, req.Purpose) {
		return nil, fault(attest.Denied, "signer_purpose", "give every purpose a key of its own", fmt.Errorf("the key %s is not for %s", k.Name, req.Purpose))
	}
	if err := req.Fits(k.signer.Public()); err != nil {
		return nil, err
	}
	select {
	case k.place.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, k.late(ctx, "every session of the store %s is busy", k.place.name)
	}
	type result struct {
		sig []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-k.place.slots }()
		var r result
		r.sig, r.err = guard(k.signer, req)
		done <- r
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, in(r.err, "store %s", k.place.name)
		}
		if err := req.Verify(k.signer.Public(), r.sig); err != nil {
			return nil, err
		}
		return r.sig, nil
	case <-ctx.Done():
		return nil, k.late(ctx, "the store %s did not answer in time", k.place.name)
	}
}

func (k *Key) late(ctx context.Context, format string, a ...any) error {
	return fault(attest.Unavailable, "signer_timeout", "look at the HSM or the service behind the store; request_timeout may be too short for it", fmt.Errorf(format+": %w", append(a, ctx.Err())...))
}

// guard calls a library that talks to devices, and turns its panic into an error.
func guard(s crypto.Signer, req signerwire.Sign) (sig []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			sig, err = nil, fault(attest.Internal, "store_panic", "", fmt.Errorf("the store's library panicked: %v", p))
		}
	}()
	sig, err = s.Sign(rand.Reader, req.Input, req.Options())
	var e *attest.Error
	if err != nil && !errors.As(err, &e) {
		err = fault(kindOf(err), "store_sign", "", err)
	}
	return sig, err
}
