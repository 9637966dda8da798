package agent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// activateTag precedes the binding in what the activated secret authenticates.
const activateTag = "assay/v1 activate"

// Activate answers a CredentialChallenge (TPM2_ActivateCredential, Part 1, section
// 24): only the TPM that holds both the endorsement key and the attestation key
// can decrypt the secret in it. The proof is HMAC-SHA256(secret, "assay/v1
// activate" ‖ B).
func (t *TPM) Activate(ctx context.Context, credential []byte, want attest.Binding) ([]byte, error) {
	blob, secret, err := splitCredential(credential)
	if err != nil {
		return nil, replyError("credential", "%w", err)
	}
	return withTPM(ctx, t, t.slow, func(s *tpmSession) ([]byte, error) {
		ak, ek, id, err := t.loadBoth(s)
		if err != nil {
			return nil, err
		}
		if id.ek == nil {
			return nil, replyError("credential", "the server asks for an activation, but a cloud's certificate vouches for this key")
		}
		auth, err := ekAuth(id.ek, ek)
		if err != nil {
			return nil, err
		}
		r, err := tpm2.ActivateCredential{
			ActivateHandle: ak.auth(), KeyHandle: auth,
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: secret},
		}.Execute(s)
		if err != nil {
			return nil, fmt.Errorf("TPM2_ActivateCredential: %w", err)
		}
		mac := hmac.New(sha256.New, r.CertInfo.Buffer)
		mac.Write([]byte(activateTag))
		mac.Write(want.B[:])
		return mac.Sum(nil), nil
	})
}

// maxCredential is more than TPM2_MakeCredential makes for any key, in bytes.
const maxCredential = 2 << 10

// splitCredential takes TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET apart.
func splitCredential(b []byte) (blob, secret []byte, err error) {
	if len(b) > maxCredential {
		return nil, nil, fmt.Errorf("a credential of %d bytes, want at most %d", len(b), maxCredential)
	}
	for _, into := range []*[]byte{&blob, &secret} {
		if len(b) < 2 {
			return nil, nil, errors.New("the credential is cut short")
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; n == 0 || n > len(b) {
			return nil, nil, fmt.Errorf("a part of the credential says %d bytes, and %d are there", n, len(b))
		}
		*into, b = b[:n:n], b[n:]
	}
	if len(b) != 0 {
		return nil, nil, fmt.Errorf("%d bytes follow the credential", len(b))
	}
	return blob, secret, nil
}
