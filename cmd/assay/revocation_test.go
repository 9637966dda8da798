package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
)

func newTestKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	return k
}

// pki is a chain like AWS's: the root and the regional authority publish CRLs,
// the zonal authority and the instance do not.
type pki struct {
	chain []*x509.Certificate
	keys  []*ecdsa.PrivateKey
}

var crlURL = []string{"http://crl.example.test/root.crl", "http://crl.example.test/regional.crl"}

func newPKI(t testing.TB) pki {
	t.Helper()
	var p pki
	for i, name := range []string{"root", "regional", "zonal", "leaf"} {
		key := newTestKey(t)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(100 + i)), Subject: pkix.Name{CommonName: name},
			NotBefore: fixtureTime.Add(-time.Hour), NotAfter: fixtureTime.Add(time.Hour),
			IsCA: i < 3, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
			SubjectKeyId: []byte{byte(i), 1, 2, 3},
		}
		if i < 2 {
			template.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		}
		if i == 2 {
			template.KeyUsage |= x509.KeyUsageCertSign
		}
		if i == 1 || i == 2 {
			template.CRLDistributionPoints = crlURL[i-1 : i]
		}
		parent, signer := template, key
		if i > 0 {
			parent, signer = p.chain[i-1], p.keys[i-1]
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		check(t, err)
		cert, err := x509.ParseCertificate(der)
		check(t, err)
		p.chain, p.keys = append(p.chain, cert), append(p.keys, key)
	}
	return p
}

// crl is a good CRL by the i-th certificate, changed.
func (p pki) crl(t testing.TB, i int, change func(*x509.RevocationList), serials ...*big.Int) *endorsement {
	t.Helper()
	return p.crlBy(t, p.chain[i], p.keys[i], change, serials...)
}

func (p pki) crlBy(t testing.TB, issuer *x509.Certificate, key crypto.Signer, change func(*x509.RevocationList), serials ...*big.Int) *endorsement {
	t.Helper()
	template := &x509.RevocationList{ThisUpdate: fixtureTime.Add(-time.Hour), NextUpdate: fixtureTime.Add(time.Hour)}
	if change != nil {
		change(template)
	}
	es, err := parseEndorsements("x.crl", newCRL(t, issuer, key, template, serials...))
	check(t, err)
	return es[0]
}

func TestACurrentCRLOfEveryIssuerThatHasOneMakesRevocationOK(t *testing.T) {
	p := newPKI(t)
	es := []*endorsement{p.crl(t, 1, nil, big.NewInt(1)), p.crl(t, 0, nil)} // in any order
	got, err := checkRevocation(p.chain, es, fixtureTime, true)
	if err != nil || got.State != "ok" || !es[0].used || !es[1].used {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestRevocationIsPartialOrNotCheckedWithoutEveryCRL(t *testing.T) {
	p := newPKI(t)
	for _, c := range []struct {
		name string
		es   []*endorsement
		want string
	}{
		{"none", nil, "not_checked"},
		{"one of two", []*endorsement{p.crl(t, 0, nil)}, "partial"},
	} {
		if got, err := checkRevocation(p.chain, c.es, fixtureTime, false); err != nil || got.State != c.want {
			t.Errorf("%s: %+v, %v, want %s", c.name, got, err, c.want)
		}
		got, err := checkRevocation(p.chain, c.es, fixtureTime, true)
		if attest.CheckOf(err) != "crl" || attest.KindOf(err) != attest.Unavailable || got.State != c.want {
			t.Errorf("%s, required: %+v, %v", c.name, got, err)
		}
	}
}

func TestAChainWithoutCRLsCannotSatisfyARequirement(t *testing.T) {
	p := newPKI(t)
	chain := []*x509.Certificate{p.chain[2], p.chain[3]} // the zonal authority as root
	if got, err := checkRevocation(chain, nil, fixtureTime, true); attest.CheckOf(err) != "crl" || got.State != "not_checked" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestACRLThatBelongsHasToBeRight(t *testing.T) {
	p := newPKI(t)
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}} // deltaCRLIndicator
	impostor := *p.chain[0]
	other := newTestKey(t)
	impostor.PublicKey = other.Public()
	for _, c := range []struct {
		name  string
		crl   *endorsement
		check string
		kind  attest.Kind
	}{
		{"the certificate is revoked", p.crl(t, 0, nil, big.NewInt(7), p.chain[1].SerialNumber), "crl_revoked", attest.Untrusted},
		{"the next certificate is revoked", p.crl(t, 1, nil, p.chain[2].SerialNumber), "crl_revoked", attest.Untrusted},
		{"signed by another key", p.crlBy(t, &impostor, other, nil), "crl_signature", attest.Untrusted},
		{"not yet", p.crl(t, 0, func(r *x509.RevocationList) { r.ThisUpdate = fixtureTime.Add(time.Second) }), "crl_validity", attest.Stale},
		{"no longer", p.crl(t, 0, func(r *x509.RevocationList) { r.NextUpdate = fixtureTime.Add(-time.Second) }), "crl_validity", attest.Stale},
		{"a delta CRL", p.crl(t, 0, func(r *x509.RevocationList) { r.ExtraExtensions = []pkix.Extension{critical} }), "crl_extension", attest.Untrusted},
		{"for user certificates only", p.crl(t, 0, idp(t, crlURL[0], true)), "crl_extension", attest.Untrusted},
		{"without any place", p.crl(t, 0, idp(t, "", false)), "crl_extension", attest.Untrusted},
	} {
		got, err := checkRevocation(p.chain, []*endorsement{c.crl}, fixtureTime, false)
		if attest.CheckOf(err) != c.check || attest.KindOf(err) != c.kind || got.State != "failed" || !c.crl.used {
			t.Errorf("%s: %+v, %v, want %s", c.name, got, err, c.check)
		}
	}
}

// A CRL has no cRLSign to go by when its issuer may not sign CRLs at all.
func TestACRLByACertificateThatMaySignNoneIsRefused(t *testing.T) {
	p := newPKI(t)
	may := *p.chain[2]
	may.KeyUsage |= x509.KeyUsageCRLSign
	e := p.crlBy(t, &may, p.keys[2], nil)
	if _, err := checkRevocation(p.chain, []*endorsement{e}, fixtureTime, false); attest.CheckOf(err) != "crl_signature" {
		t.Errorf("got %v", err)
	}
}

func TestACRLThatDoesNotBelongIsLeftUnused(t *testing.T) {
	p, q := newPKI(t), newPKI(t)
	leaf := *p.chain[3]
	leaf.KeyUsage |= x509.KeyUsageCRLSign
	otherName := *q.chain[0]
	otherName.RawSubject, otherName.Subject = nil, pkix.Name{CommonName: "elsewhere"}
	otherKeyID := *q.chain[0]
	otherKeyID.SubjectKeyId = []byte{9, 9, 9, 9}
	for _, c := range []struct {
		name string
		crl  *endorsement
	}{
		{"another issuer", p.crlBy(t, &otherName, q.keys[0], nil)},
		{"an issuer of the same name with another key", p.crlBy(t, &otherKeyID, q.keys[0], nil)},
		{"another distribution point", p.crl(t, 0, idp(t, "http://crl.example.test/other.crl", false))},
		{"by the leaf", p.crlBy(t, &leaf, p.keys[3], nil)},
	} {
		got, err := checkRevocation(p.chain, []*endorsement{c.crl}, fixtureTime, false)
		if err != nil || got.State != "not_checked" || c.crl.used || c.crl.why == "" {
			t.Errorf("%s: %+v, %v, used %v %q", c.name, got, err, c.crl.used, c.crl.why)
		}
	}
}

func TestACRLOfTheCertificatesDistributionPointCounts(t *testing.T) {
	p := newPKI(t)
	got, err := checkRevocation(p.chain, []*endorsement{p.crl(t, 0, idp(t, crlURL[0], false)), p.crl(t, 1, nil)}, fixtureTime, true)
	if err != nil || got.State != "ok" {
		t.Errorf("%+v, %v", got, err)
	}
}

// idp adds a critical issuing distribution point (RFC 5280, section 5.2.5).
func idp(t testing.TB, url string, onlyUser bool) func(*x509.RevocationList) {
	t.Helper()
	var name []byte
	if url != "" {
		uri, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(url)})
		check(t, err)
		full, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: uri})
		check(t, err)
		name, err = asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: full})
		check(t, err)
	}
	if onlyUser {
		name = append(name, 0x81, 0x01, 0xff)
	}
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: name})
	check(t, err)
	return func(r *x509.RevocationList) {
		r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: oidIssuingDistributionPoint, Critical: true, Value: der})
	}
}

func FuzzParseEndorsements(f *testing.F) {
	p := newPKI(f)
	f.Add(p.chain[0].Raw)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.chain[1].Raw}))
	f.Add(newCRL(f, p.chain[0], p.keys[0], &x509.RevocationList{ThisUpdate: fixtureTime, NextUpdate: fixtureTime}))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := parseEndorsements("x", b)
		if err != nil {
			return
		}
		for _, e := range es {
			if (e.cert == nil) == (e.crl == nil) {
				t.Fatalf("an endorsement is a certificate or a CRL: %+v", e)
			}
		}
		// Whatever it is, checking it ends in a state or an error.
		if got, err := checkRevocation(p.chain, es, fixtureTime, false); err == nil && got.State == "" {
			t.Fatal("no state")
		}
	})
}
