package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// KeyType is the algorithm of an SVID's key.
type KeyType string

// The key types of the protocol.
const (
	P256    KeyType = "ecdsa-p256"
	P384    KeyType = "ecdsa-p384"
	Ed25519 KeyType = "ed25519"
	RSA2048 KeyType = "rsa-2048"
	RSA3072 KeyType = "rsa-3072"
	RSA4096 KeyType = "rsa-4096"
)

// KeyTypes lists every key type; the first is the default.
func KeyTypes() []KeyType { return []KeyType{P256, P384, Ed25519, RSA2048, RSA3072, RSA4096} }

// ParseKeyType accepts exactly the names in [KeyTypes].
func ParseKeyType(s string) (KeyType, error) {
	if k := KeyType(s); slices.Contains(KeyTypes(), k) {
		return k, nil
	}
	names := make([]string, len(KeyTypes()))
	for i, k := range KeyTypes() {
		names[i] = string(k)
	}
	return "", fmt.Errorf("unknown key type %q, want one of %s", clip(s), strings.Join(names, ", "))
}

// KeyResidency says where the private keys of SVIDs live.
type KeyResidency string

// The residencies. A key in memory is certified by an agent that was attested and
// measured, and handed to workloads; a key in a TPM dies with its next reset, is
// certified by the TPM, and is never handed out.
const (
	SoftwareKeys KeyResidency = "software"
	TPMKeys      KeyResidency = "tpm"
)

// ParseKeyResidency accepts the two names.
func ParseKeyResidency(s string) (KeyResidency, error) {
	switch r := KeyResidency(s); r {
	case SoftwareKeys, TPMKeys:
		return r, nil
	}
	return "", fmt.Errorf("unknown key residency %q, want %s or %s", clip(s), SoftwareKeys, TPMKeys)
}

// generate makes a key. It exists in this process's memory only.
func (k KeyType) generate() (crypto.Signer, error) {
	switch k {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("unknown key type %q", clip(string(k)))
}

// keyRequest is one key that is to be certified.
type keyRequest struct {
	signer crypto.Signer
	csr    []byte // DER
	bound  attest.BoundKey
}

// newKeyRequest makes a key and its certificate request. The request carries
// nothing but the key and its proof of possession: names come from policy.
func newKeyRequest(t KeyType, requestedID string) (keyRequest, error) {
	key, err := t.generate()
	if err != nil {
		return keyRequest{}, fmt.Errorf("make a key: %w", err)
	}
	return requestFor(key, requestedID)
}

// requestFor makes the certificate request of a key.
func requestFor(key crypto.Signer, requestedID string) (keyRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return keyRequest{}, fmt.Errorf("make a certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return keyRequest{}, fmt.Errorf("read back the certificate request: %w", err)
	}
	return keyRequest{signer: key, csr: der, bound: attest.BoundKey{SPKI: csr.RawSubjectPublicKeyInfo, RequestedID: requestedID}}, nil
}

// renewTag precedes the binding in what the previous leaf key signs.
const renewTag = "assay/v1 renew\x00"

// proveRenewal signs the binding with the key of the SVID that is renewed; the
// schemes are those of Renewal.signature in attestation.proto.
func proveRenewal(previous *svid, b [32]byte) (*assayv1.Renewal, error) {
	msg := append([]byte(renewTag), b[:]...)
	var (
		sig []byte
		err error
	)
	switch pub := previous.key.Public().(type) {
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P384() {
			sum := sha512.Sum384(msg)
			sig, err = previous.key.Sign(rand.Reader, sum[:], crypto.SHA384)
		} else {
			sum := sha256.Sum256(msg)
			sig, err = previous.key.Sign(rand.Reader, sum[:], crypto.SHA256)
		}
	case ed25519.PublicKey:
		sig, err = previous.key.Sign(rand.Reader, msg, crypto.Hash(0))
	case *rsa.PublicKey:
		sum := sha256.Sum256(msg)
		sig, err = previous.key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256})
	default:
		err = fmt.Errorf("a key of type %T", pub)
	}
	var known *attest.Error
	switch {
	case errors.As(err, &known): // of the hardware that holds the key
		return nil, err
	case err != nil:
		return nil, &attest.Error{Kind: attest.Internal, Check: "renewal_proof", Err: err}
	}
	return &assayv1.Renewal{Certificate: previous.chain[0].Raw, Signature: sig}, nil
}
