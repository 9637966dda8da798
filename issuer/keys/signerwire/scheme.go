package signerwire

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// Scheme is how a signature is made.
type Scheme byte

// The schemes. An ECDSA signature is DER (RFC 3279, section 2.2.3); the salt of
// RSASSA-PSS is as long as the hash (RFC 8017, section 9.1).
const (
	ECDSA   Scheme = 1
	PKCS1   Scheme = 2
	PSS     Scheme = 3
	Ed25519 Scheme = 4
)

// Hash names the hash whose digest is signed.
type Hash byte

// The hashes. NoHash goes with Ed25519, which signs the message itself.
const (
	NoHash Hash = 0
	SHA256 Hash = 1
	SHA384 Hash = 2
	SHA512 Hash = 3
)

// Crypto returns the hash of package crypto, and 0 for NoHash.
func (h Hash) Crypto() crypto.Hash {
	switch h {
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	case NoHash:
	}
	return 0
}

// String names the hash as logs do.
func (h Hash) String() string {
	if h == NoHash {
		return "none"
	}
	if c := h.Crypto(); c != 0 {
		return c.String()
	}
	return fmt.Sprintf("hash(%d)", byte(h))
}

// HashOf is the Hash of a hash of package crypto.
func HashOf(h crypto.Hash) (Hash, error) {
	switch h { //nolint:exhaustive // every other hash is refused
	case 0:
		return NoHash, nil
	case crypto.SHA256:
		return SHA256, nil
	case crypto.SHA384:
		return SHA384, nil
	case crypto.SHA512:
		return SHA512, nil
	}
	return 0, refused("signer_hash", fmt.Errorf("%v: want SHA-256, SHA-384 or SHA-512", h))
}

// AlgorithmOf names the algorithm of a public key: "P-256", "P-384",
// "RSA-2048", "RSA-3072", "RSA-4096" or "Ed25519". Other keys are an error.
func AlgorithmOf(pub crypto.PublicKey) (string, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384():
			return k.Curve.Params().Name, nil
		}
	case *rsa.PublicKey:
		switch n := k.N.BitLen(); n {
		case 2048, 3072, 4096:
			return fmt.Sprintf("RSA-%d", n), nil
		}
	case ed25519.PublicKey:
		return "Ed25519", nil
	}
	return "", refused("signer_algorithm", fmt.Errorf("a key of type %T that is not P-256, P-384, RSA of 2048, 3072 or 4096 bits, or Ed25519", pub))
}

// Fits says whether a request can be made of a key: the scheme is the key's, and
// the input is as long as the hash says.
func (s Sign) Fits(pub crypto.PublicKey) error {
	ok := false
	switch pub.(type) {
	case *ecdsa.PublicKey:
		ok = s.Scheme == ECDSA
	case *rsa.PublicKey:
		ok = s.Scheme == PKCS1 || s.Scheme == PSS
	case ed25519.PublicKey:
		ok = s.Scheme == Ed25519
	}
	if !ok {
		return refused("signer_scheme", fmt.Errorf("scheme %d is not one of a %T", s.Scheme, pub))
	}
	return nil
}

// Options returns what crypto.Signer takes to make the signature.
func (s Sign) Options() crypto.SignerOpts {
	if s.Scheme == PSS {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.Hash.Crypto()}
	}
	return s.Hash.Crypto()
}

// Verify checks a signature that a signer made of the request.
func (s Sign) Verify(pub crypto.PublicKey, sig []byte) error {
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = s.Scheme == ECDSA && ecdsa.VerifyASN1(k, s.Input, sig)
	case *rsa.PublicKey:
		switch s.Scheme {
		case PKCS1:
			ok = rsa.VerifyPKCS1v15(k, s.Hash.Crypto(), s.Input, sig) == nil
		case PSS:
			ok = rsa.VerifyPSS(k, s.Hash.Crypto(), s.Input, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		case ECDSA, Ed25519:
		}
	case ed25519.PublicKey:
		ok = s.Scheme == Ed25519 && ed25519.Verify(k, s.Input, sig)
	}
	if !ok {
		return &attest.Error{Kind: attest.Internal, Check: "signer_signature", Err: fmt.Errorf("the signature does not verify under the key %s", s.Key),
			Hint: "the signer may have been given another key under this name: compare `assay-signer keys list` with the authority's certificate"}
	}
	return nil
}

func refused(check string, err error) error {
	return &attest.Error{Kind: attest.Denied, Check: check, Err: err}
}
