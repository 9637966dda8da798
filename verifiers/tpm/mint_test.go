package tpm_test

import (
	"crypto/ecdsa"
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

func eccArea(t testing.TB, p tpm2.TPMTPublic, k *ecdsa.PublicKey, s tpm2.TPMTECCScheme) tpm2.TPMTPublic {
	t.Helper()
	raw, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := len(raw) / 2
	curve := map[int]tpm2.TPMECCCurve{32: tpm2.TPMECCNistP256, 48: tpm2.TPMECCNistP384, 66: tpm2.TPMECCNistP521}[n]
	p.Type = tpm2.TPMAlgECC
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Scheme: s, CurveID: curve})
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: raw[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: raw[1+n:]}})
	return p
}
