package tpm_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/internal/check"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// negative is one case that must end in its check, and differs from a good one
// in one thing.
type negative checktest.Case

// pendingCase is evidence with one fault, before a second round.
type pendingCase struct {
	name, check string
	o           order
}

func flipLast(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
func longer(b []byte) []byte   { return append(bytes.Clone(b), 0) }
func shorter(b []byte) []byte  { return b[:len(b)-1] }

// at puts bytes at an offset.
func at(off int, with ...byte) func([]byte) []byte {
	return func(b []byte) []byte { b = bytes.Clone(b); copy(b[off:], with); return b }
}

// attributes changes those of an area.
func attributes(f func(*tpm2.TPMAObject)) func(*tpm2.TPMTPublic) {
	return func(p *tpm2.TPMTPublic) { f(&p.ObjectAttributes) }
}

func selections(s ...tpm2.TPMSPCRSelection) *tpm2.TPMLPCRSelection {
	return &tpm2.TPMLPCRSelection{PCRSelections: s}
}

// quoteCases are faults of the quote, the registers and the AK.
func quoteCases(t *testing.T) []pendingCase {
	all := bitmap(upTo(15))
	sha256Only := tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA256, PCRSelect: all}
	none := []int{}
	return []pendingCase{
		{"magic of something else", tpm.CheckQuoteMagic, order{quoteRaw: at(0, 0xff, 0x54, 0x43, 0x48)}},
		{"a certification", tpm.CheckQuoteType, order{quoteRaw: at(4, 0x80, 0x17)}},
		{"a time attestation", tpm.CheckQuoteType, order{quoteRaw: at(4, 0x80, 0x19)}},
		{"trailing byte", tpm.CheckQuoteStructure, order{quoteRaw: longer}},
		{"cut off", tpm.CheckQuoteStructure, order{quoteRaw: shorter}},
		{"five bytes", tpm.CheckQuoteStructure, order{quoteRaw: func(b []byte) []byte { return b[:5] }}},
		{"signer beyond the end", tpm.CheckQuoteStructure, order{quoteRaw: at(6, 0xff, 0xff)}},
		{"safe is 2", tpm.CheckQuoteStructure, order{quoteRaw: func(b []byte) []byte { return at(6+2+34+2+32+8+4+4, 2)(b) }}},
		{"a billion banks", tpm.CheckQuoteStructure, order{quoteRaw: func(b []byte) []byte { return at(6+2+34+2+32+8+4+4+1+8, 0x40)(b) }}},
		{"two banks", tpm.CheckPCRBankCount, order{selection: selections(sha256Only, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA384, PCRSelect: all})}},
		{"SHA-1 beside SHA-256", tpm.CheckPCRBankCount, order{selection: selections(tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA1, PCRSelect: bitmap(nil)}, sha256Only)}},
		{"no bank", tpm.CheckPCRBankCount, order{selection: selections()}},
		{"SHA-1 bank", tpm.CheckPCRBank, order{bank: tpm2.TPMAlgSHA1}},
		{"SHA-512 bank", tpm.CheckPCRBank, order{bank: tpm2.TPMAlgSHA512}},
		{"zero-PCR quote", tpm.CheckPCREmpty, order{selected: none}},
		{"selection of no bytes", tpm.CheckPCREmpty, order{selected: none, selection: selections(tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA256})}},
		{"PCR 16", tpm.CheckPCRResettable, order{selected: []int{16}}},
		{"PCRs 17 to 23", tpm.CheckPCRResettable, order{selected: []int{17, 18, 19, 20, 21, 22, 23}}},
		{"a value too few", tpm.CheckPCRValues, order{values: func(m map[uint32][]byte) { delete(m, 7) }}},
		{"a value too many", tpm.CheckPCRValues, order{selected: upTo(7), values: func(m map[uint32][]byte) { m[8] = make([]byte, 32) }}},
		{"a value under another label", tpm.CheckPCRValues, order{selected: upTo(7), values: func(m map[uint32][]byte) { m[8] = m[7]; delete(m, 7) }}},
		{"boundary shift", tpm.CheckPCRValueLength, order{selected: []int{0, 7, 16}, values: func(m map[uint32][]byte) {
			// What guest root can do with a value that it extends into PCR 16.
			m[0], m[7], m[16] = append(bytes.Clone(m[0]), m[7]...), m[16], []byte{}
		}}},
		{"a value of a byte less", tpm.CheckPCRValueLength, order{values: func(m map[uint32][]byte) { m[15] = m[15][:31] }}},
		{"an empty value", tpm.CheckPCRValueLength, order{values: func(m map[uint32][]byte) { m[3] = []byte{} }}},
		{"values of another bank", tpm.CheckPCRValueLength, order{bank: tpm2.TPMAlgSHA384, values: func(m map[uint32][]byte) {
			for i := range m {
				m[i] = m[i][:32]
			}
		}}},

		{"AK area with a trailing byte", tpm.CheckAKStructure, order{akRaw: longer}},
		{"AK area cut off", tpm.CheckAKStructure, order{akRaw: shorter}},
		{"AK with a reserved attribute", tpm.CheckAKStructure, order{akRaw: at(4, 0x80)}},
		{"AK named with SHA-1", tpm.CheckAKStructure, order{akRaw: at(2, 0, 4)}},
		{"AK off its curve", tpm.CheckAKStructure, order{akRaw: flipLast}},
		{"AK with a scheme that is not known", tpm.CheckAKStructure, order{akRaw: at(2+2+4+2+2, 0, 0x1a)}},
		{"AK with a key derivation", tpm.CheckAKStructure, order{akRaw: at(2+2+4+2+2+4+2, 0, 0x20)}},
		{"AK that is a hash key", tpm.CheckAKStructure, order{akRaw: at(0, 0, 8)}},
		{"RSA AK with exponent 3", tpm.CheckAKStructure, order{akKind: rsa2048, akRaw: at(18, 0, 0, 0, 3)}},
		{"RSA AK of other bits than it says", tpm.CheckAKStructure, order{akKind: rsa2048, akRaw: at(16, 0x0c, 0)}},
		{"signature with a trailing byte", tpm.CheckSignatureStructure, order{signature: longer}},
		{"signature cut off", tpm.CheckSignatureStructure, order{signature: shorter}},
		{"signature of HMAC", tpm.CheckSignatureStructure, order{signature: at(0, 0, 5)}},
		{"signature of no scheme", tpm.CheckSignatureStructure, order{signature: func([]byte) []byte { return []byte{0, 0x10} }}},

		{"AK not restricted", tpm.CheckAKRestricted, order{ak: attributes(func(a *tpm2.TPMAObject) { a.Restricted = false })}},
		{"AK that does not sign", tpm.CheckAKSign, order{ak: attributes(func(a *tpm2.TPMAObject) { a.SignEncrypt = false })}},
		{"AK that decrypts too", tpm.CheckAKNotDecrypt, order{ak: attributes(func(a *tpm2.TPMAObject) { a.Decrypt = true })}},
		{"AK that can leave", tpm.CheckAKFixedTPM, order{ak: attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false })}},
		{"AK that can be moved", tpm.CheckAKFixedParent, order{ak: attributes(func(a *tpm2.TPMAObject) { a.FixedParent = false })}},
		{"AK that was imported", tpm.CheckAKSensitiveDataOrigin, order{ak: attributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })}},
		{"AK of 1024 bits", tpm.CheckAKKeySize, order{akKind: rsa1024}},
		{"AK on P-521", tpm.CheckAKCurve, order{akKind: p521}},
		{"AK on a curve that is not known", tpm.CheckAKCurve, order{akRaw: at(2+2+4+2+2+2+2, 0, 0x20)}},
		{"AK of the weak key generator", tpm.CheckAKROCA, order{akKind: roca}},

		{"another hash than the AK's", tpm.CheckQuoteScheme, order{ak: func(p *tpm2.TPMTPublic) { setScheme(t, p, tpm2.TPMAlgSHA384, false) }}},
		{"PSS by an AK of PKCS #1", tpm.CheckQuoteScheme, order{akKind: rsa2048, pss: true, ak: func(p *tpm2.TPMTPublic) { setScheme(t, p, tpm2.TPMAlgSHA256, false) }}},
		{"RSASSA by an ECC AK", tpm.CheckQuoteScheme, order{signWith: keyOf(t, rsa2048, "ak")}},
		{"AK without a scheme", tpm.CheckQuoteScheme, order{ak: func(p *tpm2.TPMTPublic) { *p = signingArea(t, akTemplate(), keyOf(t, p256, "ak").Public(), false) }}},
		{"SHA-1 signature", tpm.CheckQuoteHash, order{akKind: rsa2048, hash: tpm2.TPMAlgSHA1}},
		{"signed by another key", tpm.CheckQuoteSignature, order{signWith: keyOf(t, p256, "somebody")}},
		{"signed by another RSA key", tpm.CheckQuoteSignature, order{akKind: rsa2048, signWith: keyOf(t, rsa2048, "somebody")}},
		{"signature changed", tpm.CheckQuoteSignature, order{signature: flipLast}},
		{"quote changed", tpm.CheckQuoteSignature, order{body: func(e *attest.TPMEvidence) { e.Quote = flipLast(e.Quote) }}},
		{"r of zero", tpm.CheckQuoteSignature, order{signature: func([]byte) []byte { return []byte{0, 0x18, 0, 0xb, 0, 1, 0, 0, 1, 1} }}},
		{"RSA signature of a byte less", tpm.CheckQuoteSignature, order{akKind: rsa2048, signature: func(b []byte) []byte {
			return slices.Concat(b[:4], binary.BigEndian.AppendUint16(nil, 255), b[7:])
		}}},
		{"a register changed", tpm.CheckPCRDigest, order{values: func(m map[uint32][]byte) { m[4] = bytes.Repeat([]byte{1}, 32) }}},
		{"two registers exchanged", tpm.CheckPCRDigest, order{values: func(m map[uint32][]byte) { m[4], m[5] = m[5], m[4] }}},
		{"digest in another hash than the AK's", tpm.CheckPCRDigest, order{quote: func(a *tpm2.TPMSAttest) {
			a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: *selections(sha256Only), PCRDigest: tpm2.TPM2BDigest{Buffer: make([]byte, 48)}})
		}}},
	}
}

// endorsementCases are faults of EK and certificates.
func endorsementCases(t *testing.T, w *world) []pendingCase {
	foreign := newAuthority(t, "Maker", "foreign", nil) // of the same names, with other keys
	stranger := newAuthority(t, "Stranger", "stranger", nil)
	weak := func(f func(*x509.Certificate)) *authority { return newAuthority(t, "Maker", "maker", f) }
	ek := func(f func(*x509.Certificate)) order { return order{ekCertificate: f} }
	ak := func(f func(*x509.Certificate)) order { return order{noEK: true, cloud: w.google, akCertificate: f} }
	san := func(values ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{tpmSAN(t, values...)} }
	}
	odd := pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Critical: true, Value: []byte{5, 0}}
	gce := func(i instance) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{instanceExtension(i)} }
	}
	changed := func(f func(*instance)) func(*x509.Certificate) {
		i := goodInstance
		f(&i)
		return gce(i)
	}
	tooMany := slices.Repeat([][]byte{w.maker.issuer.Raw}, 17)
	return []pendingCase{
		{"17 endorsements", tpm.CheckEndorsements, order{endorsements: tooMany}},
		{"an endorsement of 9 KiB", tpm.CheckEndorsements, order{endorsements: [][]byte{make([]byte, 9<<10)}}},
		{"EK area with a trailing byte", tpm.CheckEKStructure, order{ekRaw: longer}},
		{"EK area cut off", tpm.CheckEKStructure, order{ekRaw: shorter}},
		{"EK certificate without its key", tpm.CheckEKStructure, order{body: func(e *attest.TPMEvidence) { e.EKPublic = nil }}},
		{"EK with Camellia", tpm.CheckEKStructure, order{ekRaw: at(2+2+4+34, 0, 0x26)}},
		{"EK with AES in another mode", tpm.CheckEKStructure, order{ekRaw: at(2+2+4+34+4, 0, 0x42)}},
		{"EK not restricted", tpm.CheckEKAttributes, order{ek: attributes(func(a *tpm2.TPMAObject) { a.Restricted = false })}},
		{"EK that signs", tpm.CheckEKAttributes, order{ek: attributes(func(a *tpm2.TPMAObject) { a.SignEncrypt = true })}},
		{"EK that does not decrypt", tpm.CheckEKAttributes, order{ek: attributes(func(a *tpm2.TPMAObject) { a.Decrypt = false })}},
		{"EK that can leave", tpm.CheckEKAttributes, order{ek: attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false })}},
		{"EK that can be moved", tpm.CheckEKAttributes, order{ek: attributes(func(a *tpm2.TPMAObject) { a.FixedParent = false })}},
		{"EK that was imported", tpm.CheckEKAttributes, order{ek: attributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })}},
		{"EK without a cipher", tpm.CheckEKAttributes, order{ek: func(p *tpm2.TPMTPublic) {
			*p = eccAreaWith(t, *p, publicECC(t, "ek"), tpm2.TPMSECCParms{})
		}}},
		{"EK on P-521", tpm.CheckEKCurve, order{ekKind: p521}},
		{"EK of 1024 bits", tpm.CheckEKKeySize, order{ekKind: rsa1024}},
		{"EK of the weak key generator", tpm.CheckEKROCA, order{ekKind: roca}},
		{"garbage for an EK certificate", tpm.CheckChainParse, order{ekDER: func([]byte) []byte { return []byte("garbage") }}},
		{"something behind the EK certificate", tpm.CheckChainParse, order{ekDER: func(b []byte) []byte { return append(b, 0, 0, 1) }}},
		{"garbage for an endorsement", tpm.CheckChainParse, order{endorsements: [][]byte{[]byte("garbage"), w.maker.issuer.Raw}}},
		{"garbage for an AK certificate", tpm.CheckChainParse, order{noEK: true, body: func(e *attest.TPMEvidence) { e.AKCertificate = []byte{0x30, 0} }}},
		{"another TPM's EK certificate", tpm.CheckEKCertificateKey, order{body: func(e *attest.TPMEvidence) { e.EKCertificate = w.mint(t, order{ekKind: rsa2048}).body.EKCertificate }}},
		{"EK certificate without its usage", tpm.CheckEKEKU, ek(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil })},
		{"EK certificate for an AK", tpm.CheckEKEKU, ek(func(c *x509.Certificate) { c.UnknownExtKeyUsage = aikUsage })},
		{"EK certificate of a CA", tpm.CheckEKEKU, ek(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
		{"EK certificate without names", tpm.CheckEKSAN, ek(func(c *x509.Certificate) { c.ExtraExtensions = nil; c.Subject.CommonName = "x" })},
		{"no manufacturer", tpm.CheckEKSAN, ek(san("", "Test", "id:00010002"))},
		{"no model", tpm.CheckEKSAN, ek(san("id:41535359", "", "id:00010002"))},
		{"no version", tpm.CheckEKSAN, ek(san("id:41535359", "Test", ""))},
		{"two manufacturers", tpm.CheckEKSAN, ek(san("id:41535359", "Test", "id:00010002", "id:494E5443"))},
		{"manufacturer by name", tpm.CheckEKSAN, ek(san("Infineon", "Test", "id:00010002"))},
		{"model of 129 bytes", tpm.CheckEKSAN, ek(san("id:41535359", strings.Repeat("x", 129), "id:00010002"))},
		{"a DNS name", tpm.CheckEKSAN, ek(func(c *x509.Certificate) { c.ExtraExtensions, c.DNSNames = nil, []string{"example.org"} })},
		{"under a root of another name", tpm.CheckEKChain, order{issuer: stranger, endorsements: [][]byte{stranger.issuer.Raw, stranger.root.Raw}}},
		{"under another root of the same name", tpm.CheckEKChain, order{issuer: foreign, endorsements: [][]byte{foreign.issuer.Raw, foreign.root.Raw}}},
		{"without the intermediate", tpm.CheckEKChain, order{endorsements: [][]byte{}}},
		{"an issuer of the same name and another key", tpm.CheckEKChain, order{endorsements: [][]byte{foreign.issuer.Raw}}},
		{"EK certificate changed", tpm.CheckEKChain, order{ekDER: flipLast}},
		{"EK certificate with a critical extension", tpm.CheckEKChain, ek(func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, odd) })},
		{"issuer that is no CA", tpm.CheckEKChain, order{issuer: weak(func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature })}},
		{"issuer that may not sign", tpm.CheckEKChain, order{issuer: weak(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })}},
		{"issuer for web servers", tpm.CheckEKChain, order{issuer: weak(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = nil
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})}},
		{"issuer with name constraints", tpm.CheckEKChain, order{issuer: weak(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} })}},
		{"issuer with a critical extension", tpm.CheckEKChain, order{issuer: weak(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{odd} })}},
		{"the cloud's root for an EK", tpm.CheckEKChain, order{issuer: w.google, endorsements: [][]byte{w.google.issuer.Raw}}},
		{"EK certificate expired", tpm.CheckEKChainValidity, ek(func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })},
		{"EK certificate not yet valid", tpm.CheckEKChainValidity, ek(func(c *x509.Certificate) { c.NotBefore = epoch.Add(time.Second) })},
		{"issuer expired", tpm.CheckEKChainValidity, order{issuer: weak(func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })}},
		{"no EK certificate", tpm.CheckEKCertificate, order{noEKCert: true}},
		{"AK under the storage root", tpm.CheckAKHierarchy, order{hierarchy: underStorage}},
		{"AK of the owner's hierarchy", tpm.CheckAKHierarchy, order{hierarchy: uint32(tpm2.TPMRHOwner)}},
		{"AK of the NULL hierarchy", tpm.CheckAKHierarchy, order{hierarchy: uint32(tpm2.TPMRHNull)}},
		{"certified AK of the owner's hierarchy, with an EK", tpm.CheckAKHierarchy, order{cloud: w.google, hierarchy: uint32(tpm2.TPMRHOwner)}},
		{"another public area around the activated key", tpm.CheckAKHierarchy, order{body: func(e *attest.TPMEvidence) {
			e.AKPublic = at(6, 0, 0x72)(e.AKPublic) // without noDA
		}}},
		{"neither EK nor AK certificate", tpm.CheckAKUnactivated, order{noEK: true}},

		{"AK certificate for another key", tpm.CheckAKCertificateKey, order{noEK: true, cloud: w.google, akCertKey: keyOf(t, p256, "somebody").Public()}},
		{"AK certificate of a CA", tpm.CheckAKCertificateUsage, ak(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
		{"AK certificate for web servers", tpm.CheckAKCertificateUsage, ak(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = nil
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})},
		{"AK certificate that is not for signing", tpm.CheckAKCertificateUsage, ak(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })},
		{"AK certificate with a critical extension", tpm.CheckAKChain, ak(func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, odd) })},
		{"AK certificate of a TPM's maker", tpm.CheckAKChain, order{noEK: true, cloud: w.maker}},
		{"AK certificate of a stranger", tpm.CheckAKChain, order{noEK: true, cloud: stranger, endorsements: [][]byte{stranger.issuer.Raw, stranger.root.Raw}}},
		{"AK certificate without the intermediate", tpm.CheckAKChain, order{noEK: true, cloud: w.google, endorsements: [][]byte{}}},
		{"AK certificate expired", tpm.CheckAKChainValidity, ak(func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })},
		{"AK certificate without an instance", tpm.CheckAKCertificateInstance, ak(func(c *x509.Certificate) { c.ExtraExtensions = nil })},
		{"instance not of production", tpm.CheckAKCertificateInstance, ak(changed(func(i *instance) { i.Security.Production = false }))},
		{"instance without a project", tpm.CheckAKCertificateInstance, ak(changed(func(i *instance) { i.ProjectID = "" }))},
		{"instance number below zero", tpm.CheckAKCertificateInstance, ak(changed(func(i *instance) { i.InstanceID = -1 }))},
		{"instance with something behind it", tpm.CheckAKCertificateInstance, ak(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = longer(c.ExtraExtensions[0].Value) })},
		{"Google's instance under Azure's root", tpm.CheckAKCertificateInstance, order{noEK: true, cloud: w.azure}},
		{"Azure's name under Google's root", tpm.CheckAKCertificateInstance, order{noEK: true, cloud: w.google, azure: true}},
		{"another public area around the certified key", tpm.CheckAKName, order{noEK: true, cloud: w.google, body: func(e *attest.TPMEvidence) {
			e.AKPublic = at(6, 0, 0x72)(e.AKPublic) // without noDA
		}}},
		{"a certified key that is no primary", tpm.CheckAKName, order{noEK: true, cloud: w.google, hierarchy: 1}},
	}
}

// residentCases are faults of the keys that live in the TPM.
func residentCases(t *testing.T) []pendingCase {
	one := func(f func(*order)) order {
		o := order{resident: 1}
		f(&o)
		return o
	}
	key := func(f func(*tpm2.TPMAObject)) order { return order{resident: 1, key: attributes(f)} }
	return []pendingCase{
		{"key area with a trailing byte", tpm.CheckCertifiedStructure, one(func(o *order) { o.keyRaw = longer })},
		{"certification with a trailing byte", tpm.CheckCertifiedStructure, one(func(o *order) { o.certifyRaw = longer })},
		{"certification of another magic", tpm.CheckCertifiedStructure, one(func(o *order) { o.certifyRaw = at(0, 0) })},
		{"signature with a trailing byte", tpm.CheckCertifiedStructure, one(func(o *order) { o.certifySig = longer })},
		{"a quote for a certification", tpm.CheckCertifyType, one(func(o *order) { o.certifyRaw = at(4, 0x80, 0x18) })},
		{"certified by another key", tpm.CheckCertifySignature, one(func(o *order) { o.certifyWith = keyOf(t, p256, "somebody") })},
		{"certified in another scheme", tpm.CheckCertifySignature, one(func(o *order) { o.certifyWith = keyOf(t, rsa2048, "somebody") })},
		{"certification for another binding", tpm.CheckBindingCertify, one(func(o *order) { o.certify = func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) } })},
		{"certification for no binding", tpm.CheckBindingCertify, one(func(o *order) { o.certify = func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = nil } })},
		{"another key than the certified one", tpm.CheckCertifyName, one(func(o *order) {
			o.keyRaw = func([]byte) []byte {
				return tpm2.Marshal(signingArea(t, tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{
					FixedTPM: true, STClear: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true,
				}}, keyOf(t, p256, "software").Public(), true))
			}
		})},
		{"key under the storage root", tpm.CheckCertifyHierarchy, one(func(o *order) { o.keyHierarchy = 1 })},
		{"key of the owner's hierarchy", tpm.CheckCertifyHierarchy, one(func(o *order) { o.keyHierarchy = uint32(tpm2.TPMRHOwner) })},
		{"key of the endorsement hierarchy", tpm.CheckCertifyHierarchy, one(func(o *order) { o.keyHierarchy = uint32(tpm2.TPMRHEndorsement) })},
		{"key that can leave", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.FixedTPM = false })},
		{"key whose copies outlive the boot", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.STClear = false })},
		{"key that can be moved", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.FixedParent = false })},
		{"key that was imported", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })},
		{"key that does not sign", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.SignEncrypt = false })},
		{"key that decrypts", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.Decrypt = true })},
		{"key that is restricted", tpm.CheckCertifyKeyAttributes, key(func(a *tpm2.TPMAObject) { a.Restricted = true })},
		{"key on P-521", tpm.CheckCertifyKey, one(func(o *order) { o.residentKind = p521 })},
		{"key of 1024 bits", tpm.CheckCertifyKey, one(func(o *order) { o.residentKind = rsa1024 })},
		{"key of the weak key generator", tpm.CheckCertifyKey, one(func(o *order) { o.residentKind = roca })},
		{"key of the previous boot", tpm.CheckCertifyClock, one(func(o *order) { o.certifyReset = 6 })},
		{"key from before a resume", tpm.CheckCertifyClock, one(func(o *order) { o.restart = 2; o.certify = func(a *tpm2.TPMSAttest) { a.ClockInfo.RestartCount = 1 } })},
	}
}

// logCases are faults of the event log and of what the body says of it.
func logCases() []pendingCase {
	return []pendingCase{
		{"a log that the body does not name", tpm.CheckEventLogDigest, order{log: []byte("log"), body: func(e *attest.TPMEvidence) { e.EventLogDigest = nil }}},
		{"a log that did not come along", tpm.CheckEventLogDigest, order{logDigest: make([]byte, 32)}},
		{"another log", tpm.CheckEventLogDigest, order{log: []byte("log"), logDigest: make([]byte, 32)}},
		{"a log of 1 MiB and a byte", tpm.CheckEventLogSize, order{log: make([]byte, attest.MaxTPMEventLog+1)}},
	}
}

// bodyCases are bodies that are none.
func bodyCases(t *testing.T, w *world) []negative {
	v, good := w.verifier(t), w.mint(t, order{})
	run := func(body []byte) func(*testing.T) (*attest.Claims, error) {
		return func(t *testing.T) (*attest.Claims, error) {
			return v.AuthenticatePending(t.Context(), attest.Evidence{Platform: attest.TPM2, Body: body}, epoch)
		}
	}
	return []negative{
		{"48 KiB and a byte", tpm.CheckSize, run(make([]byte, attest.MaxTPMBody+1))},
		{"no body", tpm.CheckBody, run(nil)},
		{"a trailing byte", tpm.CheckBody, run(longer(good.evidence.Body))},
		{"cut off", tpm.CheckBody, run(shorter(good.evidence.Body))},
		{"another encoding", tpm.CheckBody, run(append([]byte{0xb8, good.evidence.Body[0] & 0x1f}, good.evidence.Body[1:]...))},
		{"an unknown key", tpm.CheckBody, run(append(append([]byte{good.evidence.Body[0] + 1}, good.evidence.Body[1:]...), 0x18, 0x63, 0x41, 0))},
	}
}

// callerCases are the checks that no evidence can fail.
func callerCases(t *testing.T, w *world) []negative {
	v := w.verifier(t)
	_, b := challenge(t, nil)
	good := w.mint(t, order{noEK: true, cloud: w.google, extra: b.B[:]})
	claims := accept(t, v, good.evidence, epoch)
	authenticate := func(ctx context.Context, ev attest.Evidence, at time.Time) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) { return v.Authenticate(ctx, ev, at) }
	}
	bound := func(c *attest.Claims, b attest.Binding) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) { return nil, v.Bound(c, b) }
	}
	if err := v.Bound(claims, b); err != nil {
		t.Fatalf("the good case: %v", err)
	}
	with := func(f func(*attest.TPM)) *attest.Claims {
		c, inner := *claims, *claims.TPM
		f(&inner)
		c.TPM = &inner
		return &c
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	noKeys, noB, noNonce, noSPKI, noBank := b, b, b, b, b
	noBank.PCRBank = ""
	noKeys.Keys, noB.B, noNonce.Nonce, noSPKI.Keys = nil, [32]byte{}, [32]byte{}, []attest.BoundKey{{}}
	resident := func(keys ...[]byte) *attest.Claims {
		return with(func(c *attest.TPM) {
			c.KeyResidency = attest.ResidentTPM
			for _, k := range keys {
				c.Certified = append(c.Certified, k)
			}
		})
	}
	return []negative{
		{"another platform", tpm.CheckPlatform, authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: good.evidence.Body}, epoch)},
		{"no platform", tpm.CheckPlatform, authenticate(t.Context(), attest.Evidence{Body: good.evidence.Body}, epoch)},
		{"no time", tpm.CheckTime, authenticate(t.Context(), good.evidence, time.Time{})},
		{"cancelled", tpm.CheckContext, authenticate(cancelled, good.evidence, epoch)},
		{"offline, an AK that only an EK vouches for", tpm.CheckAKUnactivated, authenticate(t.Context(), w.mint(t, order{}).evidence, epoch)},
		{"a log that is none", tpm.CheckEventLogStructure, authenticate(t.Context(), w.mint(t, order{noEK: true, cloud: w.google, log: []byte("this is not a log, though it has more than a few bytes in it")}).evidence, epoch)},
		{"a log of 8193 events", tpm.CheckEventLogStructure, authenticate(t.Context(), w.mint(t, order{noEK: true, cloud: w.google, log: countless()}).evidence, epoch)},
		{"no claims", tpm.CheckBinding, bound(nil, b)},
		{"claims without a TPM", tpm.CheckBinding, bound(&attest.Claims{Platform: attest.TPM2}, b)},
		{"claims of another platform", tpm.CheckBinding, bound(&attest.Claims{Platform: attest.AWSNitro, TPM: claims.TPM}, b)},
		{"binding without keys", tpm.CheckBinding, bound(claims, noKeys)},
		{"binding with an empty key", tpm.CheckBinding, bound(claims, noSPKI)},
		{"binding without B", tpm.CheckBinding, bound(claims, noB)},
		{"binding without nonce", tpm.CheckBinding, bound(claims, noNonce)},
		{"empty nonce", tpm.CheckBindingEmpty, bound(with(func(c *attest.TPM) { c.ExtraData = nil }), b)},
		{"first byte of qualifyingData", tpm.CheckBindingExtraData, bound(with(func(c *attest.TPM) { c.ExtraData = at(0, 0xff^b.B[0])(c.ExtraData) }), b)},
		{"last byte of qualifyingData", tpm.CheckBindingExtraData, bound(with(func(c *attest.TPM) { c.ExtraData = flipLast(c.ExtraData) }), b)},
		{"something behind B", tpm.CheckBindingExtraData, bound(with(func(c *attest.TPM) { c.ExtraData = longer(c.ExtraData) }), b)},
		{"the other bank", tpm.CheckBindingBank, bound(with(func(c *attest.TPM) { c.Bank = "sha384" }), b)},
		{"no bank demanded", tpm.CheckBindingBank, bound(claims, noBank)},
		{"one key of two is resident", tpm.CheckKeyResidency, bound(resident(b.Keys[0].SPKI), b)},
		{"three resident keys for two", tpm.CheckKeyResidency, bound(resident(b.Keys[0].SPKI, b.Keys[1].SPKI, b.Keys[1].SPKI), b)},
		{"key not resident, though the claims say so", tpm.CheckKeyResidency, bound(resident(), b)},
		{"resident keys exchanged", tpm.CheckBindingKey, bound(resident(b.Keys[1].SPKI, b.Keys[0].SPKI), b)},
		{"another resident key", tpm.CheckBindingKey, bound(resident(b.Keys[0].SPKI, []byte("other")), b)},
	}
}

// broken is a memory that cannot be asked.
type broken struct{ tpm.MemoryBindings }

var errBroken = errors.New("the database is gone")

func (*broken) Lookup(context.Context, [32]byte) (tpm.Binding, bool, error) {
	return tpm.Binding{}, false, errBroken
}

// deaf is a memory that cannot be told.
type deaf struct{ tpm.MemoryBindings }

func (*deaf) Remember(context.Context, tpm.Binding) error { return errBroken }

// lost is an inventory that cannot be asked.
type lost struct{}

func (lost) Group(context.Context, [32]byte) (string, bool, error) { return "", false, errBroken }

// activationCases are faults of the second round.
func activationCases(t *testing.T, w *world) []negative {
	_, b := challenge(t, nil)
	run := func(opts []tpm.Option, o order, x func(m minted) verifiers.Exchange, change func(*attest.Claims)) func(*testing.T) (*attest.Claims, error) {
		return func(t *testing.T) (*attest.Claims, error) {
			v := w.verifier(t, opts...)
			o.extra = b.B[:]
			m := w.mint(t, o)
			c, err := v.AuthenticatePending(t.Context(), m.evidence, epoch)
			if err != nil {
				t.Fatal(err)
			}
			if change != nil {
				change(c)
			}
			return nil, v.Activate(t.Context(), m.evidence, c, b, x(m), epoch)
		}
	}
	honest := func(m minted) verifiers.Exchange { return m.exchange(b) }
	none := func(minted) verifiers.Exchange { return nil }
	proof := func(f func([]byte) ([]byte, error)) func(minted) verifiers.Exchange {
		return func(m minted) verifiers.Exchange {
			return func(ctx context.Context, challenge []byte) ([]byte, error) {
				p, err := m.exchange(b)(ctx, challenge)
				if err != nil {
					return nil, err
				}
				return f(p)
			}
		}
	}
	other := b
	other.B[0] ^= 1
	stranger := w.mint(t, order{ekKind: rsa2048})
	return []negative{
		{"no claims", tpm.CheckActivation, func(t *testing.T) (*attest.Claims, error) {
			return nil, w.verifier(t).Activate(t.Context(), attest.Evidence{}, nil, b, nil, epoch)
		}},
		{"no binding", tpm.CheckActivation, func(t *testing.T) (*attest.Claims, error) {
			return nil, w.verifier(t).Activate(t.Context(), attest.Evidence{}, &attest.Claims{Platform: attest.TPM2, TPM: &attest.TPM{}}, attest.Binding{}, nil, epoch)
		}},
		{"claims of another EK", tpm.CheckActivation, run(nil, order{}, honest, func(c *attest.Claims) { c.TPM.EK = flipLast(c.TPM.EK) })},
		{"claims of another AK", tpm.CheckActivation, run(nil, order{}, honest, func(c *attest.Claims) { c.TPM.AK = flipLast(c.TPM.AK) })},
		{"no second round", tpm.CheckAKUnactivated, run(nil, order{}, none, nil)},
		{"an operator's word", tpm.CheckAKUnactivated, run(nil, order{}, honest, func(c *attest.Claims) { c.TPM.AKTrust = attest.AKOperator })},
		{"no EK", tpm.CheckAKUnactivated, run(nil, order{}, honest, func(c *attest.Claims) { c.TPM.EK = nil })},
		{"activated by another, they say", tpm.CheckAKUnactivated, run(nil, order{}, honest, func(c *attest.Claims) { c.TPM.AKTrust = attest.AKActivated })},
		{"memory that cannot be asked", tpm.CheckEKBinding, run([]tpm.Option{tpm.WithBindings(new(broken))}, order{}, honest, nil)},
		{"memory that cannot be told", tpm.CheckEKBinding, run([]tpm.Option{tpm.WithBindings(new(deaf))}, order{}, honest, nil)},
		{"the stream ends", tpm.CheckActivationExchange, run(nil, order{}, func(minted) verifiers.Exchange {
			return func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the stream has ended") }
		}, nil)},
		{"AK of another EK", tpm.CheckCredentialProof, run(nil, order{}, func(m minted) verifiers.Exchange {
			return func(context.Context, []byte) ([]byte, error) { return tpm.Proof([]byte("a guess"), b.B), nil }
		}, nil)},
		{"proof changed", tpm.CheckCredentialProof, run(nil, order{}, proof(func(p []byte) ([]byte, error) { return flipLast(p), nil }), nil)},
		{"proof with something behind it", tpm.CheckCredentialProof, run(nil, order{}, proof(func(p []byte) ([]byte, error) { return longer(p), nil }), nil)},
		{"no proof", tpm.CheckCredentialProof, run(nil, order{}, proof(func([]byte) ([]byte, error) { return nil, nil }), nil)},
		{"proof for another binding", tpm.CheckCredentialProof, run(nil, order{}, func(m minted) verifiers.Exchange { return m.exchange(other) }, nil)},
		{"the secret itself", tpm.CheckCredentialProof, run(nil, order{}, func(m minted) verifiers.Exchange {
			return func(_ context.Context, challenge []byte) ([]byte, error) { return m.activate(challenge) }
		}, nil)},
		{"inventory that cannot be asked", tpm.CheckEKInventory, func(t *testing.T) (*attest.Claims, error) {
			return w.verifier(t, tpm.WithInventory(lost{})).AuthenticatePending(t.Context(), stranger.evidence, epoch)
		}},
	}
}

// coveredElsewhere names checks whose negative test stands elsewhere.
var coveredElsewhere = map[string]string{
	tpm.CheckPanic:          "TestAPanicOfALibraryIsAMalformedError",
	tpm.CheckEventLogReplay: "TestAWrongEventLogIsRefused",
}

func TestEveryCheckRefusesForItsOwnReasonAlone(t *testing.T) {
	w := newWorld(t)
	cases := slices.Concat(bodyCases(t, w), callerCases(t, w), activationCases(t, w))
	for _, c := range slices.Concat(quoteCases(t), endorsementCases(t, w), residentCases(t), logCases()) {
		cases = append(cases, negative{c.name, c.check, func(t *testing.T) (*attest.Claims, error) {
			return w.verifier(t).AuthenticatePending(t.Context(), w.mint(t, c.o).evidence, epoch)
		}})
	}
	checktest.EachRefuses(t, tpm.Checks(), cases, coveredElsewhere)
}

func TestTheTableOfChecksIsComplete(t *testing.T) { checktest.Whole(t, tpm.Checks()) }

func TestTheSpecificationListsEveryCheckWithItsKind(t *testing.T) {
	spec := checktest.Specified(t, tpm.Checks(), "tpm-checks.md", func(c check.Check) string {
		return checktest.NameAndKind(c) + " " + c.Demands + " |"
	})
	for _, k := range tpm.KnownRoots() {
		if !strings.Contains(spec, k.SHA256) || !strings.Contains(spec, k.URL) {
			t.Errorf("docs/spec/tpm-checks.md does not name %s's %s", k.Vendor, k.Name)
		}
	}
}
