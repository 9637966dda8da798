package attest

import (
	"crypto/sha256"
	"fmt"
)

// Sizes of TPM evidence, in bytes.
const (
	MaxTPMBody     = 48 << 10 // everything but the event log
	MaxTPMEventLog = 1 << 20
	maxTPMItem     = 8 << 10 // one structure or certificate
	maxPCR         = 23
)

// TPMEvidence is the body of evidence of a TPM 2.0, in deterministic CBOR (RFC
// 8949, section 4.2.1): a map with small integer keys
// (docs/spec/tpm-evidence.md). The event log travels beside it, in
// [Evidence.EventLog]; the body holds its digest. Structures are the TPM's own
// bytes, without a TPM2B's size in front.
type TPMEvidence struct {
	Quote          []byte            `cbor:"1,keyasint"`           // TPMS_ATTEST
	Signature      []byte            `cbor:"2,keyasint"`           // TPMT_SIGNATURE over it
	AKPublic       []byte            `cbor:"3,keyasint"`           // TPMT_PUBLIC
	PCRs           map[uint32][]byte `cbor:"4,keyasint"`           // the registers' values
	EKPublic       []byte            `cbor:"5,keyasint,omitempty"` // TPMT_PUBLIC
	EKCertificate  []byte            `cbor:"6,keyasint,omitempty"` // DER
	AKCertificate  []byte            `cbor:"7,keyasint,omitempty"` // DER
	EventLogDigest []byte            `cbor:"8,keyasint,omitempty"` // SHA-256 of the event log
	Certified      []TPMCertified    `cbor:"9,keyasint,omitempty"` // resident keys, in the order of the challenge's keys
}

// TPMCertified is a key in the TPM with the AK's TPM2_Certify over it.
type TPMCertified struct {
	Public    []byte `cbor:"1,keyasint"` // TPMT_PUBLIC
	Attest    []byte `cbor:"2,keyasint"` // TPMS_ATTEST
	Signature []byte `cbor:"3,keyasint"` // TPMT_SIGNATURE
}

// Encode writes the body. The error is [Malformed], check "tpm_body": what it
// writes, [DecodeTPMEvidence] reads.
func (e TPMEvidence) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, tpmBody(err)
	}
	if e.PCRs == nil {
		e.PCRs = map[uint32][]byte{} // an empty map, and not null
	}
	out, err := deterministic.Marshal(e)
	if err != nil {
		return nil, tpmBody(err)
	}
	if len(out) > MaxTPMBody {
		return nil, tpmBody(fmt.Errorf("%d bytes, want at most %d", len(out), MaxTPMBody))
	}
	return out, nil
}

// DecodeTPMEvidence reads the body, and only in the one way that Encode writes
// it. Nothing in it is trusted. What is returned shares the body's bytes: change
// neither. The error is [Malformed], check "tpm_body".
func DecodeTPMEvidence(body []byte) (*TPMEvidence, error) {
	if len(body) > MaxTPMBody {
		return nil, tpmBody(fmt.Errorf("%d bytes, want at most %d", len(body), MaxTPMBody))
	}
	e, err := readTPMBody(body)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, tpmBody(err)
	}
	return e, nil
}

func (e *TPMEvidence) check() error {
	type item struct {
		name     string
		bytes    []byte
		required bool
	}
	items := []item{
		{"quote", e.Quote, true}, {"signature", e.Signature, true}, {"AK public area", e.AKPublic, true},
		{"EK public area", e.EKPublic, false}, {"EK certificate", e.EKCertificate, false}, {"AK certificate", e.AKCertificate, false},
	}
	for i, k := range e.Certified {
		items = append(items,
			item{fmt.Sprintf("certified key %d: public area", i), k.Public, true},
			item{fmt.Sprintf("certified key %d: attestation", i), k.Attest, true},
			item{fmt.Sprintf("certified key %d: signature", i), k.Signature, true})
	}
	for _, it := range items {
		if it.required && len(it.bytes) == 0 {
			return fmt.Errorf("the %s is missing", it.name)
		}
		if len(it.bytes) > maxTPMItem {
			return fmt.Errorf("the %s has %d bytes, want at most %d", it.name, len(it.bytes), maxTPMItem)
		}
	}
	if len(e.Certified) > MaxKeys {
		return fmt.Errorf("%d certified keys, want at most %d", len(e.Certified), MaxKeys)
	}
	if n := len(e.EventLogDigest); n != 0 && n != sha256.Size {
		return fmt.Errorf("the event log's digest has %d bytes, want %d", n, sha256.Size)
	}
	for i, v := range e.PCRs {
		if i > maxPCR {
			return fmt.Errorf("there is no PCR %d", i)
		}
		if len(v) > 64 {
			return fmt.Errorf("PCR %d has %d bytes, want at most 64", i, len(v))
		}
	}
	return nil
}

func tpmBody(err error) error {
	return &Error{Kind: Malformed, Check: "tpm_body", Err: err, Hint: "the format is that of docs/spec/tpm-evidence.md"}
}
