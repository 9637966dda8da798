package tpm_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/tpm"
)

// challenge is one with two keys, or with those given.
func challenge(t testing.TB, keys [][]byte) (attest.Challenge, attest.Binding) {
	t.Helper()
	if keys == nil {
		keys = [][]byte{[]byte("first key"), []byte("second key")}
	}
	ch := attest.Challenge{
		Platform: attest.TPM2, TrustDomain: "simulated.example.org", ServerID: "spiffe://simulated.example.org/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Purpose: attest.Boot, PCRBank: "sha256",
	}
	for _, k := range keys {
		ch.Keys = append(ch.Keys, attest.BoundKey{SPKI: k})
	}
	b, err := ch.Binding()
	if err != nil {
		t.Fatal(err)
	}
	return ch, b
}

// exchange answers a second round as the agent does.
func (m minted) exchange(b attest.Binding) verifiers.Exchange {
	return func(_ context.Context, credential []byte) ([]byte, error) {
		secret, err := m.activate(credential)
		if err != nil {
			return nil, err
		}
		return tpm.Proof(secret, b.B), nil
	}
}

func publicECC(t testing.TB, use string) *ecdsa.PublicKey {
	t.Helper()
	return keyOf(t, p256, use).Public().(*ecdsa.PublicKey)
}

func spkiOf(t testing.TB, key any) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// enrol runs all of an attestation through a Set, as the server does.
func enrol(t testing.TB, v *tpm.Verifier, m minted, ch attest.Challenge, x verifiers.Exchange) (*attest.TPM, error) {
	t.Helper()
	s, err := verifiers.NewSet(v)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Verify(t.Context(), m.evidence, ch, x, epoch)
	if err != nil {
		return nil, err
	}
	c := got.Claims()
	if !c.Simulated {
		t.Error("not simulated")
	}
	return c.TPM, nil
}

// What every negative case differs from: without this, a minter that makes nothing
// good would pass them all.
func TestWhatTheNegativeCasesStartFromVerifies(t *testing.T) {
	w := newWorld(t)
	for _, ekKind := range []string{p256, p384, rsa2048} {
		for _, akKind := range []string{p256, p384, rsa2048} {
			for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
				for _, resident := range []int{0, 1, 2} {
					t.Run(ekKind+"/"+akKind, func(t *testing.T) {
						keys := [][]byte{spkiOf(t, keyOf(t, p256, "resident a").Public()), spkiOf(t, keyOf(t, p256, "resident b").Public())}[:max(1, resident)]
						ch, b := challenge(t, keys)
						m := w.mint(t, order{ekKind: ekKind, akKind: akKind, bank: bank, resident: resident, extra: b.B[:], hash: or(map[bool]tpm2.TPMAlgID{true: tpm2.TPMAlgSHA384}[akKind == p384], tpm2.TPMAlgSHA256)})
						ch.PCRBank = map[tpm2.TPMAlgID]string{tpm2.TPMAlgSHA256: "sha256", tpm2.TPMAlgSHA384: "sha384"}[bank]
						c, err := enrol(t, w.verifier(t), m, ch, m.exchange(b))
						if err != nil {
							t.Fatal(err)
						}
						if c.AKTrust != attest.AKActivated || c.EKCertificate.Manufacturer != "id:41535359" || c.EKCertificate.Issuer != "Maker Root" || c.Clock.ResetCount != 7 || c.Clock.Firmware != testFirmware || len(c.PCRs) != 16 || !c.Safe {
							t.Errorf("%+v", c)
						}
						residency := map[bool]string{true: attest.ResidentTPM, false: attest.ResidentSoftware}[resident > 0]
						if c.KeyResidency != residency || len(c.Certified) != resident {
							t.Errorf("residency %s, %d keys", c.KeyResidency, len(c.Certified))
						}
					})
				}
			}
		}
	}
}

func TestOtherGoodEvidenceVerifies(t *testing.T) {
	w := newWorld(t)
	for name, o := range map[string]order{
		"RSAPSS":                                {akKind: rsa2048, pss: true},
		"SHA-512 signature":                     {akKind: rsa2048, hash: tpm2.TPMAlgSHA512},
		"an EK certificate from padded NV":      {ekDER: func(b []byte) []byte { return append(b, make([]byte, 500)...) }},
		"a quote over resettable registers too": {selected: upTo(23)},
		"resident RSA key":                      {resident: 1, residentKind: rsa2048},
		"resident key on P-384":                 {resident: 1, residentKind: p384},
		"the root along":                        {endorsements: [][]byte{w.maker.root.Raw, w.google.issuer.Raw, w.maker.issuer.Raw}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := w.verifier(t).AuthenticatePending(t.Context(), w.mint(t, o).evidence, epoch)
			if err != nil {
				t.Fatal(err)
			}
			if c.TPM.AKTrust != "" {
				t.Errorf("trusted by %q before it is activated", c.TPM.AKTrust)
			}
			if _, ok := c.TPM.PCRs[16]; ok || len(c.TPM.PCRs) != 16 {
				t.Errorf("%d registers are claims", len(c.TPM.PCRs))
			}
			if (c.TPM.Clock == nil) != (o.hierarchy == 1) {
				t.Errorf("clock %+v", c.TPM.Clock)
			}
		})
	}
}

func TestACloudsCertificateVouchesForAnAKWithoutASecondRound(t *testing.T) {
	w := newWorld(t)
	for name, o := range map[string]order{
		"Google": {noEK: true, cloud: w.google}, "Azure": {noEK: true, cloud: w.azure, azure: true},
		"primary of the owner": {noEK: true, cloud: w.google, hierarchy: uint32(tpm2.TPMRHOwner)},
	} {
		t.Run(name, func(t *testing.T) {
			ch, b := challenge(t, nil)
			o.extra = b.B[:]
			m := w.mint(t, o)
			v := w.verifier(t)
			c, err := enrol(t, v, m, ch, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := &attest.CloudInstance{Provider: tpm.GCE, ProjectID: "a-project", ProjectNumber: 42, Zone: "us-central1-a", InstanceID: "4711", InstanceName: "a-machine"}
			if o.azure {
				want = &attest.CloudInstance{Provider: tpm.Azure, InstanceID: "0123456789ab.TrustedVM"}
			}
			if diff := cmp.Diff(want, c.Cloud); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if c.AKTrust != attest.AKCertificate || c.EK != nil || (c.Clock == nil) != (o.hierarchy != 0) {
				t.Errorf("%+v", c)
			}
			if diff := cmp.Diff(c, accept(t, v, m.evidence, epoch).TPM); diff != "" {
				t.Errorf("offline (-attestation +offline):\n%s", diff)
			}
		})
	}
}

// An EK beside a certified AK is a claim only when a second round has tied them.
func TestAnEKBesideACloudsCertificateIsAClaimOnlyWhenActivated(t *testing.T) {
	w := newWorld(t)
	ch, b := challenge(t, nil)
	m := w.mint(t, order{cloud: w.google, extra: b.B[:]})
	v := w.verifier(t)
	if c := accept(t, v, m.evidence, epoch).TPM; c.EK != nil || c.EKCertificate != nil || c.AKTrust != attest.AKCertificate {
		t.Errorf("offline: %+v", c)
	}
	if c, err := enrol(t, v, m, ch, nil); c != nil || attest.CheckOf(err) != tpm.CheckAKUnactivated {
		t.Errorf("without a second round: %v", err)
	}
	c, err := enrol(t, v, m, ch, m.exchange(b))
	if err != nil || c.EK == nil || c.EKCertificate == nil || c.Cloud == nil || c.AKTrust != attest.AKActivated {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestTheInventoryVouchesForAnEKWithoutACertificate(t *testing.T) {
	w := newWorld(t)
	ch, b := challenge(t, nil)
	stranger := newAuthority(t, "Stranger", "stranger", nil)
	for name, o := range map[string]order{
		"no certificate": {noEKCert: true}, "a maker that is not known": {issuer: stranger},
		"a certificate without its usage": {ekCertificate: func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }},
		"a certificate without names":     {ekCertificate: func(c *x509.Certificate) { c.ExtraExtensions, c.Subject.CommonName = nil, "x" }},
	} {
		t.Run(name, func(t *testing.T) {
			o.extra = b.B[:]
			m := w.mint(t, o)
			ek := digestOf(spkiOf(t, m.ek.Public()))
			v := w.verifier(t, tpm.WithInventory(tpm.MemoryInventory{ek: "rack 7"}))
			c, err := enrol(t, v, m, ch, m.exchange(b))
			if err != nil {
				t.Fatal(err)
			}
			if c.EKInventory != "rack 7" || c.EKCertificate != nil || !slices.Equal(c.EK, ek[:]) {
				t.Errorf("%+v", c)
			}
			other := w.verifier(t, tpm.WithInventory(tpm.MemoryInventory{{1}: "rack 7"}))
			if got, err := enrol(t, other, m, ch, m.exchange(b)); got != nil || attest.KindOf(err) != attest.Untrusted {
				t.Errorf("an EK that is not in it: %v", err)
			}
		})
	}
	m := w.mint(t, order{extra: b.B[:]})
	v := w.verifier(t, tpm.WithInventory(tpm.MemoryInventory{digestOf(spkiOf(t, m.ek.Public())): "rack 7"}))
	for check, o := range map[string]order{
		tpm.CheckEKCertificateKey: {body: func(e *attest.TPMEvidence) { e.EKCertificate = w.mint(t, order{ekKind: rsa2048}).body.EKCertificate }},
		tpm.CheckEKChain:          {ekDER: flipLast},
		tpm.CheckEKChainValidity:  {ekCertificate: func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) }},
	} {
		got, err := v.AuthenticatePending(t.Context(), w.mint(t, o).evidence, epoch)
		wantRefusal(t, got, err, check)
	}
	if c, err := enrol(t, v, m, ch, m.exchange(b)); err != nil || c.EKInventory != "rack 7" || c.EKCertificate == nil {
		t.Errorf("with both: %+v, %v", c, err)
	}
}
