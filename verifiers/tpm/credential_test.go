package tpm_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// activate answers a credential challenge as TPM2_ActivateCredential does: only
// the holder of the EK can, and only for the AK's name.
func (m minted) activate(credential []byte) ([]byte, error) {
	take := func() []byte {
		n := binary.BigEndian.Uint16(credential)
		out := credential[2 : 2+n]
		credential = credential[2+n:]
		return out
	}
	object, encrypted := take(), take()
	if len(credential) != 0 {
		return nil, errors.New("something follows the credential")
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](m.ekArea)
	if err != nil {
		return nil, err
	}
	h, err := area.NameAlg.Hash()
	if err != nil {
		return nil, err
	}
	var seed []byte
	bits := 128
	switch k := m.ek.(type) {
	case *rsa.PrivateKey:
		if seed, err = rsa.DecryptOAEP(h.New(), nil, k, encrypted, []byte("IDENTITY\x00")); err != nil {
			return nil, err
		}
	case *ecdsa.PrivateKey:
		point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](encrypted)
		if err != nil {
			return nil, err
		}
		mine, err := k.ECDH()
		if err != nil {
			return nil, err
		}
		size := len(mine.Bytes())
		if size == 48 {
			bits = 256
		}
		x := pad(point.X.Buffer, size)
		theirs, err := mine.Curve().NewPublicKey(slices.Concat([]byte{4}, x, pad(point.Y.Buffer, size)))
		if err != nil {
			return nil, err
		}
		z, err := mine.ECDH(theirs)
		if err != nil {
			return nil, err
		}
		seed = tpm2.KDFe(h, z, "IDENTITY", x, xOf(mine.PublicKey()), h.Size()*8)
	}
	mac, cipherText := object[2:2+h.Size()], slices.Clone(object[2+h.Size():])
	check := hmac.New(h.New, tpm2.KDFa(h, seed, "INTEGRITY", nil, nil, h.Size()*8))
	check.Write(cipherText)
	check.Write(m.akName)
	if !hmac.Equal(check.Sum(nil), mac) {
		return nil, errors.New("TPM_RC_INTEGRITY: the credential is for another AK")
	}
	block, err := aes.NewCipher(tpm2.KDFa(h, seed, "STORAGE", m.akName, nil, bits))
	if err != nil {
		return nil, err
	}
	cipher.NewCFBDecrypter(block, make([]byte, block.BlockSize())).XORKeyStream(cipherText, cipherText) //nolint:staticcheck // what the TPM uses
	return cipherText[2:], nil
}

func xOf(k *ecdh.PublicKey) []byte { b := k.Bytes()[1:]; return b[:len(b)/2] }

func pad(b []byte, n int) []byte { return append(make([]byte, n-len(b)), b...) }
