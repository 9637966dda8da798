package nitro

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// userDataTag begins the user_data of every document that answers a challenge.
const userDataTag = "assay/v1\x00"

// UserData is what a document that answers a challenge carries in user_data:
// "assay/v1", a zero byte, and B (docs/spec/binding.md), 41 bytes.
func UserData(b attest.Binding) []byte { return append([]byte(userDataTag), b.B[:]...) }

// Bound checks that verified claims carry the binding: user_data, nonce and
// public_key are exactly what the challenge demands, at their full length.
func (v *Verifier) Bound(c *attest.Claims, want attest.Binding) error {
	if c == nil || c.Nitro == nil || c.Platform != platform {
		return refuse(CheckBinding, detail{Err: errors.New("the claims are not of a Nitro enclave")})
	}
	if err := check.Complete(want); err != nil {
		return refuse(CheckBinding, detail{Err: err})
	}
	const hint = "the document answers another challenge: another connection, nonce, key, requested identity, purpose or server"
	for _, f := range []struct {
		check, name string
		want        []byte
		got         attest.Bytes
	}{
		{CheckBindingUserData, keyUserData, UserData(want), c.Nitro.UserData},
		{CheckBindingNonce, keyNonce, want.Nonce[:], c.Nitro.Nonce},
		{CheckBindingPublicKey, keyPublicKey, want.Keys[0].SPKI, c.Nitro.PublicKey},
	} {
		if !bytes.Equal(f.want, f.got) {
			return refuse(f.check, detail{
				Err:      fmt.Errorf("%s is not what the challenge demands", f.name),
				Expected: clipHex(f.want), Got: clipHex(f.got), Hint: hint,
			})
		}
	}
	return nil
}
