package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"reflect"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
)

// The two things that this package signs say what they are in the typ header
// (RFC 9596), so that neither can be passed off as the other.
const (
	typeResult       = uint64(263)                          // application/eat+cwt as a CoAP Content-Format (RFC 9782)
	typeVerifierKeys = "application/assay.verifier-keys.v1" // a document of our own
	signatureSize    = 64                                   // r ‖ s on P-256 (RFC 9053, section 2.1)
	tagSign1         = byte(0xc0 + cose.CBORTagSign1Message)
)

// signSign1 signs payload as a tagged COSE_Sign1 (RFC 9052, section 4.2) by
// ES256, with exactly alg, kid and typ in the protected header and nothing in
// the unprotected one. The kid is the thumbprint of the signing key.
func signSign1(key crypto.Signer, typ any, payload []byte) ([]byte, error) {
	pub, err := p256(key.Public())
	if err != nil {
		return nil, err
	}
	kid, err := ThumbprintOf(pub)
	if err != nil {
		return nil, err
	}
	headers := cose.Headers{
		Protected: cose.ProtectedHeader{
			cose.HeaderLabelAlgorithm: cose.AlgorithmES256,
			cose.HeaderLabelKeyID:     kid[:],
			cose.HeaderLabelType:      typ,
		},
		Unprotected: cose.UnprotectedHeader{},
	}
	return cose.Sign1(rand.Reader, es256Signer{key}, headers, payload, nil)
}

// es256Signer is a cose.Signer over any crypto.Signer. Unlike go-cose's own it
// names the hash to the key, which HSMs and KMS clients demand.
type es256Signer struct{ key crypto.Signer }

func (s es256Signer) Algorithm() cose.Algorithm { return cose.AlgorithmES256 }

func (s es256Signer) Sign(random io.Reader, content []byte) ([]byte, error) {
	sum := sha256.Sum256(content)
	der, err := s.key.Sign(random, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("the key returned something other than an ECDSA signature")
	}
	out := make([]byte, signatureSize)
	if err := cose.I2OSP(sig.R, out[:signatureSize/2]); err != nil {
		return nil, err
	}
	if err := cose.I2OSP(sig.S, out[signatureSize/2:]); err != nil {
		return nil, err
	}
	return out, nil
}

// p256 is the key as an ECDSA key on P-256: ES256 and nothing else.
func p256(key crypto.PublicKey) (*ecdsa.PublicKey, error) {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || k == nil || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("a key of type %T: want ECDSA on P-256 (ES256)", key)
	}
	return k, nil
}

// sign1 is a COSE_Sign1 whose structure was checked and whose signature was
// not, yet.
type sign1 struct {
	raw     []byte
	keyID   Thumbprint
	payload []byte
}

// parseSign1 checks the structure of a COSE_Sign1 of the given typ. All errors
// are Malformed:
//
//	cose_structure         deterministic CBOR, an array of four, nothing after it
//	cose_tag               tag 18, once
//	cose_header            alg, kid and typ protected, nothing else: an unknown
//	                       parameter, critical or not, is refused
//	cose_alg               ES256
//	cose_type              the typ that was asked for
//	cose_key_id            32 bytes
//	cose_unprotected       empty
//	cose_signature_length  64 bytes
func parseSign1(b []byte, typ any) (*sign1, error) {
	if len(b) == 0 || b[0] != tagSign1 {
		return nil, fail(attest.Malformed, "cose_tag", "not a COSE_Sign1 with tag 18")
	}
	var msg struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Payload     []byte
		Signature   []byte
	}
	if err := decode(b[1:], &msg); err != nil {
		return nil, fail(attest.Malformed, "cose_structure", "%w", err)
	}
	out := &sign1{raw: b, payload: msg.Payload}
	if err := out.header(msg.Protected, typ); err != nil {
		return nil, err
	}
	if len(msg.Unprotected) != 1 || msg.Unprotected[0] != majorMap<<5 {
		return nil, fail(attest.Malformed, "cose_unprotected", "the unprotected header is not an empty map")
	}
	if len(msg.Signature) != signatureSize {
		return nil, fail(attest.Malformed, "cose_signature_length", "a signature of %d bytes, want %d", len(msg.Signature), signatureSize)
	}
	return out, nil
}

func (s *sign1) header(b []byte, typ any) error {
	var h map[int64]any
	if err := decode(b, &h); err != nil {
		return fail(attest.Malformed, "cose_header", "%w", err)
	}
	for label := range h {
		switch label {
		case cose.HeaderLabelAlgorithm, cose.HeaderLabelKeyID, cose.HeaderLabelType:
		default:
			return fail(attest.Malformed, "cose_header", "header parameter %d is not used here", label)
		}
	}
	if alg, ok := h[cose.HeaderLabelAlgorithm].(int64); !ok || alg != int64(cose.AlgorithmES256) {
		return mismatch(attest.Malformed, "cose_alg", "wrong signature algorithm", "ES256 (-7)", fmt.Sprintf("%.80q", fmt.Sprint(h[cose.HeaderLabelAlgorithm])))
	}
	if !reflect.DeepEqual(h[cose.HeaderLabelType], typ) {
		return mismatch(attest.Malformed, "cose_type", "signed as something else", fmt.Sprint(typ), fmt.Sprintf("%.80q", fmt.Sprint(h[cose.HeaderLabelType])))
	}
	kid, ok := h[cose.HeaderLabelKeyID].([]byte)
	if !ok || len(kid) != len(s.keyID) {
		return fail(attest.Malformed, "cose_key_id", "the key id is not a thumbprint of %d bytes", len(s.keyID))
	}
	copy(s.keyID[:], kid)
	return nil
}

// verify checks the signature with the key. What comes out of s before that is
// unverified.
func (s *sign1) verify(key *ecdsa.PublicKey) error {
	v, err := cose.NewVerifier(cose.AlgorithmES256, key)
	if err != nil {
		return err
	}
	msg := cose.NewSign1Message()
	if err := msg.UnmarshalCBOR(s.raw); err != nil {
		return err
	}
	return msg.Verify(nil, v)
}
