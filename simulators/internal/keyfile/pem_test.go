package keyfile

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

func pair(t testing.TB) (key, certificate []byte, of *ecdsa.PrivateKey) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = EncodeKey(k); err != nil {
		t.Fatal(err)
	}
	return key, EncodeCertificate(der), k
}

func TestAFilesContentIsTakenBlockByBlock(t *testing.T) {
	key, certificate, want := pair(t)
	k, rest, err := Key(append(bytes.Clone(key), certificate...))
	if err != nil || !want.Equal(k) {
		t.Fatalf("another key: %v", err)
	}
	if End(rest) == nil {
		t.Error("the certificate behind it counts as nothing")
	}
	c, rest, err := Certificate(append(rest, " \n"...))
	if err != nil || !want.PublicKey.Equal(c.PublicKey) {
		t.Fatalf("another certificate: %v", err)
	}
	if err := End(rest); err != nil {
		t.Errorf("blanks count as something: %v", err)
	}
}

func TestABlockOfAnotherKindIsRefused(t *testing.T) {
	key, certificate, _ := pair(t)
	for _, b := range [][]byte{nil, []byte("x"), certificate, key[:len(key)/2]} {
		if _, _, err := Key(b); err == nil || !strings.Contains(err.Error(), "want a PEM block PRIVATE KEY") {
			t.Errorf("Key(%.20q): %v", b, err)
		}
	}
	for _, b := range [][]byte{nil, []byte("x"), key, certificate[:len(certificate)/2]} {
		if _, _, err := Certificate(b); err == nil || !strings.Contains(err.Error(), "want a PEM block CERTIFICATE") {
			t.Errorf("Certificate(%.20q): %v", b, err)
		}
	}
}

func TestABlockWithSomethingElseInsideIsRefused(t *testing.T) {
	if _, _, err := Key(pem.EncodeToMemory(&pem.Block{Type: kindKey, Bytes: []byte{1}})); err == nil {
		t.Error("one byte was taken for a key")
	}
	if _, _, err := Certificate(EncodeCertificate([]byte{1})); err == nil {
		t.Error("one byte was taken for a certificate")
	}
	agreement, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(agreement)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Key(pem.EncodeToMemory(&pem.Block{Type: kindKey, Bytes: der})); err == nil || !strings.Contains(err.Error(), "can sign") {
		t.Errorf("a key for key agreement: %v", err)
	}
}

// What is read as a key or certificate can be written and read again.
func FuzzKeyAndCertificate(f *testing.F) {
	key, certificate, _ := pair(f)
	f.Add(key)
	f.Add(certificate)
	f.Add(append(bytes.Clone(key), certificate...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, rest, err := Key(b); err == nil {
			again, err := EncodeKey(k)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := Key(again); err != nil || len(rest) >= len(b) {
				t.Errorf("%v, and %d bytes rest of %d", err, len(rest), len(b))
			}
		}
		if c, rest, err := Certificate(b); err == nil {
			if again, _, err := Certificate(EncodeCertificate(c.Raw)); err != nil || !again.Equal(c) || len(rest) >= len(b) {
				t.Errorf("%v, and %d bytes rest of %d", err, len(rest), len(b))
			}
		}
	})
}
