package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// Bound checks that verified claims carry the binding: B is the quote's
// qualifyingData (and, by binding_certify, that of every certification), and the
// keys that live in the TPM are those of the challenge, all of them, or none.
func (v *Verifier) Bound(c *attest.Claims, want attest.Binding) error {
	if c == nil || c.TPM == nil || c.Platform != platform {
		return refuse(CheckBinding, detail{Err: errors.New("the claims are not of a TPM")})
	}
	if err := check.Complete(want); err != nil {
		return refuse(CheckBinding, detail{Err: err})
	}
	t := c.TPM
	if len(t.ExtraData) == 0 {
		return refuse(CheckBindingEmpty, detail{
			Err: errors.New("the quote answers no challenge: its qualifyingData is empty"), Expected: check.ClipHex(want.B[:]),
		})
	}
	if !bytes.Equal(t.ExtraData, want.B[:]) {
		return refuse(CheckBindingExtraData, detail{
			Err: errors.New("the quote's qualifyingData is not what the challenge demands"), Expected: check.ClipHex(want.B[:]), Got: check.ClipHex(t.ExtraData),
			Hint: "the quote answers another challenge: another connection, nonce, key, requested identity, purpose or server",
		})
	}
	// The attester chooses what it quotes, and a bank that the firmware does not
	// measure into is empty after boot: its whole story could be made up.
	if t.Bank != want.PCRBank || t.Bank == "" {
		return refuse(CheckBindingBank, detail{
			Err: errors.New("the quote is of another bank than the challenge demands"), Expected: fmt.Sprintf("%.20q", want.PCRBank), Got: fmt.Sprintf("%.20q", t.Bank),
		})
	}
	if n := len(t.Certified); n != 0 && n != len(want.Keys) || (n != 0) != (t.KeyResidency == attest.ResidentTPM) {
		return refuse(CheckKeyResidency, detail{
			Err: errors.New("some keys live in the TPM and some do not"), Expected: fmt.Sprintf("none or %d resident keys", len(want.Keys)), Got: fmt.Sprintf("%d, residency %.20q", n, t.KeyResidency),
		})
	}
	for i, k := range t.Certified {
		if !bytes.Equal(k, want.Keys[i].SPKI) {
			return refuse(CheckBindingKey, detail{Err: fmt.Errorf("resident key %d is not key %d of the challenge", i, i)})
		}
	}
	return nil
}
