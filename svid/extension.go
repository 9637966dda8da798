package svid

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/assay-project/assay/attest"
)

// OID is id-pe-cmw, the certificate extension that carries a RATS conceptual
// message (RFC 9999).
func OID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35} }

const (
	contentFormatEATCWT = 263 // application/eat+cwt (RFC 9782)
	cmwResults          = 8   // the indicator bit of attestation results
)

// record is a CMW record (RFC 9999, section 3.1).
type record struct {
	_     struct{} `cbor:",toarray"`
	Type  uint64
	Value []byte
	Ind   uint64
}

// Extension wraps a signed result into the certificate extension: non-critical
// id-pe-cmw, its value the "cbor" choice (an OCTET STRING) around the CMW record
// [263, cwt, 8]. The error is Internal.
func Extension(cwt []byte) (pkix.Extension, error) {
	if _, err := parseResult(cwt); err != nil {
		return pkix.Extension{}, fail(attest.Internal, "extension", "%w", err)
	}
	cmw, err := encMode.Marshal(record{Type: contentFormatEATCWT, Value: cwt, Ind: cmwResults})
	if err != nil {
		return pkix.Extension{}, fail(attest.Internal, "extension", "%w", err)
	}
	der, err := asn1.Marshal(cmw)
	if err != nil {
		return pkix.Extension{}, fail(attest.Internal, "extension", "%w", err)
	}
	return pkix.Extension{Id: OID(), Value: der}, nil
}

// cwtFrom finds the one result in a certificate and unwraps it. The checks:
//
//	result_missing    Untrusted: no id-pe-cmw extension
//	result_duplicate  Malformed: more than one
//	result_critical   Malformed: it is marked critical
//	result_size       Malformed: more than MaxResultSize bytes
//	result_der        Malformed: not one OCTET STRING in DER
//	result_cmw        Malformed: not the record [263, bytes, 8] in deterministic CBOR
func cwtFrom(cert *x509.Certificate) ([]byte, error) {
	if cert == nil {
		cert = &x509.Certificate{}
	}
	oid := OID()
	found := -1
	for i, e := range cert.Extensions {
		if !e.Id.Equal(oid) {
			continue
		}
		if found >= 0 {
			return nil, fail(attest.Malformed, "result_duplicate", "the certificate holds more than one attestation result")
		}
		found = i
	}
	if found < 0 {
		err := fail(attest.Untrusted, "result_missing", "the certificate holds no attestation result")
		err.Hint = "an SVID that was issued without attestation, or by another issuer"
		return nil, err
	}
	ext := cert.Extensions[found]
	if ext.Critical {
		return nil, fail(attest.Malformed, "result_critical", "the extension is marked critical")
	}
	return unwrap(ext.Value)
}

// unwrap reads the extension's value.
func unwrap(value []byte) ([]byte, error) {
	if len(value) > MaxResultSize+32 {
		return nil, fail(attest.Malformed, "result_size", "the extension has %d bytes, at most %d are read", len(value), MaxResultSize+32)
	}
	var cmw []byte
	rest, err := asn1.Unmarshal(value, &cmw)
	if err != nil {
		return nil, fail(attest.Malformed, "result_der", "%w", err)
	}
	if len(rest) != 0 {
		return nil, fail(attest.Malformed, "result_der", "%d bytes follow the OCTET STRING", len(rest))
	}
	var r record
	if err := decode(cmw, &r); err != nil {
		return nil, fail(attest.Malformed, "result_cmw", "%w", err)
	}
	if r.Type != contentFormatEATCWT || r.Ind != cmwResults {
		return nil, fail(attest.Malformed, "result_cmw", "a conceptual message of type %d with indicator %d, want type %d (application/eat+cwt) with indicator %d (attestation results)", r.Type, r.Ind, contentFormatEATCWT, cmwResults)
	}
	if len(r.Value) > MaxResultSize {
		return nil, fail(attest.Malformed, "result_size", "the result has %d bytes, at most %d are read", len(r.Value), MaxResultSize)
	}
	return r.Value, nil
}

// Unverified is what a certificate claims about itself: decoded, and nothing
// more. Anybody can write one. It is for tools that show it; decisions are
// made on an [Attested].
type Unverified struct {
	Result Result     `json:"unverified_result"`
	KeyID  Thumbprint `json:"unverified_key_id"` // of the verifier key that is said to have signed it
	CWT    []byte     `json:"-"`                 // the COSE_Sign1 as it stands in the certificate
	signed *sign1
}

// ResultFrom decodes the result that a certificate carries, without verifying
// anything. Errors are those of the structure, as in [Verify].
func ResultFrom(cert *x509.Certificate) (*Unverified, error) {
	cwt, err := cwtFrom(cert)
	if err != nil {
		return nil, err
	}
	return parseResult(cwt)
}

// parseResult decodes a signed result.
func parseResult(cwt []byte) (*Unverified, error) {
	if len(cwt) > MaxResultSize {
		return nil, fail(attest.Malformed, "result_size", "the result has %d bytes, at most %d are read", len(cwt), MaxResultSize)
	}
	s, err := parseSign1(cwt, typeResult)
	if err != nil {
		return nil, err
	}
	r, err := decodeResult(s.payload)
	if err != nil {
		return nil, err
	}
	return &Unverified{Result: *r, KeyID: s.keyID, CWT: cwt, signed: s}, nil
}
