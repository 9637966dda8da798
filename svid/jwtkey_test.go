package svid

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"testing"
)

// RFC 7638, section 3.1.
func TestTheKeyIDIsTheThumbprintOfTheRFC(t *testing.T) {
	n, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	got, err := JWKThumbprint(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// RFC 8037, appendix A.3.
func TestTheKeyIDOfAnEd25519KeyIsThatOfTheRFC(t *testing.T) {
	x, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	got, err := JWKThumbprint(ed25519Key(x))
	if err != nil {
		t.Fatal(err)
	}
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestACoordinateThatBeginsWithZerosKeepsItsLength(t *testing.T) {
	for range 2000 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if k.X.BitLen() > 248 && k.Y.BitLen() > 248 {
			continue
		}
		m, err := jwkMembers(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if len(m["x"]) != 43 || len(m["y"]) != 43 {
			t.Fatalf("RFC 7518, section 6.2.1.2 wants 32 bytes: %v", m)
		}
		return
	}
	t.Error("no such key was found")
}

func TestAKeyThatSignsNothingHasNoKeyID(t *testing.T) {
	for name, key := range map[string]any{
		"nothing": nil, "nil ECDSA": (*ecdsa.PublicKey)(nil), "empty ECDSA": &ecdsa.PublicKey{}, "P-224": p224(t),
		"off the curve": &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)},
		"nil RSA":       (*rsa.PublicKey)(nil), "empty RSA": &rsa.PublicKey{}, "short Ed25519": ed25519Key(make([]byte, 31)), "a string": "key",
	} {
		if kid, err := JWKThumbprint(key); err == nil {
			t.Errorf("%s: got %s", name, kid)
		}
		if _, err := JWK(key, "sig"); err == nil {
			t.Errorf("%s: got a JWK", name)
		}
	}
}

func p224(t testing.TB) *ecdsa.PublicKey {
	k, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

func ed25519Key(b []byte) any { return ed25519.PublicKey(b) }
