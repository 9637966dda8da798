package tpm_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
)

// authority is a CA of TPM certificates: a root and an intermediate.
type authority struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey crypto.Signer
}

// newAuthority makes a CA; use tells two of them apart. change alters the
// intermediate.
func newAuthority(t testing.TB, name, use string, change func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{rootKey: keyOf(t, p384, use+" root"), issuerKey: keyOf(t, p256, use+" issuer")}
	ca := func(cn string, serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"A test of Assay"}, CommonName: name + cn},
			NotBefore: validFrom, NotAfter: validUntil, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	root := ca(" Root", 1)
	a.root = issue(t, root, root, a.rootKey.Public(), a.rootKey)
	issuer := ca(" Issuing CA", 2)
	issuer.UnknownExtKeyUsage = append(slices.Clone(ekUsage), aikUsage...)
	if change != nil {
		change(issuer)
	}
	a.issuer = issue(t, issuer, a.root, a.issuerKey.Public(), a.rootKey)
	return a
}

// issue signs a certificate, also where the parent has another key than the
// signer's.
func issue(t testing.TB, c, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent != c {
		forged := *parent
		forged.PublicKey = signer.Public()
		parent = &forged
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func pemOf(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// tpmSAN is the subject alternative name of an EK certificate.
func tpmSAN(t testing.TB, attributes ...string) pkix.Extension {
	t.Helper()
	var dn pkix.RDNSequence
	for i, v := range attributes {
		if v != "" {
			dn = append(dn, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, i%3 + 1}, Value: v}})
		}
	}
	inner := must(asn1.Marshal(dn))
	name := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: inner}))
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: name}))}
}

// instance is Google's extension, as go-tpm-tools reads it.
type instance struct {
	Zone          string `asn1:"utf8"`
	ProjectNumber int64
	ProjectID     string `asn1:"utf8"`
	InstanceID    int64
	InstanceName  string   `asn1:"utf8"`
	Security      security `asn1:"explicit,optional"`
}

type security struct {
	Version    int64 `asn1:"explicit,tag:0,optional"`
	Production bool  `asn1:"explicit,tag:1,optional"`
}

var goodInstance = instance{"us-central1-a", 42, "a-project", 4711, "a-machine", security{1, true}}

func instanceExtension(i instance) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}, Value: must(asn1.Marshal(i))}
}
