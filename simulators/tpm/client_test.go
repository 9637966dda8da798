package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// client does with a TPM what an agent does, and keeps all it got.
type client struct {
	tpm transport.TPM
	ak  *tpm2.CreatePrimaryResponse
	ek  *tpm2.CreatePrimaryResponse

	akPublic *tpm2.TPMTPublic
	attest   []byte // the quote
	sig      *tpm2.TPMTSignature
	values   map[int][]byte // registers 0 to 7, SHA-256
	resident *tpm2.TPMTPublic
	certify  []byte
	certSig  *tpm2.TPMTSignature
	proof    error // of credential activation
}

// testAK is an attestation key on P-256.
func testAK() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTECCScheme{
				Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// attestTo has the TPM make what an attestation is made of, over data.
func attestTo(t testing.TB, tpm transport.TPM, data []byte) *client {
	t.Helper()
	c := &client{tpm: tpm, values: make(map[int][]byte)}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	c.ak, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(testAK())}.Execute(tpm)
	ok(err)
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: c.ak.ObjectHandle}.Execute(tpm) }()
	c.akPublic, err = c.ak.OutPublic.Contents()
	ok(err)
	ak := tpm2.AuthHandle{Handle: c.ak.ObjectHandle, Name: c.ak.Name, Auth: tpm2.PasswordAuth(nil)}

	q, err := tpm2.Quote{
		SignHandle: ak, QualifyingData: tpm2.TPM2BData{Buffer: data}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect: *selection(tpm2.TPMAlgSHA256, 0xff, 0, 0),
	}.Execute(tpm)
	ok(err)
	c.attest, c.sig = q.Quoted.Bytes(), &q.Signature
	r, err := tpm2.PCRRead{PCRSelectionIn: *selection(tpm2.TPMAlgSHA256, 0xff, 0, 0)}.Execute(tpm)
	ok(err)
	for i, d := range r.PCRValues.Digests {
		c.values[i] = d.Buffer
	}

	template := testAK()
	template.ObjectAttributes.Restricted, template.ObjectAttributes.STClear = false, true
	k, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(template)}.Execute(tpm)
	ok(err)
	c.resident, err = k.OutPublic.Contents()
	ok(err)
	cert, err := tpm2.Certify{
		ObjectHandle: tpm2.AuthHandle{Handle: k.ObjectHandle, Name: k.Name, Auth: tpm2.PasswordAuth(nil)}, SignHandle: ak,
		QualifyingData: tpm2.TPM2BData{Buffer: data}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(tpm)
	ok(err)
	c.certify, c.certSig = cert.CertifyInfo.Bytes(), &cert.Signature
	_, err = tpm2.FlushContext{FlushHandle: k.ObjectHandle}.Execute(tpm)
	ok(err)

	c.ek, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(tpm)
	ok(err)
	c.proof = c.activate()
	_, err = tpm2.FlushContext{FlushHandle: c.ek.ObjectHandle}.Execute(tpm)
	ok(err)
	return c
}

// activate is credential activation, with the server's part.
func (c *client) activate() error {
	public, err := c.ek.OutPublic.Contents()
	if err != nil {
		return err
	}
	key, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return err
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	blob, encrypted, err := tpm2.CreateCredential(rand.Reader, key, c.ak.Name.Buffer, secret)
	if err != nil {
		return err
	}
	session := func(tpm transport.TPM, handle tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: handle,
		}.Execute(tpm)
		return err
	}
	got, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: c.ak.ObjectHandle, Name: c.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: c.ek.ObjectHandle, Name: c.ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, session)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(c.tpm)
	if err != nil {
		return err
	}
	if !hmac.Equal(got.CertInfo.Buffer, secret) {
		return fmt.Errorf("the secret came back as %x", got.CertInfo.Buffer)
	}
	return nil
}

// verified reports whether the AK signed these bytes.
func (c *client) verified(attest []byte, sig *tpm2.TPMTSignature) error {
	key, err := tpm2.Pub(*c.akPublic)
	if err != nil {
		return err
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		s, err := sig.Signature.ECDSA()
		if err != nil {
			return err
		}
		h, err := s.Hash.Hash()
		if err != nil {
			return err
		}
		w := h.New()
		w.Write(attest)
		if !ecdsa.Verify(key, w.Sum(nil), bigInt(s.SignatureR.Buffer), bigInt(s.SignatureS.Buffer)) {
			return fmt.Errorf("the signature is wrong")
		}
	case *rsa.PublicKey:
		s, err := sig.Signature.RSASSA()
		if err != nil {
			return err
		}
		h, err := s.Hash.Hash()
		if err != nil {
			return err
		}
		w := h.New()
		w.Write(attest)
		return rsa.VerifyPKCS1v15(key, h, w.Sum(nil), s.Sig.Buffer)
	}
	return nil
}

// digest is of all register values as they were sent.
func (c *client) digest() []byte {
	bank := crypto.SHA256
	if s, err := c.sig.Signature.RSASSA(); err == nil { // the AK's hash is that of the digest too
		if bank, err = s.Hash.Hash(); err != nil {
			return nil
		}
	}
	h := bank.New()
	for i := range 8 {
		h.Write(c.values[i])
	}
	return h.Sum(nil)
}

func TestAMachineAttests(t *testing.T) {
	tpm := startMachine(t, Machine{Boot: Boot{Image: "ledger"}})
	c := attestTo(t, tpm, []byte("binding"))
	if diff := cmp.Diff([]string(nil), c.wrong([]byte("binding"))); diff != "" {
		t.Error(diff)
	}
	again := attestTo(t, tpm, []byte("binding"))
	if !bytes.Equal(again.ak.Name.Buffer, c.ak.Name.Buffer) {
		t.Error("the AK is another the second time")
	}
}

// wrong lists what a verifier would not accept.
func (c *client) wrong(data []byte) []string {
	var out []string
	must := func(what string, good bool) {
		if !good {
			out = append(out, what)
		}
	}
	a := c.akPublic.ObjectAttributes
	must("AK restricted", a.Restricted && a.SignEncrypt && !a.Decrypt)
	must("AK fixed", a.FixedTPM && a.FixedParent && a.SensitiveDataOrigin)
	must("AK kind", c.akPublic.Type == tpm2.TPMAlgECC && len(c.attest) > 0 && c.curve() == tpm2.TPMECCNistP256)

	quote, err := tpm2.Unmarshal[tpm2.TPMSAttest](c.attest)
	if err != nil {
		return append(out, "quote: "+err.Error())
	}
	must("quote whole", len(tpm2.Marshal(quote)) == len(c.attest))
	must("quote magic", quote.Magic == tpm2.TPMGeneratedValue)
	must("quote data", bytes.Equal(quote.ExtraData.Buffer, data))
	must("AK hierarchy", bytes.Equal(quote.QualifiedSigner.Buffer, qualified(tpm2.TPMRHEndorsement, c.ak.Name.Buffer)))
	must("quote signature", c.verified(c.attest, c.sig) == nil)
	if info, err := quote.Attested.Quote(); err != nil {
		out = append(out, "quote type")
	} else {
		s := info.PCRSelect.PCRSelections
		must("quoted banks", len(s) == 1 && s[0].Hash == tpm2.TPMAlgSHA256)
		must("quoted registers", len(s) > 0 && bytes.Equal(s[0].PCRSelect, []byte{0xff, 0, 0}))
		must("register digest", bytes.Equal(info.PCRDigest.Buffer, c.digest()))
	}
	for i := range 8 {
		must(fmt.Sprintf("length of PCR%d", i), len(c.values[i]) == 32)
	}

	name, err := tpm2.ObjectName(c.resident)
	if err != nil {
		return append(out, "resident name: "+err.Error())
	}
	must("resident stClear", c.resident.ObjectAttributes.STClear)
	must("resident fixed", c.resident.ObjectAttributes.FixedTPM && c.resident.ObjectAttributes.FixedParent)
	certify, err := tpm2.Unmarshal[tpm2.TPMSAttest](c.certify)
	if err != nil {
		return append(out, "certify: "+err.Error())
	}
	must("certify data", bytes.Equal(certify.ExtraData.Buffer, data))
	must("certify signature", c.verified(c.certify, c.certSig) == nil)
	must("clock", quote.ClockInfo.ResetCount == certify.ClockInfo.ResetCount && quote.ClockInfo.RestartCount == certify.ClockInfo.RestartCount)
	if info, err := certify.Attested.Certify(); err != nil {
		out = append(out, "certify type")
	} else {
		must("certify name", bytes.Equal(info.Name.Buffer, name.Buffer))
		must("certify hierarchy", bytes.Equal(info.QualifiedName.Buffer, qualified(tpm2.TPMRHNull, info.Name.Buffer)))
	}
	must("activation", c.proof == nil)
	return out
}

func (c *client) curve() tpm2.TPMECCCurve {
	p, err := c.akPublic.Parameters.ECCDetail()
	if err != nil {
		return 0
	}
	return p.CurveID
}

// qualified is the qualified name of a primary (Part 1, section 16).
func qualified(hierarchy tpm2.TPMHandle, name []byte) []byte {
	h := sha256.New()
	h.Write([]byte{byte(hierarchy >> 24), byte(hierarchy >> 16), byte(hierarchy >> 8), byte(hierarchy)})
	h.Write(name)
	return append([]byte{0, 0x0b}, h.Sum(nil)...)
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
