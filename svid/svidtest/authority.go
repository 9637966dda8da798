package svidtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/svid"
)

// Authority issues for one trust domain.
type Authority struct {
	TrustDomain spiffeid.TrustDomain
	// Now is the clock by which it issues; time.Now unless changed.
	Now func() time.Time

	ca           *x509.Certificate
	caKey        *ecdsa.PrivateKey
	verifierRoot *ecdsa.PrivateKey
	verifierKey  *ecdsa.PrivateKey
	keys         svid.VerifierKeys
}

// New makes an authority with fresh keys, good for a year.
func New(t testing.TB, trustDomain string) *Authority {
	t.Helper()
	return NewAt(t, trustDomain, time.Now)
}

// NewAt is New with a clock. Outside of a test it panics: what it mints does not say
// that it is a test's.
func NewAt(t testing.TB, trustDomain string, now func() time.Time) *Authority {
	if !testing.Testing() {
		panic("svidtest: an authority in memory is for tests alone")
	}
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	a := &Authority{
		TrustDomain: td, Now: now,
		caKey: NewKey(t), verifierRoot: NewKey(t), verifierKey: NewKey(t),
	}
	start := now().Add(-time.Hour).Truncate(time.Second)
	end := start.AddDate(1, 0, 0)
	a.ca = a.selfSigned(t, start, end)
	a.keys = svid.VerifierKeys{
		TrustDomain: td, Sequence: 1, IssuedAt: start, NextUpdate: end,
		Keys: []svid.VerifierKey{{Key: &a.verifierKey.PublicKey, NotBefore: start, NotAfter: end}},
	}
	return a
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return k
}

func (a *Authority) selfSigned(t testing.TB, start, end time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          serial(t),
		Subject:               pkix.Name{Organization: []string{a.TrustDomain.Name()}, CommonName: "svidtest authority"},
		NotBefore:             start,
		NotAfter:              end,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{a.TrustDomain.ID().URL()},
	}
	return create(t, template, template, &a.caKey.PublicKey, a.caKey)
}

// Bundle is the trust domain's X.509 bundle.
func (a *Authority) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(a.TrustDomain, []*x509.Certificate{a.ca})
}

// VerifierKeys is the content of the verifier-keys document. The caller may
// change the copy.
func (a *Authority) VerifierKeys() *svid.VerifierKeys {
	keys := a.keys
	keys.Keys = append([]svid.VerifierKey(nil), a.keys.Keys...)
	return &keys
}

// VerifierRoot is the key that a relying party pins.
func (a *Authority) VerifierRoot() *ecdsa.PublicKey { return &a.verifierRoot.PublicKey }

// Document signs a verifier-keys document: that of VerifierKeys, or the given one.
func (a *Authority) Document(t testing.TB, keys ...*svid.VerifierKeys) []byte {
	t.Helper()
	k := a.VerifierKeys()
	if len(keys) > 0 {
		k = keys[0]
	}
	doc, err := k.Sign(a.verifierRoot)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return doc
}

// Source trusts this authority: its bundle, and its verifier keys as a relying
// party would read them from the signed document.
func (a *Authority) Source() svid.Source {
	return svid.NewSource(a.Bundle(), a.VerifierKeys())
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return n.Add(n, big.NewInt(1))
}

func create(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return cert
}
