package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// renewTag separates what a leaf key signs here from all else that it signs.
const renewTag = "assay/v1 renew\x00"

// RenewalMessage is what the previous leaf key signs: "assay/v1 renew", a zero
// byte, and the 32 bytes of the binding. The binding covers nonce, connection
// and new keys, so the signature is good for one attestation.
func RenewalMessage(b attest.Binding) []byte { return append([]byte(renewTag), b.B[:]...) }

// checkRenewal is step 5: the proof names a live SVID that was issued here, and
// its key signed the binding. All that fails here is one check, renewal_proof,
// with one text; which part of it is in the server's log. What the renewal gets
// is for policy to say, as at boot: the proof says that the agent held a live
// SVID of this trust domain, and not that it gets the same name again.
func (a *attestation) checkRenewal(ctx context.Context, proof *assayv1.Renewal, ch attest.Challenge) (*livePeerFacts, error) {
	fail := func(err error) (*livePeerFacts, error) { return nil, badProof(err) }
	b, err := ch.Binding()
	if err != nil {
		return nil, err
	}
	if len(proof.GetCertificate()) > 16<<10 || len(proof.GetSignature()) > 1<<10 {
		return fail(errors.New("certificate or signature is too large"))
	}
	cert, err := x509.ParseCertificate(proof.GetCertificate())
	if err != nil {
		return fail(err)
	}
	// Keys live as long as one SVID: a renewal has new ones.
	for _, k := range ch.Keys {
		if bytes.Equal(k.SPKI, cert.RawSubjectPublicKeyInfo) {
			return fail(errors.New("the key of the previous SVID is among the new keys"))
		}
	}
	p, err := a.liveSVID(ctx, cert, a.now())
	if errors.Is(err, errNotLive) {
		return fail(err)
	} else if err != nil {
		return nil, err
	}
	if err := verifyRenewal(cert.PublicKey, RenewalMessage(b), proof.GetSignature()); err != nil {
		return fail(err)
	}
	return p, nil
}

func badProof(err error) error {
	return &attest.Error{Kind: attest.Untrusted, Check: "renewal_proof", Err: &withheld{"the proof does not hold", err}, Hint: "attest with the purpose boot"}
}

// stillStands asks once more, before the signature, whether the SVID that a renewal
// proved is live: it may have been taken back since. The error is that of the proof.
func (a *attestation) stillStands(p *livePeerFacts) error {
	err := a.stands(p.Cert, p.heldFacts, a.now())
	if errors.Is(err, errNotLive) {
		return badProof(err)
	}
	return err
}

// verifyRenewal checks a signature in the one algorithm that each type of key
// uses here (assay.v1.Renewal).
func verifyRenewal(pub crypto.PublicKey, msg, sig []byte) error {
	bad := errors.New("the previous key did not sign this attestation")
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		var digest []byte
		switch k.Curve {
		case elliptic.P256():
			sum := sha256.Sum256(msg)
			digest = sum[:]
		case elliptic.P384():
			sum := sha512.Sum384(msg)
			digest = sum[:]
		default:
			return fmt.Errorf("a key on %s", k.Params().Name)
		}
		if !ecdsa.VerifyASN1(k, digest, sig) {
			return bad
		}
	case ed25519.PublicKey:
		if !ed25519.Verify(k, msg, sig) {
			return bad
		}
	case *rsa.PublicKey:
		sum := sha256.Sum256(msg)
		if rsa.VerifyPSS(k, crypto.SHA256, sum[:], sig, &rsa.PSSOptions{SaltLength: sha256.Size, Hash: crypto.SHA256}) != nil {
			return bad
		}
	default:
		return fmt.Errorf("a key of type %T", pub)
	}
	return nil
}
