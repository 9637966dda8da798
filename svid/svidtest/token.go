package svidtest

import (
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/svid"
)

// JWTBundle is the trust domain's JWT authority: what tokens are checked with.
func (a *Authority) JWTBundle(t testing.TB) *jwtbundle.Bundle {
	t.Helper()
	kid, err := svid.JWKThumbprint(a.caKey.Public())
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return jwtbundle.FromJWTAuthorities(a.TrustDomain, map[string]crypto.PublicKey{kid: a.caKey.Public()})
}

// MintJWT issues an attested JWT-SVID for a path in the trust domain and an
// audience. Options that change the certificate alone have no effect.
func (a *Authority) MintJWT(t testing.TB, path, audience string, options ...Option) string {
	t.Helper()
	id, err := spiffeid.FromPath(a.TrustDomain, path)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	now := a.Now().Truncate(time.Second)
	o := &order{appraisal: a.appraisal(), ttl: time.Hour, key: NewKey(t)}
	for _, option := range options {
		option(o)
	}
	o.appraisal.Claims.Nitro.Timestamp = now.Add(-o.age)
	r, err := svid.Appraise(o.appraisal, id, o.key.Public(), now, now.Add(o.ttl), a.TrustDomain.Name())
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	for _, change := range o.result {
		change(r)
	}
	token, err := (&svid.JWT{
		ID: id, Audience: []string{audience}, TokenID: hexID(), IssuedAt: now, Expiry: now.Add(o.ttl),
		Serial: hexID(), Result: *r, Attributes: r.Attributes,
	}).Sign(a.caKey)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return token
}

// hexID draws 16 bytes in hex.
func hexID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}
