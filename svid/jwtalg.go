package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes below
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"
)

// algorithm is a JWS algorithm that a JWT-SVID may be signed with.
type algorithm struct {
	hash  crypto.Hash
	curve elliptic.Curve // nil for RSA
	pss   bool
}

// algorithms are those of the JWT-SVID specification, section 2.1. "none" and
// the symmetric ones are not among them. An attested JWT-SVID is of ES256 alone.
func algorithms() map[string]algorithm {
	return map[string]algorithm{
		"ES256": {hash: crypto.SHA256, curve: elliptic.P256()},
		"ES384": {hash: crypto.SHA384, curve: elliptic.P384()},
		"ES512": {hash: crypto.SHA512, curve: elliptic.P521()},
		"RS256": {hash: crypto.SHA256},
		"RS384": {hash: crypto.SHA384},
		"RS512": {hash: crypto.SHA512},
		"PS256": {hash: crypto.SHA256, pss: true},
		"PS384": {hash: crypto.SHA384, pss: true},
		"PS512": {hash: crypto.SHA512, pss: true},
	}
}

// attestedAlgorithm is that of every attested JWT-SVID.
const attestedAlgorithm = "ES256"

// The sizes of RSA keys, in bits. The least is RFC 7518's (section 3.3). The greatest
// is what crypto/tls takes, and public exponents beyond 65537 are nobody's: with both,
// no key that somebody else's bundle holds makes a signature cost more than about a
// millisecond.
const (
	minRSA         = 2048
	maxRSA         = 8192
	maxRSAExponent = 65537
)

// sizedRSA says whether a key, if it is RSA, is within the bounds from above.
func sizedRSA(key crypto.PublicKey) error {
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil
	}
	if k == nil || k.N == nil || k.N.BitLen() > maxRSA || k.E > maxRSAExponent {
		return fmt.Errorf("an RSA key of more than %d bits, or with an exponent beyond %d", maxRSA, maxRSAExponent)
	}
	return nil
}

var errSignature = errors.New("the signature is not the key's")

// fits says whether the key is one for the algorithm: its kind, and for ECDSA its
// curve. The algorithm is what the token says; the key is what the bundle says.
func (a algorithm) fits(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k == nil || a.curve == nil || k.Curve != a.curve {
			return fmt.Errorf("the key is ECDSA, on another curve or not what the algorithm is for")
		}
		return nil
	case *rsa.PublicKey:
		if k == nil || k.N == nil || a.curve != nil || k.N.BitLen() < minRSA {
			return fmt.Errorf("the key is RSA, and the algorithm is not, or it has less than %d bits", minRSA)
		}
		return sizedRSA(k)
	}
	return fmt.Errorf("a key of type %T signs no JWT-SVID", key)
}

// verify checks a signature over the signing input (RFC 7515, section 5.2; RFC
// 7518, sections 3.3 to 3.5). The key fits.
func (a algorithm) verify(key crypto.PublicKey, input, sig []byte) error {
	h := a.hash.New()
	_, _ = h.Write(input) // a hash never fails
	digest := h.Sum(nil)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		n := (k.Params().BitSize + 7) / 8
		if len(sig) != 2*n || !ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])) {
			return errSignature
		}
		return nil
	case *rsa.PublicKey:
		if a.pss {
			return rsa.VerifyPSS(k, a.hash, digest, sig, &rsa.PSSOptions{SaltLength: a.hash.Size(), Hash: a.hash})
		}
		return rsa.VerifyPKCS1v15(k, a.hash, digest, sig)
	}
	return errSignature
}
