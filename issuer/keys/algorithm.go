package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
)

// Algorithm is the kind of key that Create makes.
type Algorithm int

// The algorithms. P256 signs certificates and attestation results; Ed25519
// signs the ledger's checkpoints, as the signed-note format wants it.
const (
	P256 Algorithm = iota
	Ed25519
)

// String returns "P-256" or "Ed25519".
func (a Algorithm) String() string {
	switch a {
	case P256:
		return "P-256"
	case Ed25519:
		return "Ed25519"
	}
	return fmt.Sprintf("algorithm(%d)", int(a))
}

// generate draws a key from the operating system's randomness.
func (a Algorithm) generate() (crypto.Signer, error) {
	switch a {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("keys: cannot generate %v", a)
}

// Is reports whether key is of this algorithm.
func (a Algorithm) Is(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return a == P256 && k.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return a == Ed25519
	}
	return false
}
