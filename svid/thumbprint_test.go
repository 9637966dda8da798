package svid

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"testing"
)

// TestTheThumbprintOfRFC9679 is the worked example of RFC 9679, section 6.
func TestTheThumbprintOfRFC9679(t *testing.T) {
	point := unhex(t, "04"+
		"65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d"+
		"1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c")
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ThumbprintOf(key)
	if err != nil {
		t.Fatal(err)
	}
	if want := "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"; got.String() != want {
		t.Errorf("%s, want %s", got, want)
	}
	var back Thumbprint
	text, err := got.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := back.UnmarshalText(text); err != nil || back != got {
		t.Errorf("%s, %v", back, err)
	}
	if back.UnmarshalText(text[2:]) == nil || back.UnmarshalText([]byte("zz"+string(text[2:]))) == nil {
		t.Error("a broken thumbprint was read")
	}
}

// The encodings below are written out by hand from RFC 9053 and RFC 8230.
func TestTheThumbprintOfOtherKeys(t *testing.T) {
	ed := make([]byte, ed25519.PublicKeySize)
	for i := range ed {
		ed[i] = byte(i)
	}
	got, err := ThumbprintOf(ed25519.PublicKey(ed))
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(unhex(t, "a3"+"0101"+"2006"+"215820"+hex.EncodeToString(ed)))
	if got != want {
		t.Errorf("Ed25519: %s, want %x", got, want)
	}
	n := new(big.Int).SetBytes(unhex(t, "c0ffee0000000000000000000000000000000000000000000000000000000001"))
	got, err = ThumbprintOf(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	want = sha256.Sum256(unhex(t, "a3"+"0103"+"205820"+n.Text(16)+"2143010001"))
	if got != want {
		t.Errorf("RSA: %s, want %x", got, want)
	}
	for name, key := range map[string]any{
		"nil": nil, "a private key": testKey(t, "a").PrivateKey, "no curve": &ecdsa.PublicKey{},
		"a nil ECDSA key": (*ecdsa.PublicKey)(nil), "a short Ed25519 key": ed25519.PublicKey(ed[:31]),
		"no modulus": &rsa.PublicKey{E: 3}, "a nil RSA key": (*rsa.PublicKey)(nil),
		"no point": &ecdsa.PublicKey{Curve: elliptic.P256()},
	} {
		if _, err := ThumbprintOf(key); err == nil {
			t.Errorf("%s: has a thumbprint", name)
		}
	}
}
