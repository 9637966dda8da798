package store

import (
	"fmt"
	"strings"

	"go.step.sm/crypto/kms/apiv1"
)

// Algorithm is what `keys create` makes, by the name that keys are listed with.
type Algorithm string

// The algorithms. No store has them all: PKCS#11 is used without Ed25519, Google
// Cloud KMS and Azure likewise.
const (
	P256    Algorithm = "P-256"
	P384    Algorithm = "P-384"
	RSA2048 Algorithm = "RSA-2048"
	RSA3072 Algorithm = "RSA-3072"
	RSA4096 Algorithm = "RSA-4096"
	Ed25519 Algorithm = "Ed25519"
)

// Algorithms lists them.
func Algorithms() []Algorithm { return []Algorithm{P256, P384, RSA2048, RSA3072, RSA4096, Ed25519} }

// String, Set and Type make Algorithm a flag.
func (a *Algorithm) String() string { return string(*a) }

// Type is the word that help shows for the value.
func (a *Algorithm) Type() string { return "ALGORITHM" }

// Set accepts the name of an algorithm.
func (a *Algorithm) Set(s string) error {
	var names []string
	for _, known := range Algorithms() {
		if s == string(known) {
			*a = known
			return nil
		}
		names = append(names, string(known))
	}
	return fmt.Errorf("want one of %s", strings.Join(names, ", "))
}

// step is how go.step.sm/crypto names the algorithm.
func (a Algorithm) step() (alg apiv1.SignatureAlgorithm, bits int) {
	switch a {
	case P256:
		return apiv1.ECDSAWithSHA256, 0
	case P384:
		return apiv1.ECDSAWithSHA384, 0
	case RSA2048:
		return apiv1.SHA256WithRSA, 2048
	case RSA3072:
		return apiv1.SHA256WithRSA, 3072
	case RSA4096:
		return apiv1.SHA256WithRSA, 4096
	case Ed25519:
		return apiv1.PureEd25519, 0
	}
	return apiv1.UnspecifiedSignAlgorithm, 0
}
