package signed_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy/signed"
)

func TestWhatIsSignedIsVerifiedByteForByte(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"ES256": p256(t), "ES384": p384(t), "EdDSA": ed(t)} {
		doc, err := signed.Sign(file, prod(7), key)
		must(t, err)
		if !signed.Is(doc) || signed.Is(prod(7)) {
			t.Errorf("%s: a signed policy is not told from a plain one", name)
		}
		v, err := signed.Verify(file, doc, signers(t, 1, key))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(v.Source, prod(7)) || v.Bundle.Version() != "prod@7" || v.Bundle.Digest() != sha256.Sum256(prod(7)) {
			t.Errorf("%s: got %s, %q", name, v.Bundle.Version(), v.Source)
		}
		want := signed.Header{Bundle: "prod", Revision: 7, TrustDomain: "attested.example.org"}
		if v.Header != want || want.Version() != "prod@7" {
			t.Errorf("%s: header %+v", name, v.Header)
		}
		if d := cmp.Diff([]signed.KeyID{id(t, key)}, v.Signers); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestAKeyIDIsTheDigestOfTheSubjectPublicKeyInfo(t *testing.T) {
	key := p256(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	if got, want := id(t, key), sha256.Sum256(spki); got != want {
		t.Errorf("%s, want %x", got, want)
	}
}

func TestApprovalsAreAddedOneAfterTheOther(t *testing.T) {
	alice, bob, carol := p256(t), ed(t), p384(t)
	doc, err := signed.SignJoint(file, prod(7), alice)
	must(t, err)
	who := signers(t, 2, alice, bob, carol)
	_, err = signed.Verify(file, doc, who)
	wantCheck(t, "one of three", err, attest.Untrusted, "signed_threshold")

	doc, err = signed.Approve(file, doc, bob)
	must(t, err)
	v, err := signed.Verify(file, doc, who)
	must(t, err)
	if len(v.Signers) != 2 || !slices.Contains(v.Signers, id(t, alice)) || !slices.Contains(v.Signers, id(t, bob)) || len(v.Others) != 0 {
		t.Errorf("signers %v, others %v", v.Signers, v.Others)
	}
	// A signer of a later set does no harm before that.
	dave := p256(t)
	doc, err = signed.Approve(file, doc, dave, carol)
	must(t, err)
	v, err = signed.Verify(file, doc, who)
	must(t, err)
	if len(v.Signers) != 3 || !cmp.Equal(v.Others, []signed.KeyID{id(t, dave)}) {
		t.Errorf("signers %v, others %v", v.Signers, v.Others)
	}
	if _, err := signed.Approve(file, doc, bob); !errors.Is(err, signed.ErrSignedAlready) {
		t.Errorf("a second approval by the same: %v", err)
	}
	if _, err := signed.Approve(file, doc, p384(t), p256(t)); err != nil {
		t.Errorf("two at once: %v", err)
	}
	one, err := signed.Sign(file, prod(7), alice)
	must(t, err)
	if _, err := signed.Approve(file, one, bob); !errors.Is(err, signed.ErrClosed) {
		t.Errorf("an approval of a COSE_Sign1: %v", err)
	}
	twice := p256(t)
	if _, err := signed.SignJoint(file, prod(7), twice, twice); !errors.Is(err, signed.ErrSignedAlready) {
		t.Errorf("one key given twice: %v", err)
	}
}

func TestOneSignerCountsOnceHoweverOftenTheySign(t *testing.T) {
	alice, bob := p256(t), p256(t)
	once, err := signed.SignJoint(file, prod(7), alice)
	must(t, err)
	doc := repeatSignature(t, once, 3)
	_, err = signed.Verify(file, doc, signers(t, 2, alice, bob))
	wantCheck(t, "one signer three times", err, attest.Untrusted, "signed_threshold")
	v, err := signed.Verify(file, doc, signers(t, 1, alice, bob))
	must(t, err)
	if len(v.Signers) != 1 {
		t.Errorf("signers %v, want one", v.Signers)
	}
}

func TestApprovalsThatWereGivenApartAreMerged(t *testing.T) {
	alice, bob := p256(t), ed(t)
	a, err := signed.SignJoint(file, prod(7), alice)
	must(t, err)
	b, err := signed.SignJoint(file, prod(7), bob)
	must(t, err)
	doc, err := signed.Merge(a, b, a)
	must(t, err)
	v, err := signed.Verify(file, doc, signers(t, 2, alice, bob))
	must(t, err)
	if len(v.Signers) != 2 {
		t.Errorf("signers %v", v.Signers)
	}
	u, err := signed.Open(doc)
	must(t, err)
	if len(u.KeyIDs) != 2 || !u.Joint {
		t.Errorf("%d signatures, want each signer's once", len(u.KeyIDs))
	}
	other, err := signed.SignJoint(file, prod(8), bob)
	must(t, err)
	if _, err := signed.Merge(a, other); !errors.Is(err, signed.ErrDifferent) {
		t.Errorf("another revision: %v", err)
	}
	one, err := signed.Sign(file, prod(7), bob)
	must(t, err)
	if _, err := signed.Merge(a, one); !errors.Is(err, signed.ErrClosed) {
		t.Errorf("a COSE_Sign1: %v", err)
	}
}

func TestAPolicyThatDoesNotCompileIsSignedByNobody(t *testing.T) {
	bad := []byte("version: 1\nnonsense: true\n")
	var found strictyaml.Errors
	if _, err := signed.Sign(file, bad, p256(t)); !errors.As(err, &found) {
		t.Errorf("Sign: %v", err)
	}
	if _, err := signed.SignJoint(file, bad, p256(t)); !errors.As(err, &found) {
		t.Errorf("SignJoint: %v", err)
	}
	// Nor is one that somebody else has signed all the same.
	k := p256(t)
	h := header(t, k)
	doc := forge(t, k, h, bad)
	if _, err := signed.Verify(file, doc, signers(t, 1, k)); !errors.As(err, &found) {
		t.Errorf("Verify: %v", err)
	}
}

func TestASetOfSignersThatChecksTooLittleIsRefused(t *testing.T) {
	a, b := p256(t), p256(t)
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for name, c := range map[string]struct {
		threshold int
		keys      []crypto.PublicKey
		want      string
	}{
		"no keys":       {1, nil, "no signer"},
		"threshold 0":   {0, []crypto.PublicKey{a.Public()}, "threshold of 0"},
		"threshold 3/2": {3, []crypto.PublicKey{a.Public(), b.Public()}, "threshold of 3"},
		"a key twice":   {1, []crypto.PublicKey{a.Public(), a.Public()}, "is there twice"},
		"RSA":           {1, []crypto.PublicKey{foreign.Public()}, "want ECDSA"},
		"nil":           {1, []crypto.PublicKey{nil}, "want ECDSA"},
	} {
		if _, err := signed.NewSigners(c.threshold, c.keys...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	doc, err := signed.Sign(file, prod(7), a)
	must(t, err)
	for name, s := range map[string]*signed.Signers{"nil": nil, "zero": {}} {
		if v, err := signed.Verify(file, doc, s); err == nil || v != nil {
			t.Errorf("%s signers verified it", name)
		}
	}
}

func TestKeysTravelAsPEM(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"ES256": p256(t), "ES384": p384(t), "EdDSA": ed(t)} {
		text, err := signed.EncodePrivateKey(key)
		must(t, err)
		again, err := signed.ParsePrivateKey(text)
		must(t, err)
		pub, err := signed.EncodePublicKey(again.Public())
		must(t, err)
		parsed, err := signed.ParsePublicKey(pub)
		must(t, err)
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(parsed) {
			t.Errorf("%s: another key came back", name)
		}
		for what, err := range map[string]error{
			"a private key as a public one": second(signed.ParsePublicKey(text)),
			"a public key as a private one": second(signed.ParsePrivateKey(pub)),
			"something after it":            second(signed.ParsePublicKey(append(pub, "more"...))),
			"nothing":                       second(signed.ParsePrivateKey(nil)),
		} {
			if err == nil {
				t.Errorf("%s: %s was accepted", name, what)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func wantCheck(t *testing.T, what string, err error, kind attest.Kind, check string) {
	t.Helper()
	if attest.CheckOf(err) != check || attest.KindOf(err) != kind {
		t.Errorf("%s: %v (kind %v), want check %s of kind %v", what, err, attest.KindOf(err), check, kind)
	}
}
