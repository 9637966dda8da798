package attest

import "crypto/sha256"

// Evidence is what an attester sent. Nothing in it is trusted.
type Evidence struct {
	Platform     Platform
	Body         []byte   // the platform's own format: a Nitro document, an SNP report, …
	Endorsements [][]byte // certificates and CRLs that the attester brought along, DER
}

// Digest is SHA-256 of the body: the name under which the evidence is recorded.
func (e Evidence) Digest() [32]byte { return sha256.Sum256(e.Body) }
