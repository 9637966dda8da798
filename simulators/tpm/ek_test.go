package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func TestEveryEndorsementKeyOpensACredential(t *testing.T) {
	m := startMachine(t, Machine{EKs: EKKinds()})
	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(testAK())}.Execute(m)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	for _, e := range m.EKs() {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public)
		if err != nil {
			t.Fatal(err)
		}
		name, err := tpm2.ObjectName(area)
		if err != nil {
			t.Fatal(err)
		}
		key, err := tpm2.ImportEncapsulationKey(area)
		if err != nil {
			t.Fatal(err)
		}
		blob, encrypted, err := tpm2.CreateCredential(rand.Reader, key, ak.Name.Buffer, secret)
		if err != nil {
			t.Fatal(err)
		}
		auth := tpm2.PasswordAuth(nil) // what the high range allows
		if !area.ObjectAttributes.UserWithAuth {
			auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(tpm transport.TPM, handle tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
				_, err := tpm2.PolicySecret{
					AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: handle,
				}.Execute(tpm)
				return err
			})
		}
		command := tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
			KeyHandle:      tpm2.AuthHandle{Handle: tpm2.TPMHandle(e.Handle), Name: *name, Auth: auth},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
		}
		got, err := command.Execute(m)
		if errors.Is(err, tpm2.TPMRCRetry) { // the first password of a key under dictionary attack protection: the TPM notes it
			got, err = command.Execute(m)
		}
		if err != nil || !bytes.Equal(got.CertInfo.Buffer, secret) {
			t.Errorf("%s: %v", e.Kind, err)
		}
	}
}

func TestAnEndorsementKeyIsNamedByItsPublicKey(t *testing.T) {
	m := startMachine(t, Machine{EKs: EKKinds()})
	for _, e := range m.EKs() {
		c, err := x509.ParseCertificate(e.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.RawSubjectPublicKeyInfo, e.SPKI) || sha256.Sum256(c.RawSubjectPublicKeyInfo) != e.Digest {
			t.Errorf("%s: the certificate is for another key than the digest", e.Kind)
		}
		e.Public[0] ^= 1 // a caller's copy
		if again, ok := m.EK(e.Kind); !ok || bytes.Equal(again.Public, e.Public) {
			t.Errorf("%s: callers share the bytes", e.Kind)
		}
	}
	if _, ok := m.EK("dsa"); ok {
		t.Error("there is a key of no kind")
	}
}
