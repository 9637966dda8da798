package tpm

import (
	"crypto"
	"fmt"

	// The hashes that names, registers and signatures are made with.
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// Algorithm identifiers of TPM 2.0 Library, Part 2, section 6.3 (TPM_ALG_ID).
const (
	algRSA    = 0x0001
	algSHA1   = 0x0004
	algAES    = 0x0006
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algSHA512 = 0x000d
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAES  = 0x0015
	algRSAPSS = 0x0016
	algOAEP   = 0x0017
	algECDSA  = 0x0018
	algECDH   = 0x0019
	algECC    = 0x0023
	algCFB    = 0x0043
)

// Curves, Part 2, section 6.4 (TPM_ECC_CURVE).
const (
	curveP256 = 0x0003
	curveP384 = 0x0004
	curveP521 = 0x0005
)

// Handles of the hierarchies, Part 2, section 7.4 (TPM_RH).
const (
	handleOwner       = 0x40000001
	handleNull        = 0x40000007
	handleEndorsement = 0x4000000b
	handlePlatform    = 0x4000000c
)

// hashOf returns the hash of an algorithm identifier. SHA-1 is none: nothing here
// rests on it.
func hashOf(alg uint16) (crypto.Hash, bool) {
	switch alg {
	case algSHA256:
		return crypto.SHA256, true
	case algSHA384:
		return crypto.SHA384, true
	case algSHA512:
		return crypto.SHA512, true
	}
	return 0, false
}

// algName is an algorithm as people write it.
func algName(alg uint16) string {
	switch alg {
	case algRSA:
		return "RSA"
	case algSHA1:
		return "SHA-1"
	case algSHA256:
		return "SHA-256"
	case algSHA384:
		return "SHA-384"
	case algSHA512:
		return "SHA-512"
	case algNull:
		return "none"
	case algRSASSA:
		return "RSASSA"
	case algRSAES:
		return "RSAES"
	case algRSAPSS:
		return "RSAPSS"
	case algOAEP:
		return "OAEP"
	case algECDSA:
		return "ECDSA"
	case algECC:
		return "ECC"
	}
	return fmt.Sprintf("algorithm 0x%04x", alg)
}
