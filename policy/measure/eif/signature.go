package eif

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
)

// register is what a signature says: the value of a register.
type register struct {
	Index int32        `cbor:"register_index"`
	Value octetOrArray `cbor:"register_value"`
}

// signatureEntry is one element of the signature section.
type signatureEntry struct {
	Certificate octetOrArray `cbor:"signing_certificate"` // PEM
	Signature   octetOrArray `cbor:"signature"`           // COSE_Sign1 over a register
}

// octetOrArray is a byte string, also where the writer's encoder made an array of
// small integers of it.
type octetOrArray []byte

func (o *octetOrArray) UnmarshalCBOR(b []byte) error {
	var octets []byte
	if err := strict.Unmarshal(b, &octets); err == nil {
		*o = octets
		return nil
	}
	var numbers []uint16 // a []uint8 would be read as a byte string again
	if err := strict.Unmarshal(b, &numbers); err != nil {
		return err
	}
	*o = make([]byte, len(numbers))
	for i, n := range numbers {
		if n > 0xff {
			return fmt.Errorf("element %d is %d, and no byte", i, n)
		}
		(*o)[i] = byte(n)
	}
	return nil
}

// strict decodes within bounds.
var strict = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: maxSignature,
		MaxMapPairs:      64,
	}.DecMode()
	if err != nil {
		panic("eif: constant CBOR options refused: " + err.Error())
	}
	return m
}()

func badSignature(err error) error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: "eif_signature", Err: err,
		Hint: "sign the image again: `nitro-cli sign-eif`, or `build-enclave` with --private-key and --signing-certificate",
	}
}

// signed reads the signature section and checks it against the image's own PCR0.
func (img *Image) signed(section []byte) error {
	var entries []signatureEntry
	if err := strict.Unmarshal(section, &entries); err != nil {
		return malformed("eif_signature_structure", "", "", err)
	}
	if len(entries) != 1 {
		return malformed("eif_signature_structure", "1", fmt.Sprint(len(entries)), errors.New("the number of signatures"))
	}
	block, rest := pem.Decode(entries[0].Certificate)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return malformed("eif_certificate", "one PEM certificate", "", errors.New("the signing certificate cannot be read"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return malformed("eif_certificate", "", "", err)
	}
	if err := img.verify(cert, entries[0].Signature); err != nil {
		return badSignature(err)
	}
	e := newExtended()
	_, _ = e.Write(cert.Raw) // a hash never fails
	sum := sha256.Sum256(cert.Raw)
	img.PCR8 = e.value()
	img.Signer = &Signer{Subject: cert.Subject.String(), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, SHA256: sum[:]}
	return nil
}

// verify checks that the certificate's key signed this image's PCR0.
func (img *Image) verify(cert *x509.Certificate, signature []byte) error {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the certificate's key is a %s, want ECDSA", cert.PublicKeyAlgorithm)
	}
	var alg cose.Algorithm
	switch key.Curve {
	case elliptic.P256():
		alg = cose.AlgorithmES256
	case elliptic.P384():
		alg = cose.AlgorithmES384
	case elliptic.P521():
		alg = cose.AlgorithmES512
	default:
		return fmt.Errorf("the certificate's key is on %s", key.Curve.Params().Name)
	}
	v, err := cose.NewVerifier(alg, key)
	if err != nil {
		return err
	}
	var msg cose.UntaggedSign1Message
	if err := msg.UnmarshalCBOR(signature); err != nil {
		return err
	}
	if err := msg.Verify(nil, v); err != nil {
		return errors.New("the signature is not by the certificate's key")
	}
	var r register
	if err := strict.Unmarshal(msg.Payload, &r); err != nil {
		return fmt.Errorf("what was signed is no register: %w", err)
	}
	if r.Index != 0 || !bytes.Equal(r.Value, img.PCR0) {
		return fmt.Errorf("what was signed is not this image: PCR%d = %x, the image's PCR0 is %s", r.Index, []byte(r.Value), img.PCR0)
	}
	return nil
}
