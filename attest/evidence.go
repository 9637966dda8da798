package attest

import "crypto/sha256"

// Evidence is what an attester sent. Nothing in it is trusted.
type Evidence struct {
	Platform     Platform
	Body         []byte   // the platform's own format: a Nitro document, an SNP report, …
	Endorsements [][]byte // certificates and CRLs that the attester brought along, DER
	EventLog     []byte   // TPM: the boot event log, raw; its digest is in the body
}

// Digest is SHA-256 of the body: the name under which the evidence is recorded.
// A body that has an event log beside it holds the log's digest.
func (e Evidence) Digest() [32]byte { return sha256.Sum256(e.Body) }
