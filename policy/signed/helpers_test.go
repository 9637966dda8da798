package signed_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/policy/signed"
)

const file = "policy.yaml"

// source is a policy that grants nothing.
func source(bundle string, revision int, trustDomain string) []byte {
	return fmt.Appendf(nil, "# Approved byte for byte: this comment too.\nversion: 1\nbundle: %s\nrevision: %d\ntrust_domain: %s\nworkloads: []\n", bundle, revision, trustDomain)
}

func prod(revision int) []byte { return source("prod", revision, "attested.example.org") }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func p256(t testing.TB) crypto.Signer { return ec(t, elliptic.P256()) }
func p384(t testing.TB) crypto.Signer { return ec(t, elliptic.P384()) }

func ec(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	must(t, err)
	return k
}

func ed(t testing.TB) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return k
}

func signers(t testing.TB, threshold int, keys ...crypto.Signer) *signed.Signers {
	t.Helper()
	var pub []crypto.PublicKey
	for _, k := range keys {
		pub = append(pub, k.Public())
	}
	s, err := signed.NewSigners(threshold, pub...)
	must(t, err)
	return s
}

func id(t testing.TB, k crypto.Signer) signed.KeyID {
	t.Helper()
	id, err := signed.IDOf(k.Public())
	must(t, err)
	return id
}

// header is the protected header of a COSE_Sign1, to be spoilt.
func header(t testing.TB, k crypto.Signer) cose.ProtectedHeader {
	t.Helper()
	kid := id(t, k)
	return cose.ProtectedHeader{
		cose.HeaderLabelAlgorithm:   cose.AlgorithmES256,
		cose.HeaderLabelContentType: "application/yaml",
		cose.HeaderLabelKeyID:       kid[:],
		cose.HeaderLabelType:        "application/assay.policy.v1",
		"bundle":                    "prod",
		"revision":                  uint64(7),
		"trust_domain":              "attested.example.org",
	}
}

// forge signs whatever header and payload, with a good signature.
func forge(t testing.TB, k crypto.Signer, h cose.ProtectedHeader, payload []byte) []byte {
	t.Helper()
	alg, _ := h[cose.HeaderLabelAlgorithm].(cose.Algorithm)
	s, err := cose.NewSigner(alg, k)
	must(t, err)
	doc, err := cose.Sign1(rand.Reader, s, cose.Headers{Protected: h, Unprotected: cose.UnprotectedHeader{}}, payload, nil)
	must(t, err)
	return doc
}

// respell decodes the four parts of a COSE_Sign1 and encodes them after a
// change, in whatever way the options say.
func respell(t testing.TB, doc []byte, change func(parts []any)) []byte {
	t.Helper()
	var parts []any
	must(t, cbor.Unmarshal(doc[1:], &parts))
	change(parts)
	b, err := cbor.Marshal(parts)
	must(t, err)
	return append([]byte{doc[0]}, b...)
}
