package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "github.com/google/go-tpm-tools/proto/attest"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/verifiers/tpm"
)

// attestationEvidence takes one bank out of go-tpm-tools' Attestation message.
func attestationEvidence(t testing.TB, raw []byte, bank tpm2.TPMAlgID) attest.Evidence {
	t.Helper()
	var a pb.Attestation
	if err := proto.Unmarshal(raw, &a); err != nil {
		t.Fatal(err)
	}
	for _, q := range a.GetQuotes() {
		if uint32(q.GetPcrs().GetHash()) != uint32(bank) {
			continue
		}
		e := attest.TPMEvidence{Quote: q.GetQuote(), Signature: q.GetRawSig(), AKPublic: a.GetAkPub(), AKCertificate: a.GetAkCert(), PCRs: q.GetPcrs().GetPcrs()}
		if log := a.GetEventLog(); len(log) > 0 {
			sum := sha256.Sum256(log)
			e.EventLogDigest = sum[:]
		}
		return evidence(t, e, a.GetEventLog(), a.GetIntermediateCerts()...)
	}
	t.Fatalf("no quote over bank %x", bank)
	return attest.Evidence{}
}

// moduleAttestation reads an attestation of a real machine from go-tpm-tools'
// module.
func moduleAttestation(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(module(t), "internal", "test", "attestations", name+".pb"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cosTime is when the attestations in the module were made.
var cosTime = time.Date(2021, 9, 1, 23, 11, 5, 0, time.UTC)

func TestTheAttestationsInTheLibrarysModuleVerifyWithTheirEventLog(t *testing.T) {
	for name, nonce := range map[string]string{"gce-cos-85-no-nonce": "", "gce-cos-85-nonce9009": "9009"} {
		for bank, alg := range map[string]tpm2.TPMAlgID{"sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384} {
			t.Run(name+"/"+bank, func(t *testing.T) {
				ev := attestationEvidence(t, moduleAttestation(t, name), alg)
				c := accept(t, hardware(t), ev, cosTime)
				want := &attest.CloudInstance{
					Provider: tpm.GCE, ProjectID: "google.com:wuale-gcp-testing", ProjectNumber: 117478743145, Zone: "us-central1-a", InstanceID: "6797026933021542085", InstanceName: "cos-test",
				}
				if diff := cmp.Diff(want, c.TPM.Cloud); diff != "" {
					t.Errorf("instance (-want +got):\n%s", diff)
				}
				if c.TPM.AKTrust != attest.AKCertificate || c.TPM.ExtraData.String() != nonce || c.TPM.Bank != bank || c.TPM.EK != nil || c.Simulated {
					t.Errorf("%+v", c.TPM)
				}
				if c.TPM.Clock == nil || len(c.TPM.AK) != 34 {
					t.Errorf("the AK is a primary of the endorsement hierarchy: %+v", c.TPM)
				}
				if len(c.TPM.PCRs) != 16 {
					t.Errorf("%d registers", len(c.TPM.PCRs))
				}
				if b := c.TPM.Boot; b == nil || b.SecureBoot == nil || !*b.SecureBoot {
					t.Errorf("secure boot: %+v", b)
				}
			})
		}
		t.Run(name+"/sha1", func(t *testing.T) {
			got, err := hardware(t).Authenticate(t.Context(), attestationEvidence(t, moduleAttestation(t, name), tpm2.TPMAlgSHA1), cosTime)
			wantRefusal(t, got, err, tpm.CheckPCRBank)
		})
		t.Run(name+"/stale", func(t *testing.T) {
			got, err := hardware(t).Authenticate(t.Context(), attestationEvidence(t, moduleAttestation(t, name), tpm2.TPMAlgSHA256), cosTime.AddDate(40, 0, 0))
			wantRefusal(t, got, err, tpm.CheckAKChainValidity)
		})
	}
}

// fate is what becomes of a recorded quote: by itself, and where an operator
// vouches for the AK. "" means that it verifies.
type fate struct{ alone, trusted string }

// fates names for every recorded quote the check that refuses it.
func fates() map[string]fate {
	unactivated := fate{alone: tpm.CheckAKUnactivated}
	return map[string]fate{
		"tpm/windows-gce-shielded-sha1":     {tpm.CheckPCRBank, tpm.CheckPCRBank},
		"tpm/gce-debian10-sha1bank-rsa":     {tpm.CheckPCRBank, tpm.CheckPCRBank},
		"tpm/keylime-swtpm-pcr16":           {tpm.CheckPCRResettable, tpm.CheckPCRResettable},
		"tpm/parsec-ecc-quote-and-certify":  {tpm.CheckPCRValues, tpm.CheckPCRValues}, // no values were recorded
		"tpm/gcp-amd-vtpm-2026":             unactivated,
		"tpm/trustee-swtpm-zero-pcrs":       unactivated, // verifies for an operator: all-zero registers are for policy to refuse
		"tpm/cmc-rsa-quote":                 unactivated,
		"tpm/keylime-simulator-pcr15-22":    unactivated,
		"tpm/azure-trusted-launch-2026":     unactivated,
		"azure/snp-milan-v2-trustee":        unactivated,
		"azure/snp-milan-v3-trustee":        unactivated,
		"azure/snp-milan-v3-trustee-v2":     unactivated,
		"azure/snp-genoa-v3-trustee":        unactivated,
		"azure/snp-milan-v3-attestation-rs": unactivated,
		"azure/snp-milan-v3-cleanroom":      unactivated,
		"azure/tdx-trustee":                 unactivated,
	}
}

func TestEveryRecordedQuoteEndsAsTheTableSays(t *testing.T) {
	table := fates()
	for _, r := range recordings(t) {
		t.Run(r.name, func(t *testing.T) {
			want, ok := table[r.name]
			if !ok {
				t.Fatal("no line of the table")
			}
			delete(table, r.name)
			if !r.want.Verifies || r.want.Signature != "OK" {
				t.Fatal("the manifest does not say that it verifies")
			}
			ev := evidence(t, r.body, nil)
			got, err := hardware(t).Authenticate(t.Context(), ev, r.at)
			wantRefusal(t, got, err, want.alone)
			got, err = hardware(t, tpm.WithTrustedAK(r.key)).Authenticate(t.Context(), ev, r.at)
			if want.trusted != "" {
				wantRefusal(t, got, err, want.trusted)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r.compare(t, got)
			// The word of an operator has no weight in an attestation.
			got, err = hardware(t, tpm.WithTrustedAK(r.key)).AuthenticatePending(t.Context(), ev, r.at)
			wantRefusal(t, got, err, tpm.CheckAKUnactivated)
		})
	}
	for name := range table {
		t.Errorf("%s: in the table and not among the recordings", name)
	}
}

// compare holds claims to the manifest.
func (r recording) compare(t *testing.T, got *attest.Claims) {
	t.Helper()
	c := got.TPM
	if c.AKTrust != attest.AKOperator || c.ExtraData.String() != r.want.ExtraData || c.Safe != r.want.Safe || c.KeyResidency != attest.ResidentSoftware || c.Boot != nil || c.EK != nil {
		t.Errorf("%+v", c)
	}
	static := 0
	for _, i := range r.want.Selection[0].PCRs {
		if i < 16 {
			static++
			if diff := cmp.Diff(attest.Bytes(r.body.PCRs[uint32(i)]), c.PCRs[i]); diff != "" {
				t.Errorf("PCR %d: %s", i, diff)
			}
		}
	}
	if static != len(c.PCRs) {
		t.Errorf("claims hold %d registers, want the %d static ones", len(c.PCRs), static)
	}
	if c.Clock != nil && (c.Clock.ResetCount != r.want.Reset || c.Clock.RestartCount != r.want.Restart) {
		t.Errorf("%+v", c.Clock)
	}
	t.Logf("AK claim %s, clock %+v", c.AK, c.Clock)
}

func TestRecordedNegativesAreRefused(t *testing.T) {
	byName := make(map[string]recording)
	for _, r := range recordings(t) {
		byName[r.name] = r
	}
	t.Run("another signature", func(t *testing.T) {
		r := byName["tpm/cmc-rsa-quote"]
		r.body.Signature = r.vector.Read(t, "signature-invalid.bin")
		got, err := hardware(t, tpm.WithTrustedAK(r.key)).Authenticate(t.Context(), evidence(t, r.body, nil), r.at)
		wantRefusal(t, got, err, tpm.CheckQuoteSignature)
	})
	t.Run("a quote of another boot", func(t *testing.T) {
		r := byName["azure/snp-milan-v2-trustee"]
		r.body.Quote = r.vector.Read(t, "quote-foreign.bin")
		r.body.Signature = recordedSignature(t, r.vector.Read(t, "quote-foreign.sig"), "raw-rsassa-sha256")
		maps.DeleteFunc(r.body.PCRs, func(i uint32, _ []byte) bool { return i > 7 && i != 14 })
		got, err := hardware(t, tpm.WithTrustedAK(r.key)).Authenticate(t.Context(), evidence(t, r.body, nil), r.at)
		wantRefusal(t, got, err, tpm.CheckQuoteSignature)
	})
	t.Run("a certificate for another key of the same vTPM", func(t *testing.T) {
		r := byName["tpm/azure-trusted-launch-2026"]
		r.body.AKCertificate = r.vector.Read(t, "foreign_ak_cert.der")
		got, err := azure(t).Authenticate(t.Context(), evidence(t, r.body, nil), r.at)
		wantRefusal(t, got, err, tpm.CheckAKCertificateKey)
	})
	t.Run("a certificate of a private CA", func(t *testing.T) {
		r := byName["tpm/cmc-rsa-quote"]
		block, _ := pem.Decode(r.vector.Read(t, "ak_certs.pem"))
		r.body.AKCertificate = block.Bytes
		got, err := azure(t).Authenticate(t.Context(), evidence(t, r.body, nil), r.at)
		wantRefusal(t, got, err, tpm.CheckAKChain)
	})
	t.Run("Azure's certificate without Azure's root", func(t *testing.T) {
		r := byName["azure/snp-milan-v3-cleanroom"]
		r.body.AKCertificate = r.vector.Read(t, "ak_cert.der")
		got, err := hardware(t).Authenticate(t.Context(), evidence(t, r.body, nil), r.at)
		wantRefusal(t, got, err, tpm.CheckAKChain)
	})
}

// azure is a verifier with Azure's roots in an operator's directory.
func azure(t testing.TB) *tpm.Verifier {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "azure"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors.Load(t, "azure") {
		if path.Base(v.Name) != "roots" {
			continue
		}
		for _, f := range v.Files {
			if err := os.WriteFile(filepath.Join(dir, "azure", path.Base(f)), v.Read(t, path.Base(f)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := tpm.HardwareRoots().WithDirectory(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	return verifierOver(t, r)
}

func TestACertifiedKeyOfACloudVerifies(t *testing.T) {
	byName := make(map[string]recording)
	for _, r := range recordings(t) {
		byName[r.name] = r
	}
	t.Run("Google, ECC", func(t *testing.T) {
		r := byName["tpm/gcp-amd-vtpm-2026"]
		var chain [][]byte
		for rest := r.vector.Read(t, "ak_cert_chain.pem"); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			chain = append(chain, block.Bytes)
		}
		r.body.AKCertificate = chain[0]
		r.body.AKPublic = googleECCAK(t, r.key.(*ecdsa.PublicKey))
		c := accept(t, hardware(t), evidence(t, r.body, nil, chain[1:]...), r.at).TPM
		if c.AKTrust != attest.AKCertificate || c.Cloud.ProjectID != "lockboot" || c.Cloud.InstanceID != "3414240648225485836" || c.Cloud.Zone != "us-central1-f" || c.Clock == nil || c.Clock.ResetCount != r.want.Reset {
			t.Errorf("%+v, %+v, %+v", c, c.Cloud, c.Clock)
		}
	})
	t.Run("Azure, RSA, from padded NV memory", func(t *testing.T) {
		r := byName["azure/snp-milan-v3-cleanroom"]
		for _, file := range []string{"ak_cert.der", "ak_cert.nv-padded.bin"} {
			r.body.AKCertificate = r.vector.Read(t, file)
			c := accept(t, azure(t), evidence(t, r.body, nil), r.at).TPM
			if c.AKTrust != attest.AKCertificate || c.Cloud.Provider != tpm.Azure || c.Cloud.InstanceID != "01d451636602.ConfidentialVM" {
				t.Errorf("%+v", c.Cloud)
			}
		}
	})
}

// googleECCAK is the AK's area as Compute Engine makes it: the attributes of
// go-tpm-tools' client.AKTemplateECC.
func googleECCAK(t testing.TB, k *ecdsa.PublicKey) []byte {
	t.Helper()
	p := akTemplate()
	p.ObjectAttributes.NoDA = false
	return tpm2.Marshal(eccArea(t, p, k, ecdsaScheme()))
}

// signatureHash is the hash of a TPMT_SIGNATURE.
func signatureHash(t testing.TB, sig []byte) tpm2.TPMAlgID {
	t.Helper()
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](sig)
	if err != nil {
		t.Fatal(err)
	}
	if s.SigAlg == tpm2.TPMAlgECDSA {
		e, err := s.Signature.ECDSA()
		if err != nil {
			t.Fatal(err)
		}
		return e.Hash
	}
	r, err := s.Signature.RSASSA()
	if err != nil {
		t.Fatal(err)
	}
	return r.Hash
}

// checkTPMT verifies a TPMT_SIGNATURE with nothing of this package.
func checkTPMT(t testing.TB, key crypto.PublicKey, message, sig []byte) {
	t.Helper()
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](sig)
	if err != nil {
		t.Fatal(err)
	}
	alg := signatureHash(t, sig)
	sum := hashed(t, alg, message)
	switch k := key.(type) {
	case *rsa.PublicKey:
		r, err := s.Signature.RSASSA()
		if err != nil {
			t.Fatal(err)
		}
		h, err := alg.Hash()
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPKCS1v15(k, h, sum, r.Sig.Buffer); err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		e, err := s.Signature.ECDSA()
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.Verify(k, sum, new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)) {
			t.Error("ECDSA verification failure")
		}
	}
}
