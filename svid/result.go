package svid

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// MaxResultSize bounds the signed result, in bytes. Ordinary ones have about
// 740 (docs/spec/attested-svid.md).
const MaxResultSize = 4096

// VerifierID names the software that appraised the evidence (AR4SI, section 3.3).
type VerifierID struct {
	Developer string `json:"developer"` // "assay-project"
	Build     string `json:"build"`     // "assayd 1.2.0"
}

// Result is the attestation result that an attested SVID carries: an EAR
// claims set with one submodule. A Result in itself says nothing about who
// signed it: relying parties take it from [Attested], inspection tools from
// [Unverified].
type Result struct {
	Issuer        string          `json:"issuer"`         // the trust domain, "spiffe://example.org"
	Subject       string          `json:"subject"`        // the SPIFFE ID, equal to the certificate's URI SAN
	IssuedAt      time.Time       `json:"issued_at"`      // seconds
	Expiry        time.Time       `json:"expiry"`         // seconds; not before the certificate's NotAfter
	KeyThumbprint Thumbprint      `json:"key_thumbprint"` // of the certificate's public key
	VerifierID    VerifierID      `json:"verifier_id"`
	Platform      attest.Platform `json:"platform"`
	Status        Tier            `json:"status"` // the worst entry of Vector
	Vector        Vector          `json:"vector"`
	Policy        string          `json:"policy"`        // "name@revision"
	PolicyDigest  attest.Bytes    `json:"policy_digest"` // 32 bytes: SHA-256 of the policy's source
	// Attributes are what the policy says about the workload.
	Attributes map[string]string `json:"attributes,omitempty"`
	// Measurements are the published ones, by their name in policies: "pcr0",
	// "measurement". A register that is all zero is never published.
	Measurements map[string]attest.Bytes `json:"measurements,omitempty"`
	// EvidenceTime is when the evidence was made; where the platform's evidence
	// carries no clock, when the verifier received it. Never after IssuedAt.
	EvidenceTime time.Time `json:"evidence_time"`
	// EvidenceDigest names the evidence to one who has it, and to nobody else:
	// 16 bytes of salt ‖ SHA-256(salt ‖ SHA-256(evidence)). See [Result.IsOf].
	EvidenceDigest attest.Bytes `json:"evidence_digest"`
	// Simulated is true when the evidence came from a simulator.
	Simulated bool `json:"simulated"`
}

const saltSize = 16

// saltedDigest is what [Result.EvidenceDigest] holds.
func saltedDigest(salt [saltSize]byte, evidence [32]byte) []byte {
	sum := sha256.Sum256(append(salt[:], evidence[:]...))
	return append(salt[:], sum[:]...)
}

// IsOf reports whether the result was made from the evidence whose body has
// this SHA-256 digest, so that an auditor can match an SVID to a ledger entry.
func (r *Result) IsOf(evidence [32]byte) bool {
	if len(r.EvidenceDigest) != saltSize+sha256.Size {
		return false
	}
	want := saltedDigest([saltSize]byte(r.EvidenceDigest[:saltSize]), evidence)
	return subtle.ConstantTimeCompare(want, r.EvidenceDigest) == 1
}

// Sign encodes the result as a CWT (RFC 8392) and signs it as a COSE_Sign1 with
// ES256. The key must be on P-256; its thumbprint becomes the key id. A result
// that a relying party would refuse as malformed is not signed; the error is
// Internal then.
func (r *Result) Sign(key crypto.Signer) ([]byte, error) {
	payload, err := r.encode()
	if err != nil {
		return nil, fail(attest.Internal, "result_encode", "%w", err)
	}
	// What is signed must read back: the decoder's checks are run on it first.
	if _, err := decodeResult(payload); err != nil {
		return nil, fail(attest.Internal, "result_encode", "%w", err)
	}
	cwt, err := signSign1(key, typeResult, payload)
	if err != nil {
		return nil, fail(attest.Internal, "result_sign", "%w", err)
	}
	if len(cwt) > MaxResultSize {
		return nil, fail(attest.Internal, "result_size", "the result has %d bytes, at most %d are allowed: publish less, or shorten the attributes", len(cwt), MaxResultSize)
	}
	return cwt, nil
}

// age is how old the evidence is.
func (r *Result) age(at time.Time) time.Duration { return at.Sub(r.EvidenceTime) }

// measurement names in results and policies: "pcr0" … "pcr31".
func pcrName(index int) string { return fmt.Sprintf("pcr%d", index) }
