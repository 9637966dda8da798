package tpm_test

import (
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	simtpm "github.com/assay-project/assay/simulators/tpm"
	"github.com/assay-project/assay/verifiers/tpm"
)

// What a software TPM shows of keys: how long one lives, and which are the same.

func TestAKeyOfThePreviousBootIsRefusedOnASoftwareTPM(t *testing.T) {
	a, roots := machines(t)
	v := verifierOver(t, roots)
	c := client{dev: start(t, a, simtpm.Machine{}), kind: simtpm.P256, ca: a.Intermediate().Raw}
	bind := func(spki []byte) attest.Binding { _, b := challenge(t, [][]byte{[]byte("fixed")}); return b }
	old, _ := c.attest(t, tpm2.TPMRHNull, bind)
	if err := c.dev.Reset(simtpm.Boot{}); err != nil {
		t.Fatal(err)
	}
	fresh, _ := c.attest(t, tpm2.TPMRHNull, bind)
	was, err := attest.DecodeTPMEvidence(old.evidence.Body)
	if err != nil {
		t.Fatal(err)
	}
	is, err := attest.DecodeTPMEvidence(fresh.evidence.Body)
	if err != nil {
		t.Fatal(err)
	}
	is.Certified = was.Certified // the old key and its genuine certification, for the same binding
	got, err := v.AuthenticatePending(t.Context(), evidence(t, *is, fresh.evidence.EventLog, c.ca), time.Now())
	wantRefusal(t, got, err, tpm.CheckCertifyClock)
}

// Root suspends the TPM and boots something else: that is a TPM Restart, which keeps
// resetCount and the NULL hierarchy's seed, and starts the registers anew. A copy of the
// key that the agent made does not live on; one without stClear would.
func TestASavedKeyDoesNotOutliveItsMeasuredBootOnASoftwareTPM(t *testing.T) {
	a, _ := machines(t)
	for name, stClear := range map[string]bool{"as it is demanded": true, "without stClear": false} {
		t.Run(name, func(t *testing.T) {
			dev := start(t, a, simtpm.Machine{})
			template := signingTemplate(false)
			template.ObjectAttributes.STClear = stClear
			key, _, _ := primary(t, dev, tpm2.TPMRHNull, template)
			saved, err := tpm2.ContextSave{SaveHandle: key}.Execute(dev)
			if err != nil {
				t.Fatal(err)
			}
			if err := dev.Resume(); err != nil {
				t.Fatal(err)
			}
			r, err := tpm2.ContextLoad{Context: saved.Context}.Execute(dev)
			if err != nil {
				t.Fatalf("after a resume, in the same boot: %v", err)
			}
			flush(t, dev, r.LoadedHandle)
			if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUState}).Execute(dev); err != nil {
				t.Fatal(err)
			}
			if err := dev.PowerCut(simtpm.Boot{Image: "another", SecureBootOff: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := (tpm2.ContextLoad{Context: saved.Context}).Execute(dev); (err != nil) != stClear {
				t.Errorf("in another boot: %v", err)
			}
		})
	}
}

// Below a derivation parent there are a restricted and an unrestricted key that are the
// same key: what the second signs, the first seems to have made. sensitiveDataOrigin
// alone tells them from an AK.
func TestADerivedKeyIsNoAKOnASoftwareTPM(t *testing.T) {
	a, roots := machines(t)
	v := verifierOver(t, roots)
	dev := start(t, a, simtpm.Machine{})
	parent, _, parentName := primary(t, dev, tpm2.TPMRHEndorsement, tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, Decrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
			Scheme:  tpm2.TPMAlgXOR,
			Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgXOR, &tpm2.TPMSSchemeXOR{HashAlg: tpm2.TPMAlgSHA256, KDF: tpm2.TPMAlgKDF1SP800108}),
		}}),
	})
	derive := func(restricted, origin bool) (*tpm2.CreateLoadedResponse, error) {
		p := signingTemplate(restricted)
		p.ObjectAttributes.SensitiveDataOrigin, p.ObjectAttributes.STClear = origin, false
		// TPMS_DERIVE, label and context, looks like a point (Part 2, section 11.1.11).
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("label")}, Y: tpm2.TPM2BECCParameter{Buffer: []byte("context")}})
		return tpm2.CreateLoaded{
			ParentHandle: tpm2.AuthHandle{Handle: parent, Name: parentName, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2BTemplate(&p),
		}.Execute(dev)
	}
	if r, err := derive(true, true); err == nil {
		t.Errorf("the TPM derived a key that it says it made: %x", r.OutPublic.Bytes())
	}
	restricted, err := derive(true, false)
	if err != nil {
		t.Fatal(err)
	}
	unrestricted, err := derive(false, false)
	if err != nil {
		t.Fatal(err)
	}
	if string(spkiOf(t, publicOf(t, restricted.OutPublic.Bytes()))) != string(spkiOf(t, publicOf(t, unrestricted.OutPublic.Bytes()))) {
		t.Fatal("they are different keys: this test shows nothing")
	}
	// A quote that no TPM made, signed by the key that signs anything.
	_, b := challenge(t, [][]byte{[]byte("a key in software")})
	w := newWorld(t)
	forged := w.mint(t, order{extra: b.B[:]}).body
	forged.AKPublic = restricted.OutPublic.Bytes()
	sum := digestOf(forged.Quote)
	s, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: unrestricted.ObjectHandle, Name: unrestricted.Name, Auth: tpm2.PasswordAuth(nil)}, Digest: tpm2.TPM2BDigest{Buffer: sum[:]},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	forged.Signature = tpm2.Marshal(s.Signature)
	got, err := v.AuthenticatePending(t.Context(), evidence(t, forged, nil, a.Intermediate().Raw), time.Now())
	wantRefusal(t, got, err, tpm.CheckAKSensitiveDataOrigin)
	// But for that attribute, all up to the vouching holds.
	forged.AKPublic[7] |= 1 << 5
	got, err = v.AuthenticatePending(t.Context(), evidence(t, forged, nil, a.Intermediate().Raw), time.Now())
	wantRefusal(t, got, err, tpm.CheckEKChain)
}
