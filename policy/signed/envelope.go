package signed

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// What a signed policy says it is: typ keeps its signatures apart from every
// other that the same key may make (RFC 9596), the content type is that of YAML
// (RFC 9512).
const (
	messageType = "application/assay.policy.v1"
	contentType = "application/yaml"
)

const (
	// MaxSize is the size of the largest signed policy in bytes: the largest
	// policy, its header, and as many signatures as there may be.
	MaxSize = policy.MaxSize + 16<<10

	// maxSignatures bounds the signatures of one document.
	maxSignatures = 32
)

// The tags of the two kinds of message (RFC 9052 section 2), as they are
// encoded: 18, 98.
var (
	tagSign1 = []byte{0xc0 | cose.CBORTagSign1Message}
	tagSign  = []byte{0xd8, cose.CBORTagSignMessage}
)

// Header is what the protected header of a signed policy says of its payload.
type Header struct {
	Bundle      string `json:"bundle"`
	Revision    uint64 `json:"revision"`
	TrustDomain string `json:"trust_domain"`
}

// Version is "name@revision".
func (h Header) Version() string { return fmt.Sprintf("%s@%d", h.Bundle, h.Revision) }

// headerOf is the header that a policy demands.
func headerOf(b *policy.Bundle) Header {
	return Header{Bundle: b.Name(), Revision: b.Revision(), TrustDomain: b.TrustDomain()}
}

// The protected headers as CBOR. A COSE_Sign1 has both parts in one map; in a
// COSE_Sign the body has one and each signature the other.
type (
	bodyHeader struct {
		ContentType string `cbor:"3,keyasint"`
		Type        string `cbor:"16,keyasint"`
		Bundle      string `cbor:"bundle"`
		Revision    uint64 `cbor:"revision"`
		TrustDomain string `cbor:"trust_domain"`
	}
	signerHeader struct {
		Algorithm int64  `cbor:"1,keyasint"`
		KeyID     []byte `cbor:"4,keyasint"`
	}
	sign1Header struct {
		Algorithm   int64  `cbor:"1,keyasint"`
		ContentType string `cbor:"3,keyasint"`
		KeyID       []byte `cbor:"4,keyasint"`
		Type        string `cbor:"16,keyasint"`
		Bundle      string `cbor:"bundle"`
		Revision    uint64 `cbor:"revision"`
		TrustDomain string `cbor:"trust_domain"`
	}
)

// The messages as CBOR (RFC 9052 sections 4.1 and 4.2), behind their tags.
type (
	sign1Message struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Payload     []byte
		Signature   []byte
	}
	signMessage struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Payload     []byte
		Signatures  []messageSignature
	}
	messageSignature struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Signature   []byte
	}
)

// Unverified is a signed policy whose form was checked and whose signatures
// were not: everything in it is what a stranger may have written.
type Unverified struct {
	Header  Header
	Joint   bool    // a COSE_Sign, to which others can add their signature
	KeyIDs  []KeyID // in the order of the signatures; one may occur twice
	payload []byte
	raw     []byte
	signers []signerHeader
}

// UnverifiedPayload is the policy that the document holds, whoever wrote it.
func (u *Unverified) UnverifiedPayload() []byte { return u.payload }

// UnverifiedDigest is SHA-256 of that policy, as decisions name it.
func (u *Unverified) UnverifiedDigest() [32]byte { return sha256.Sum256(u.payload) }

// Is reports whether b begins like a signed policy. A policy itself never does:
// neither byte begins a YAML document.
func Is(b []byte) bool { return bytes.HasPrefix(b, tagSign1) || bytes.HasPrefix(b, tagSign) }

// Open checks the form of a signed policy, and believes nothing in it. Every
// error is of kind Malformed:
//
//	signed_size              at most MaxSize bytes
//	signed_tag               COSE_Sign1 or COSE_Sign, tagged
//	signed_structure         deterministic CBOR of the message's types, and nothing after it
//	signed_header            the protected parameters of this format, all of them, and no other
//	signed_unprotected       nothing outside the signatures
//	signed_type              signed as a policy, and nothing else
//	signed_content_type      YAML
//	signed_key_id            32 bytes
//	signed_algorithm         ES256, ES384 or EdDSA
//	signed_signature_length  that of the algorithm
//	signed_signatures        at least one, at most 32
//	signed_payload           there is one
func Open(doc []byte) (*Unverified, error) {
	if len(doc) > MaxSize {
		return nil, mismatch("signed_size", "too large for a signed policy", fmt.Sprintf("at most %d bytes", MaxSize), fmt.Sprint(len(doc)))
	}
	switch {
	case bytes.HasPrefix(doc, tagSign1):
		return openSign1(doc)
	case bytes.HasPrefix(doc, tagSign):
		return openSign(doc)
	}
	return nil, malformed("signed_tag", errors.New("neither a COSE_Sign1 nor a COSE_Sign"))
}

func openSign1(doc []byte) (*Unverified, error) {
	var m sign1Message
	if err := decodeExact(doc[len(tagSign1):], &m); err != nil {
		return nil, malformed("signed_structure", err)
	}
	var h sign1Header
	if err := decodeExact(m.Protected, &h); err != nil {
		return nil, malformed("signed_header", err)
	}
	u := &Unverified{raw: doc, payload: m.Payload}
	if err := u.body(bodyHeader{h.ContentType, h.Type, h.Bundle, h.Revision, h.TrustDomain}, m.Unprotected); err != nil {
		return nil, err
	}
	if err := u.signature(signerHeader{h.Algorithm, h.KeyID}, m.Unprotected, m.Signature); err != nil {
		return nil, err
	}
	return u, nil
}

func openSign(doc []byte) (*Unverified, error) {
	var m signMessage
	if err := decodeExact(doc[len(tagSign):], &m); err != nil {
		return nil, malformed("signed_structure", err)
	}
	var h bodyHeader
	if err := decodeExact(m.Protected, &h); err != nil {
		return nil, malformed("signed_header", err)
	}
	u := &Unverified{raw: doc, payload: m.Payload, Joint: true}
	if err := u.body(h, m.Unprotected); err != nil {
		return nil, err
	}
	if n := len(m.Signatures); n == 0 || n > maxSignatures {
		return nil, mismatch("signed_signatures", "no signature, or too many", fmt.Sprintf("1 to %d", maxSignatures), fmt.Sprint(n))
	}
	for _, s := range m.Signatures {
		var h signerHeader
		if err := decodeExact(s.Protected, &h); err != nil {
			return nil, malformed("signed_header", fmt.Errorf("of a signature: %w", err))
		}
		if err := u.signature(h, s.Unprotected, s.Signature); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// body takes what the message says of its payload.
func (u *Unverified) body(h bodyHeader, unprotected cbor.RawMessage) error {
	switch {
	case !emptyMap(unprotected):
		return malformed("signed_unprotected", errors.New("the unprotected header is not an empty map"))
	case h.Type != messageType:
		return mismatch("signed_type", "signed as something else", messageType, clip(h.Type))
	case h.ContentType != contentType:
		return mismatch("signed_content_type", "the payload is not a policy", contentType, clip(h.ContentType))
	case len(u.payload) == 0:
		return malformed("signed_payload", errors.New("there is no payload"))
	}
	u.Header = Header{Bundle: h.Bundle, Revision: h.Revision, TrustDomain: h.TrustDomain}
	return nil
}

// signature takes one signature.
func (u *Unverified) signature(h signerHeader, unprotected cbor.RawMessage, sig []byte) error {
	var want int
	switch cose.Algorithm(h.Algorithm) {
	case cose.AlgorithmES256, cose.AlgorithmEdDSA:
		want = 64
	case cose.AlgorithmES384:
		want = 96
	default:
		return mismatch("signed_algorithm", "not an algorithm of policy signers", "ES256 (-7), ES384 (-35) or EdDSA (-8)", fmt.Sprint(h.Algorithm))
	}
	switch {
	case !emptyMap(unprotected):
		return malformed("signed_unprotected", errors.New("the unprotected header of a signature is not an empty map"))
	case len(h.KeyID) != len(KeyID{}):
		return mismatch("signed_key_id", "the key id is not a thumbprint", "32 bytes", fmt.Sprint(len(h.KeyID)))
	case len(sig) != want:
		return mismatch("signed_signature_length", "the signature has another length than its algorithm's", fmt.Sprintf("%d bytes", want), fmt.Sprint(len(sig)))
	}
	u.KeyIDs = append(u.KeyIDs, KeyID(h.KeyID))
	u.signers = append(u.signers, h)
	return nil
}

func emptyMap(b cbor.RawMessage) bool { return len(b) == 1 && b[0] == 0xa0 }

func malformed(check string, err error) error {
	return &attest.Error{Kind: attest.Malformed, Check: check, Err: fmt.Errorf("the signed policy: %w", err)}
}

func mismatch(check, what, expected, got string) error {
	return &attest.Error{Kind: attest.Malformed, Check: check, Err: fmt.Errorf("the signed policy: %s", what), Expected: expected, Got: got}
}

// clip bounds text of a stranger in a message.
func clip(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%.64q…", s)
	}
	return s
}
