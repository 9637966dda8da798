package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	}}
}

func rsassa() tpm2.TPMTRSAScheme {
	return tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}
}

func ecdsaScheme() tpm2.TPMTECCScheme {
	return tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
}

func aes256() tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}
}

// eccArea puts an ECC key and its scheme into an area.
func eccArea(t testing.TB, p tpm2.TPMTPublic, k *ecdsa.PublicKey, s tpm2.TPMTECCScheme) tpm2.TPMTPublic {
	t.Helper()
	return eccAreaWith(t, p, k, tpm2.TPMSECCParms{Scheme: s})
}

func eccAreaWith(t testing.TB, p tpm2.TPMTPublic, k *ecdsa.PublicKey, parms tpm2.TPMSECCParms) tpm2.TPMTPublic {
	t.Helper()
	raw, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := len(raw) / 2
	parms.CurveID = map[int]tpm2.TPMECCCurve{32: tpm2.TPMECCNistP256, 48: tpm2.TPMECCNistP384, 66: tpm2.TPMECCNistP521}[n]
	p.Type = tpm2.TPMAlgECC
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &parms)
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: raw[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: raw[1+n:]}})
	return p
}

// signingArea puts a signing key into an area: RSASSA or ECDSA with SHA-256, or no
// scheme.
func signingArea(t testing.TB, p tpm2.TPMTPublic, k crypto.PublicKey, scheme bool) tpm2.TPMTPublic {
	t.Helper()
	switch k := k.(type) {
	case *rsa.PublicKey:
		parms := &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(k.N.BitLen())}
		if scheme {
			parms.Scheme = rsassa()
		}
		p.Type = tpm2.TPMAlgRSA
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, parms)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return p
	case *ecdsa.PublicKey:
		if scheme {
			return eccArea(t, p, k, ecdsaScheme())
		}
		return eccArea(t, p, k, tpm2.TPMTECCScheme{})
	}
	t.Fatalf("a key of type %T", k)
	return p
}

// ekArea is an EK's area of the template for its kind: L-1, L-2, and H-3 for
// P-384.
func ekArea(t testing.TB, k crypto.PublicKey) tpm2.TPMTPublic {
	t.Helper()
	switch k := k.(type) {
	case *rsa.PublicKey:
		p := tpm2.RSAEKTemplate
		parms, err := p.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		mine := *parms
		mine.KeyBits = tpm2.TPMKeyBits(k.N.BitLen())
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &mine)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return p
	case *ecdsa.PublicKey:
		p := tpm2.ECCEKTemplate
		parms, err := p.Parameters.ECCDetail()
		if err != nil {
			t.Fatal(err)
		}
		mine := *parms
		if k.Curve == elliptic.P384() {
			p.NameAlg, p.ObjectAttributes.UserWithAuth, p.AuthPolicy = tpm2.TPMAlgSHA384, true, tpm2.TPM2BDigest{Buffer: make([]byte, 48)}
			mine.Symmetric = aes256()
		}
		return eccAreaWith(t, p, k, mine)
	}
	t.Fatalf("an EK of type %T", k)
	return tpm2.TPMTPublic{}
}
