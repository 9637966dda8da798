package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// payloadVersion is Entry.Version of what this program writes.
const payloadVersion = 1

// The outcomes of an entry: what it is a record of.
const (
	Granted = "granted" // an attestation that earned SVIDs
	Denied  = "denied"  // one that policy refused; not chained
	Minted  = "token"   // a JWT-SVID: see [Token]
	Admin   = "admin"   // a call of an administrator: see [Action]
)

// Entry is the payload of one record: JSON, kept and hashed byte for byte. The
// same form describes a denial, which is kept outside the chain. What an outcome
// has nothing to say of is absent.
type Entry struct {
	Version     int    `json:"version"` // 1
	TrustDomain string `json:"trust_domain"`
	Chain       string `json:"chain"`
	// Time is the server's, when the entry was made, before it became durable.
	Time      time.Time `json:"time"`
	Reference string    `json:"reference"`
	Outcome   string    `json:"outcome"` // "granted", "denied", "token" or "admin"

	Platform attest.Platform `json:"tee,omitzero"`
	Purpose  attest.Purpose  `json:"purpose,omitzero"`
	Instance attest.Instance `json:"instance,omitzero"`
	// Simulated: the evidence ends in a simulator's root.
	Simulated bool `json:"simulated"`
	// EvidenceDigest is SHA-256 of the evidence body. EvidenceKept says whether
	// the body was to be stored with this entry: quotas can leave it out, and
	// its retention ends.
	EvidenceDigest attest.Bytes `json:"evidence_digest,omitempty"`
	EvidenceKept   bool         `json:"evidence_kept"`
	// VerifiedAt is the server's time of the verification.
	VerifiedAt time.Time `json:"verified_at,omitzero"`
	// Peer is the network address that the attestation came from. Nothing
	// depends on it: it may be a NAT, or a lie.
	Peer string `json:"peer,omitempty"`

	Policy   Policy          `json:"policy,omitzero"`
	Claims   attest.Claims   `json:"claims,omitzero"`
	Decision policy.Decision `json:"decision,omitzero"`
	// Identities are the SVIDs that the entry allows. An SVID can be missing
	// (the server stopped between record and signature), never be another.
	Identities []Identity `json:"identities,omitzero"`

	Token  *Token  `json:"token,omitempty"`
	Action *Action `json:"action,omitempty"`
}

// Policy names what decided.
type Policy struct {
	Name     string       `json:"name"`
	Revision uint64       `json:"revision"`
	Digest   attest.Bytes `json:"digest"` // SHA-256 of the source
}

// Identity is one SVID that an entry allows.
type Identity struct {
	Key      int    `json:"key"`    // index of the key in the challenge
	Serial   string `json:"serial"` // of the certificate: 16 bytes, lower-case hex
	SPIFFEID string `json:"spiffe_id"`
	// KeyThumbprint is SHA-256 of the SubjectPublicKeyInfo.
	KeyThumbprint attest.Bytes `json:"key_thumbprint"`
	// NotAfter bounds the certificate's; the authority may end it earlier.
	NotAfter time.Time `json:"not_after"`
}

// encode makes the payload.
func (e Entry) encode() ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("ledger: encoding an entry: %w", err)
	}
	return b, nil
}

// ParseEntry reads a payload. Fields that a later version added are ignored,
// since a reader must not lose the rest for them; another Version is an error.
func ParseEntry(payload []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(payload, &e); err != nil {
		return Entry{}, fmt.Errorf("ledger: the payload is not an entry: %w", err)
	}
	if e.Version != payloadVersion {
		return Entry{}, fmt.Errorf("ledger: payload version %d, want %d", e.Version, payloadVersion)
	}
	return e, nil
}
