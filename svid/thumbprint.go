package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
)

// Thumbprint is a COSE Key Thumbprint (RFC 9679): SHA-256 over the
// deterministic CBOR of the required parameters of a COSE_Key.
type Thumbprint [sha256.Size]byte

// String returns lower-case hex.
func (t Thumbprint) String() string { return hex.EncodeToString(t[:]) }

// MarshalText writes lower-case hex.
func (t Thumbprint) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON writes the text, and null for the zero Thumbprint: there is none.
func (t Thumbprint) MarshalJSON() ([]byte, error) {
	if t == (Thumbprint{}) {
		return []byte("null"), nil
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalText reads 64 hex digits.
func (t *Thumbprint) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(t)) {
		return fmt.Errorf("thumbprint of %d hex digits, want %d", len(b), hex.EncodedLen(len(t)))
	}
	_, err := hex.Decode(t[:], b)
	return err
}

// COSE_Key parameters and values (RFC 9053, section 7; RFC 8230, section 4).
type (
	coseEC2 struct {
		Kty int    `cbor:"1,keyasint"`
		Crv int    `cbor:"-1,keyasint"`
		X   []byte `cbor:"-2,keyasint"`
		Y   []byte `cbor:"-3,keyasint"`
	}
	coseOKP struct {
		Kty int    `cbor:"1,keyasint"`
		Crv int    `cbor:"-1,keyasint"`
		X   []byte `cbor:"-2,keyasint"`
	}
	coseRSA struct {
		Kty int    `cbor:"1,keyasint"`
		N   []byte `cbor:"-1,keyasint"`
		E   []byte `cbor:"-2,keyasint"`
	}
)

const (
	ktyOKP, ktyEC2, ktyRSA = 1, 2, 3
	crvP256, crvP384       = 1, 2
	crvEd25519             = 6
)

// ThumbprintOf computes the thumbprint of a public key: ECDSA on P-256 or
// P-384, Ed25519, or RSA, which are the kinds of key that an SVID may have.
func ThumbprintOf(key crypto.PublicKey) (Thumbprint, error) {
	k, err := coseKey(key)
	if err != nil {
		return Thumbprint{}, err
	}
	b, err := encMode.Marshal(k)
	if err != nil {
		return Thumbprint{}, fmt.Errorf("encode COSE_Key: %w", err)
	}
	return sha256.Sum256(b), nil
}

func coseKey(key crypto.PublicKey) (any, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return coseKeyEC2(k)
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("the Ed25519 key has %d bytes, want %d", len(k), ed25519.PublicKeySize)
		}
		return coseOKP{Kty: ktyOKP, Crv: crvEd25519, X: k}, nil
	case *rsa.PublicKey:
		if k == nil || k.N == nil || k.E <= 0 {
			return nil, fmt.Errorf("the RSA key is incomplete")
		}
		// RFC 8230, section 4: no leading zero bytes.
		return coseRSA{Kty: ktyRSA, N: k.N.Bytes(), E: big.NewInt(int64(k.E)).Bytes()}, nil
	}
	return nil, fmt.Errorf("a key of type %T: want ECDSA, Ed25519 or RSA", key)
}

func coseKeyEC2(k *ecdsa.PublicKey) (coseEC2, error) {
	if k == nil || k.Curve == nil || k.X == nil || k.Y == nil {
		return coseEC2{}, fmt.Errorf("the ECDSA key is incomplete")
	}
	var crv int
	switch k.Curve {
	case elliptic.P256():
		crv = crvP256
	case elliptic.P384():
		crv = crvP384
	default:
		return coseEC2{}, fmt.Errorf("an ECDSA key on %s: want P-256 or P-384", k.Params().Name)
	}
	point, err := k.Bytes() // 0x04 ‖ X ‖ Y, and refuses a point off the curve
	if err != nil {
		return coseEC2{}, fmt.Errorf("the ECDSA key is not valid: %w", err)
	}
	n := (len(point) - 1) / 2
	return coseEC2{Kty: ktyEC2, Crv: crv, X: point[1 : 1+n], Y: point[1+n:]}, nil
}

// publicKey turns a P-256 COSE_Key back into a key.
func (k coseEC2) publicKey() (*ecdsa.PublicKey, error) {
	if k.Kty != ktyEC2 || k.Crv != crvP256 || len(k.X) != 32 || len(k.Y) != 32 {
		return nil, fmt.Errorf("COSE_Key kty %d, crv %d with %d and %d bytes: want EC2 on P-256 with 32 and 32", k.Kty, k.Crv, len(k.X), len(k.Y))
	}
	point := append(append([]byte{4}, k.X...), k.Y...)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}
