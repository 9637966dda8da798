package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// Whatever the CRL: no panic, and everything that it revokes is revoked. The
// signature is left out here; FuzzCRL has it.
func FuzzReadCRL(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	ark := &x509.Certificate{Subject: pkix.Name{CommonName: "ARK"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	for _, x := range [][]pkix.Extension{
		nil, {{Id: oid(28), Critical: true, Value: []byte{0x30, 9, 0xa0, 7, 0xa0, 5, 0x86, 3, 'u', 'r', 'i'}}}, {{Id: oid(27), Critical: true, Value: []byte{2, 1, 1}}},
	} {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: time.Unix(1, 0), NextUpdate: time.Unix(2, 0), ExtraExtensions: x,
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Unix(1, 0)}},
		}, ark, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	l := &line{product: Milan}
	f.Fuzz(func(t *testing.T, der []byte) {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return
		}
		if !isCRL(der) {
			t.Error("a CRL is taken for something else")
		}
		c, err := newCRL(l, list)
		if (c == nil) == (err == nil) {
			t.Fatalf("%v, %v: want one of them", c, err)
		}
		for _, e := range list.RevokedCertificateEntries {
			if c != nil && !c.names(string(e.SerialNumber.Bytes())) {
				t.Errorf("serial %x is revoked, and not named", e.SerialNumber)
			}
		}
	})
}

// Whatever the extension: no panic, and every name lies in it.
func FuzzDistributionPoint(f *testing.F) {
	f.Add([]byte{0x30, 9, 0xa0, 7, 0xa0, 5, 0x86, 3, 'u', 'r', 'i'})
	f.Add([]byte{0x30, 3, 0x81, 1, 0xff})
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		points, err := distributionPoint(der)
		if err != nil && points != nil || err == nil && len(points) == 0 {
			t.Errorf("%q, %v", points, err)
		}
		for _, p := range points {
			if !bytes.Contains(der, []byte(p)) {
				t.Errorf("%q is not in it", p)
			}
		}
		_ = isCRL(der)
		if id, ok := twice(der); ok && len(id) == 0 {
			t.Error("an extension without identifier occurs twice")
		}
	})
}
