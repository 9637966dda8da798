package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// signature is a decoded TPMT_SIGNATURE (Part 2, section 11.3.4).
type signature struct {
	scheme uint16
	hash   uint16
	rsa    []byte
	r, s   []byte
}

// parseSignature decodes a TPMT_SIGNATURE, to the last byte.
func parseSignature(b []byte) (*signature, error) {
	r := &reader{b: b}
	s := &signature{scheme: r.u16(), hash: r.u16()}
	switch s.scheme {
	case algRSASSA, algRSAPSS:
		s.rsa = r.sized(512)
	case algECDSA:
		s.r, s.s = r.sized(66), r.sized(66)
	default:
		return nil, fmt.Errorf("signature scheme %s: %w", algName(s.scheme), errNotSupported)
	}
	if !r.done() {
		return nil, errStructure
	}
	return s, nil
}

// verify checks the signature over a message by the key. The scheme must have
// been compared with the key's.
func (s *signature) verify(key crypto.PublicKey, message []byte) error {
	h, ok := hashOf(s.hash)
	if !ok {
		return fmt.Errorf("hash %s: %w", algName(s.hash), errNotSupported)
	}
	d := h.New()
	d.Write(message) // never fails
	sum := d.Sum(nil)
	switch k := key.(type) {
	case *rsa.PublicKey:
		if s.scheme == algRSAPSS {
			// The TPM takes the longest salt that fits, or that of the digest (FIPS 186-4).
			return rsa.VerifyPSS(k, h, sum, s.rsa, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		}
		if s.scheme == algRSASSA {
			return rsa.VerifyPKCS1v15(k, h, sum, s.rsa)
		}
	case *ecdsa.PublicKey:
		if s.scheme == algECDSA {
			if ecdsa.Verify(k, sum, new(big.Int).SetBytes(s.r), new(big.Int).SetBytes(s.s)) {
				return nil
			}
			return errors.New("ECDSA verification failure")
		}
	}
	return fmt.Errorf("a signature of scheme %s by a key of another kind", algName(s.scheme))
}

// schemeOf reports whether the signature is of the one scheme that the key signs
// with: a restricted key has exactly one.
func (s *signature) schemeOf(p *public) bool {
	return s.scheme == p.scheme && s.hash == p.schemeHash
}
