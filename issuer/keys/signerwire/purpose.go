package signerwire

import (
	"fmt"
	"slices"
	"strings"
)

// Purpose is what a signature is for. Each key is held for one or more, and each
// request names one: a key for JWT-SVIDs signs no certificate.
type Purpose string

// The purposes.
const (
	X509Authority Purpose = "x509-authority" // X.509-SVIDs and the certificate of their authority
	JWT           Purpose = "jwt"            // JWT-SVIDs
	Verifier      Purpose = "verifier"       // attestation results
	VerifierRoot  Purpose = "verifier-root"  // the document of verifier keys
	Bootstrap     Purpose = "bootstrap-root" // servers' TLS certificates
	Checkpoint    Purpose = "checkpoint"     // the ledger's checkpoints
	DenyList      Purpose = "deny-list"      // the signed deny-list
)

// Purposes lists every purpose.
func Purposes() []Purpose {
	return []Purpose{X509Authority, JWT, Verifier, VerifierRoot, Bootstrap, Checkpoint, DenyList}
}

// Known reports whether p is one of the purposes.
func (p Purpose) Known() bool { return slices.Contains(Purposes(), p) }

// UnmarshalText accepts the name of a purpose.
func (p *Purpose) UnmarshalText(b []byte) error {
	got := Purpose(b)
	if !got.Known() {
		names := make([]string, 0, len(Purposes()))
		for _, k := range Purposes() {
			names = append(names, string(k))
		}
		return fmt.Errorf("%.40q is not a purpose: want one of %s", b, strings.Join(names, ", "))
	}
	*p = got
	return nil
}
