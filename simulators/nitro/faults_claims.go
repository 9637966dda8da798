package nitro

import (
	"bytes"

	"github.com/assay-project/assay/simulators/internal/fault"
)

// claimFaults verify: what is wrong with them is for policy to see.
func claimFaults() []Fault {
	return []Fault{{
		Name:        "debug",
		Description: "the enclave runs in debug mode: PCR0, PCR1, PCR2 and PCR8 are zero; the document verifies with the claim debug = true",
		Stage:       StageAuthenticate,
		onDocument: func(d *draft) error {
			for _, i := range []int{0, 1, 2, 8} {
				if d.doc.PCRs[i] != nil {
					d.doc.PCRs[i] = make([]byte, pcrSize)
				}
			}
			return nil
		},
	}}
}

// bindingFaults are authentic documents that answer another challenge. Each
// changes a value that the document was asked to carry; where it was asked for
// none, the changed value is 32 bytes of one.
func bindingFaults() []Fault {
	bound := func(name, check, description string, h hook) Fault {
		return Fault{
			Name: name, Check: check, Description: description,
			Kind: fault.Untrusted, Stage: StageBound, onDocument: h,
		}
	}
	return []Fault{
		bound("wrong-user-data", "binding_user_data", "user_data differs in its last bit from what was asked for",
			func(d *draft) error { d.doc.UserData = wrong(d.doc.UserData); return nil }),
		bound("user-data-missing", "binding_user_data", "user_data is null",
			func(d *draft) error { d.doc.UserData = nil; return nil }),
		bound("user-data-longer", "binding_user_data", "user_data goes on after what was asked for",
			func(d *draft) error { d.doc.UserData = append(bytes.Clone(d.doc.UserData), 0); return nil }),
		bound("user-data-shorter", "binding_user_data", "user_data lacks its last byte",
			func(d *draft) error { d.doc.UserData = shorter(d.doc.UserData); return nil }),
		bound("wrong-nonce", "binding_nonce", "nonce differs in its last bit from what was asked for",
			func(d *draft) error { d.doc.Nonce = wrong(d.doc.Nonce); return nil }),
		bound("nonce-missing", "binding_nonce", "nonce is null",
			func(d *draft) error { d.doc.Nonce = nil; return nil }),
		bound("nonce-shorter", "binding_nonce", "nonce lacks its last byte",
			func(d *draft) error { d.doc.Nonce = shorter(d.doc.Nonce); return nil }),
		bound("wrong-public-key", "binding_public_key", "public_key differs in its last bit from what was asked for",
			func(d *draft) error { d.doc.PublicKey = wrong(d.doc.PublicKey); return nil }),
		bound("public-key-missing", "binding_public_key", "public_key is null",
			func(d *draft) error { d.doc.PublicKey = nil; return nil }),
	}
}

func wrong(b []byte) []byte {
	if len(b) == 0 {
		return bytes.Repeat([]byte{1}, 32)
	}
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

func shorter(b []byte) []byte {
	if len(b) == 0 {
		return bytes.Repeat([]byte{1}, 31)
	}
	return b[:len(b)-1]
}
