package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"path"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
)

// quoteFacts is what the manifest says of a recorded quote.
type quoteFacts struct {
	Verifies  bool   `json:"verifies"`
	ExtraData string `json:"extra_data"`
	Firmware  string `json:"firmware_version"`
	Reset     uint32 `json:"reset_count"`
	Restart   uint32 `json:"restart_count"`
	Safe      bool   `json:"safe"`
	Signature string `json:"quote_signature"`
	PCRs      *bool  `json:"pcr_values_match_digest"`
	Format    string `json:"signature_format"`
	AKFile    string `json:"ak_file"`
	AKFormat  string `json:"ak_format"`
	Selection []struct {
		Alg  string `json:"alg"`
		PCRs []int  `json:"pcrs"`
	} `json:"pcr_selection"`
}

// recording is a recorded quote, with what is needed to verify it.
type recording struct {
	name   string
	vector vectors.Vector
	at     time.Time
	want   quoteFacts
	body   attest.TPMEvidence
	key    crypto.PublicKey
	// area is false where only the AK's key was recorded: a public area with the
	// attributes of an AK stands around it then, which is not the AK's own.
	area bool
}

// recordings loads every recorded quote that is not an Attestation message, or
// skips the test loudly.
func recordings(t testing.TB) []recording {
	t.Helper()
	var out []recording
	for _, tee := range []string{"tpm", "azure"} {
		for _, v := range vectors.Load(t, tee) {
			if !slices.ContainsFunc(v.Files, func(f string) bool { return path.Base(f) == "quote.bin" }) {
				continue
			}
			out = append(out, load(t, v))
		}
	}
	if len(out) < 16 {
		t.Fatalf("%d recorded quotes", len(out))
	}
	return out
}

func load(t testing.TB, v vectors.Vector) recording {
	t.Helper()
	r := recording{name: v.Name, vector: v, at: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)}
	if v.VerificationTime != nil {
		r.at = *v.VerificationTime
	}
	var azure struct {
		Quote *quoteFacts `json:"tpm_quote"`
	}
	if err := json.Unmarshal(v.Expect, &azure); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(v.Expect, &r.want); err != nil {
		t.Fatal(err)
	}
	if azure.Quote != nil {
		verifies := r.want.Verifies
		r.want = *azure.Quote
		r.want.Verifies = verifies
	}
	r.key, r.body.AKPublic = recordedAK(t, v, r.want)
	r.area = r.want.AKFormat == "tpmt-public"
	r.body.Quote = v.Read(t, "quote.bin")
	r.body.Signature = recordedSignature(t, v.Read(t, "signature.bin"), r.want.Format)
	r.body.PCRs = recordedPCRs(t, v, r.want)
	return r
}

// recordedAK reads the AK in the form that it was recorded in.
func recordedAK(t testing.TB, v vectors.Vector, want quoteFacts) (crypto.PublicKey, []byte) {
	t.Helper()
	raw := v.Read(t, want.AKFile)
	if want.AKFormat == "tpmt-public" {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
		if err != nil {
			t.Fatal(err)
		}
		k, err := tpm2.Pub(*area)
		if err != nil {
			t.Fatal(err)
		}
		return k, raw
	}
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	var k crypto.PublicKey
	if c, err := x509.ParseCertificate(raw); err == nil {
		k = c.PublicKey
	} else if k, err = x509.ParsePKIXPublicKey(raw); err != nil {
		t.Fatal(err)
	}
	return k, akArea(t, k)
}

// akArea puts a public area with an AK's attributes around a key.
func akArea(t testing.TB, k crypto.PublicKey) []byte {
	t.Helper()
	p := akTemplate()
	switch k := k.(type) {
	case *rsa.PublicKey:
		p.Type = tpm2.TPMAlgRSA
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Scheme: rsassa(), KeyBits: tpm2.TPMKeyBits(k.N.BitLen())})
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
	case *ecdsa.PublicKey:
		p = eccArea(t, p, k, ecdsaScheme())
	default:
		t.Fatalf("an AK of type %T", k)
	}
	return tpm2.Marshal(p)
}

// recordedSignature makes a TPMT_SIGNATURE of what was recorded.
func recordedSignature(t testing.TB, raw []byte, format string) []byte {
	t.Helper()
	switch format {
	case "tpmt":
		return raw
	case "raw-rsassa-sha256":
		return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
			Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw},
		})})
	case "ecdsa-der-sha256":
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(raw, &rs); err != nil {
			t.Fatal(err)
		}
		return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: rs.R.FillBytes(make([]byte, 32))}, SignatureS: tpm2.TPM2BECCParameter{Buffer: rs.S.FillBytes(make([]byte, 32))},
		})})
	}
	t.Fatalf("signature format %q", format)
	return nil
}

// recordedPCRs reads the values of the one bank that was quoted.
func recordedPCRs(t testing.TB, v vectors.Vector, want quoteFacts) map[uint32][]byte {
	t.Helper()
	out := make(map[uint32][]byte)
	if want.PCRs == nil {
		return out
	}
	var banks map[string]map[string]attest.Bytes
	if err := json.Unmarshal(v.Read(t, "pcrs.json"), &banks); err != nil {
		t.Fatal(err)
	}
	bank := map[string]string{"0x4": "sha1", "0xb": "sha256", "0xc": "sha384"}[want.Selection[0].Alg]
	for _, i := range want.Selection[0].PCRs {
		value, ok := banks[bank][strconv.Itoa(i)]
		if !ok {
			t.Fatalf("%s: no value of PCR %d", v.Name, i)
		}
		out[uint32(i)] = value
	}
	return out
}
