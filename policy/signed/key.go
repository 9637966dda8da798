package signed

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/veraison/go-cose"
)

// KeyID names a signer's key: SHA-256 of its SubjectPublicKeyInfo, DER (RFC 5280
// section 4.1.2.7). `openssl pkey -pubin -outform DER | sha256sum` prints it.
type KeyID [sha256.Size]byte

// String returns lower-case hex.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// MarshalText writes lower-case hex.
func (k KeyID) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func compareKeyIDs(a, b KeyID) int { return bytes.Compare(a[:], b[:]) }

// IDOf computes the key id of a public key: ECDSA on P-256 or P-384, or
// Ed25519. Any other key is an error.
func IDOf(key crypto.PublicKey) (KeyID, error) {
	if _, err := algorithmOf(key); err != nil {
		return KeyID{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return KeyID{}, err
	}
	return sha256.Sum256(spki), nil
}

// algorithm is how one kind of key signs: a key has one algorithm, so that no
// document can choose (RFC 9053 section 2).
type algorithm struct {
	id   cose.Algorithm
	hash crypto.Hash // 0 for Ed25519
	size int         // of a signature, in bytes
}

func algorithmOf(key crypto.PublicKey) (algorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k != nil && k.Curve == elliptic.P256() {
			return algorithm{cose.AlgorithmES256, crypto.SHA256, 64}, nil
		}
		if k != nil && k.Curve == elliptic.P384() {
			return algorithm{cose.AlgorithmES384, crypto.SHA384, 96}, nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return algorithm{cose.AlgorithmEdDSA, 0, ed25519.SignatureSize}, nil
		}
	}
	return algorithm{}, fmt.Errorf("a key of type %T: want ECDSA on P-256 or P-384, or Ed25519", key)
}

// keySigner is a cose.Signer over any crypto.Signer. Unlike go-cose's own it
// names the hash to the key, which HSMs and KMS clients demand.
type keySigner struct {
	alg algorithm
	key crypto.Signer
	id  KeyID
}

func newKeySigner(key crypto.Signer) (*keySigner, error) {
	if key == nil {
		return nil, errors.New("there is no key")
	}
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	id, err := IDOf(key.Public())
	if err != nil {
		return nil, err
	}
	return &keySigner{alg, key, id}, nil
}

// Algorithm implements cose.Signer.
func (s *keySigner) Algorithm() cose.Algorithm { return s.alg.id }

// Sign implements cose.Signer.
func (s *keySigner) Sign(random io.Reader, content []byte) ([]byte, error) {
	if s.alg.hash == 0 {
		return s.key.Sign(random, content, crypto.Hash(0))
	}
	h := s.alg.hash.New()
	h.Write(content)
	der, err := s.key.Sign(random, h.Sum(nil), s.alg.hash)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 {
		return nil, errors.New("the key returned something other than an ECDSA signature")
	}
	out := make([]byte, s.alg.size)
	if err := cose.I2OSP(sig.R, out[:s.alg.size/2]); err != nil {
		return nil, err
	}
	if err := cose.I2OSP(sig.S, out[s.alg.size/2:]); err != nil {
		return nil, err
	}
	return out, nil
}

// The PEM types of keys (RFC 7468 sections 10 and 13).
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// ParsePublicKey reads a signer's public key: one PEM block PUBLIC KEY, and
// nothing after it.
func ParsePublicKey(text []byte) (crypto.PublicKey, error) {
	der, err := oneBlock(text, publicBlock)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	if _, err := algorithmOf(key); err != nil {
		return nil, err
	}
	return key, nil
}

// ParsePrivateKey reads a signer's private key: one PEM block PRIVATE KEY, which
// is PKCS#8, and nothing after it.
func ParsePrivateKey(text []byte) (crypto.Signer, error) {
	der, err := oneBlock(text, privateBlock)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T does not sign", key)
	}
	if _, err := algorithmOf(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

func oneBlock(text []byte, want string) ([]byte, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("no PEM block %s", want)
	case block.Type != want:
		return nil, fmt.Errorf("a PEM block %.40q, want %s", block.Type, want)
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, fmt.Errorf("something follows the %s", want)
	}
	return block.Bytes, nil
}

// EncodePublicKey writes a public key as ParsePublicKey reads it.
func EncodePublicKey(key crypto.PublicKey) ([]byte, error) {
	if _, err := algorithmOf(key); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der}), nil
}

// EncodePrivateKey writes a private key as ParsePrivateKey reads it.
func EncodePrivateKey(key crypto.Signer) ([]byte, error) {
	if _, err := algorithmOf(key.Public()); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), nil
}
