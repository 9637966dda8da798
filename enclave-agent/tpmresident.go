package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// checkKeyGone names the error of a key that ended with its boot.
const checkKeyGone = "resident_key"

// residentKey is a key that lives in a TPM until the machine boots again: a primary of
// the NULL hierarchy, kept outside as a context that only this TPM, in this boot and
// its resumes, can load. It takes no room in the TPM while it is not used, and it
// cannot be handed out.
type residentKey struct {
	tpm    *TPM
	public *ecdsa.PublicKey
	saved  savedKey
}

// isResident reports whether a key lives in hardware.
func isResident(k crypto.Signer) bool {
	_, ok := k.(*residentKey)
	return ok
}

// NewKey makes a P-256 key in the TPM.
func (t *TPM) NewKey(ctx context.Context) (crypto.Signer, error) {
	saved, err := withTPM(ctx, t, t.timeout, func(s *tpmSession) (savedKey, error) {
		template, err := residentTemplate()
		if err != nil {
			return savedKey{}, err
		}
		k, err := s.createPrimary(tpm2.TPMRHNull, template)
		if err != nil {
			return savedKey{}, fmt.Errorf("make a key in the NULL hierarchy: %w", err)
		}
		return s.save(k)
	})
	if err != nil {
		return nil, err
	}
	pub, err := publicKey(saved.area)
	if err != nil {
		return nil, t.deviceError(err)
	}
	own, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, t.deviceError(nonsense("a key of type %T", pub))
	}
	if _, err := own.ECDH(); err != nil {
		return nil, t.deviceError(nonsense("the new key: %v", err))
	}
	return &residentKey{tpm: t, public: own, saved: saved}, nil
}

// Public is the key's public half, an *ecdsa.PublicKey on P-256.
func (k *residentKey) Public() crypto.PublicKey { return k.public }

// Sign has the TPM sign a digest of SHA-256, SHA-384 or SHA-512. The signature is
// ASN.1 DER. It waits for its turn as long as [TPM]'s time-out.
func (k *residentKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.sign(context.Background(), digest, opts.HashFunc())
}

func (k *residentKey) sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	var alg tpm2.TPMAlgID
	switch hash {
	case crypto.SHA256:
		alg = tpm2.TPMAlgSHA256
	case crypto.SHA384:
		alg = tpm2.TPMAlgSHA384
	case crypto.SHA512:
		alg = tpm2.TPMAlgSHA512
	default:
		return nil, fmt.Errorf("a key in a TPM signs digests of SHA-256, SHA-384 or SHA-512, not of %s", hash)
	}
	if len(digest) != hash.Size() {
		return nil, fmt.Errorf("a digest of %d bytes, want %d", len(digest), hash.Size())
	}
	return withTPM(ctx, k.tpm, k.tpm.timeout, func(s *tpmSession) ([]byte, error) {
		own, err := s.load(k.saved)
		if err != nil {
			return nil, err
		}
		r, err := tpm2.Sign{
			KeyHandle: own.auth(), Digest: tpm2.TPM2BDigest{Buffer: digest},
			InScheme: tpm2.TPMTSigScheme{
				Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: alg}),
			},
			// The key is not restricted, so that no ticket is needed for the digest.
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(s)
		if err != nil {
			return nil, fmt.Errorf("TPM2_Sign: %w", err)
		}
		sig, err := r.Signature.Signature.ECDSA()
		if err != nil {
			return nil, nonsense("TPM2_Sign: %v", err)
		}
		out, err := asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer),
		})
		if err != nil {
			return nil, nonsense("TPM2_Sign: %v", err)
		}
		if !ecdsa.VerifyASN1(k.public, digest, out) {
			return nil, nonsense("TPM2_Sign: the signature is not one of the key")
		}
		return out, nil
	})
}
