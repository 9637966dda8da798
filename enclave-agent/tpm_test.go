package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// bindingOf is a binding over software keys, or over the given ones.
func bindingOf(t testing.TB, keys ...crypto.Signer) attest.Binding {
	t.Helper()
	if len(keys) == 0 {
		keys = []crypto.Signer{newKey(t)}
	}
	c := attest.Challenge{
		Platform: attest.TPM2, TrustDomain: testDomain.Name(), ServerID: "spiffe://" + testDomain.Name() + "/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Purpose: attest.Boot,
	}
	for _, k := range keys {
		c.Keys = append(c.Keys, attest.BoundKey{SPKI: must(x509.MarshalPKIXPublicKey(k.Public()))})
	}
	return must(c.Binding())
}

// quoted checks a quote with nothing of the agent's own: signature, qualifyingData
// and registers. It returns what was signed.
func quoted(t testing.TB, ev attest.Evidence, b [32]byte) (*attest.TPMEvidence, *tpm2.TPMSAttest) {
	t.Helper()
	if ev.Platform != attest.TPM2 {
		t.Fatalf("platform %q", ev.Platform)
	}
	body := must(attest.DecodeTPMEvidence(ev.Body))
	about := must(tpm2.Unmarshal[tpm2.TPMSAttest](body.Quote))
	if !bytes.Equal(about.ExtraData.Buffer, b[:]) {
		t.Fatal("qualifyingData is not B")
	}
	signed(t, body.AKPublic, body.Quote, body.Signature)
	q := must(about.Attested.Quote())
	h := sha256.New()
	for i := range uint32(24) {
		h.Write(body.PCRs[i])
	}
	if !bytes.Equal(h.Sum(nil), q.PCRDigest.Buffer) {
		t.Fatal("the registers are not those of the quote")
	}
	return body, about
}

func signed(t testing.TB, area, message, signature []byte) {
	t.Helper()
	sig := must(tpm2.Unmarshal[tpm2.TPMTSignature](signature))
	sum := sha256.Sum256(message)
	switch pub := must(publicKey(area)).(type) {
	case *ecdsa.PublicKey:
		s := must(sig.Signature.ECDSA())
		if !ecdsa.Verify(pub, sum[:], bigInt(s.SignatureR.Buffer), bigInt(s.SignatureS.Buffer)) {
			t.Fatal("the signature does not verify")
		}
	case *rsa.PublicKey:
		s := must(sig.Signature.RSASSA())
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], s.Sig.Buffer); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("a key of type %T", pub)
	}
}

func TestATPMQuotesTheRegistersThatTheChallengeNames(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	m.do(func(s *tpmSession) error { // a boot that measured something
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 7, Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: tpm2.TPMAlgSHA256, Digest: bytes.Repeat([]byte{7}, 32)}, {HashAlg: tpm2.TPMAlgSHA384, Digest: bytes.Repeat([]byte{7}, 48)},
			}},
		}.Execute(s)
		return err
	})
	tpm, want := m.attester(TPMOptions{}), bindingOf(t)
	for name, over := range map[string]PCRSelection{
		"all":     DefaultPCRs(),
		"one":     {Bank: "sha256", PCRs: []int{7}},
		"sha384":  {Bank: "sha384", PCRs: []int{0, 7, 14}},
		"the end": {Bank: "sha384", PCRs: []int{15}},
	} {
		body, about := quoted(t, must(tpm.Quote(t.Context(), want, over, nil)), want.B)
		sel := must(about.Attested.Quote()).PCRSelect.PCRSelections
		if len(sel) != 1 || len(body.PCRs) != len(over.PCRs) {
			t.Fatalf("%s: %d selections, %d registers", name, len(sel), len(body.PCRs))
		}
		if got := selected(must(about.Attested.Quote()).PCRSelect, sel[0].Hash, DefaultPCRs().PCRs); !equal(got, over.PCRs) {
			t.Errorf("%s: quoted %v", name, got)
		}
		if size := map[string]int{"sha256": 32, "sha384": 48}[over.Bank]; sel[0].Hash != over.alg() || len(body.PCRs[uint32(over.PCRs[0])]) != size {
			t.Errorf("%s: bank %v", name, sel[0].Hash)
		}
	}
	h := sha512.New384()
	h.Write(make([]byte, 48))
	h.Write(bytes.Repeat([]byte{7}, 48))
	body, _ := quoted(t, must(tpm.Quote(t.Context(), want, PCRSelection{Bank: "sha384", PCRs: []int{7}}, nil)), want.B)
	if !bytes.Equal(body.PCRs[7], h.Sum(nil)) {
		t.Error("PCR 7 is not what was measured into it")
	}
}

func TestTheAttestationKeyIsARestrictedPrimaryOfTheEndorsementHierarchy(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	for _, kind := range []TPMKeyKind{"", TPMP256, TPMRSA2048} {
		want := bindingOf(t)
		body, about := quoted(t, must(m.attester(TPMOptions{AK: kind}).Evidence(t.Context(), want)), want.B)
		pub := must(tpm2.Unmarshal[tpm2.TPMTPublic](body.AKPublic))
		a := pub.ObjectAttributes
		if !a.Restricted || !a.SignEncrypt || a.Decrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
			t.Errorf("%q: attributes %+v", kind, a)
		}
		if rsa := pub.Type == tpm2.TPMAlgRSA; rsa != (kind == TPMRSA2048) {
			t.Errorf("%q: a key of type %v", kind, pub.Type)
		}
		// Part 1, section 26.5: the qualified name ends in the hierarchy.
		name := must(tpm2.ObjectName(pub)).Buffer
		if q := qualified(tpm2.TPMRHEndorsement, name); !bytes.Equal(q, about.QualifiedSigner.Buffer) {
			t.Errorf("%q: the quote's signer is not a primary of the endorsement hierarchy", kind)
		}
		again := must(attest.DecodeTPMEvidence(must(m.attester(TPMOptions{AK: kind}).Evidence(t.Context(), want)).Body))
		if !bytes.Equal(again.AKPublic, body.AKPublic) || !bytes.Equal(again.EKPublic, body.EKPublic) {
			t.Errorf("%q: another process makes other keys", kind)
		}
	}
}

func qualified(hierarchy tpm2.TPMHandle, name []byte) []byte {
	sum := sha256.Sum256(append(tpm2.PrimaryHandleName(hierarchy), name...))
	return append([]byte{0, 0x0b}, sum[:]...)
}

func TestTheEndorsementKeyIsTheOneOfTheCertificateAndPaddingIsCut(t *testing.T) {
	t.Parallel()
	for _, kind := range ekTemplates() {
		m := newTPM2(t)
		ca := newEKAuthority(t)
		cert := ca.certify(m, kind, 300)
		var chain []byte
		between := newAuthority(t, "intermediate")
		chain = append(append(chain, between.cert.Raw...), ca.cert.Raw...)
		m.store(tpmChainFirst, chain[:700], 0)
		m.store(tpmChainFirst+1, chain[700:], 64)
		want := bindingOf(t)
		ev := must(m.attester(TPMOptions{EK: kind.kind}).Evidence(t.Context(), want))
		body, _ := quoted(t, ev, want.B)
		if !bytes.Equal(body.EKCertificate, cert.Raw) {
			t.Errorf("%s at %08x: the certificate is not the one in NV", kind.kind, uint32(kind.certificate))
		}
		if !isKey(body.EKPublic, cert.PublicKey) {
			t.Errorf("%s: the public area is of another key", kind.kind)
		}
		if len(ev.Endorsements) != 2 || !bytes.Equal(ev.Endorsements[0], between.cert.Raw) || !bytes.Equal(ev.Endorsements[1], ca.cert.Raw) {
			t.Errorf("%s: %d certificates of the manufacturer", kind.kind, len(ev.Endorsements))
		}
		if n := m.transient(); n != 0 {
			t.Errorf("%d objects are left in the TPM", n)
		}
	}
}

func TestACertificateForAnotherKeyIsPassedOver(t *testing.T) {
	t.Parallel()
	m, ca := newTPM2(t), newEKAuthority(t)
	all := ekTemplates()
	m.store(all[0].certificate, ca.leaf(t, otherKey()).Raw, 0)
	m.store(all[1].certificate, []byte("no certificate"), 0)
	good := ca.certify(m, all[2], 0)
	want := bindingOf(t)
	body, _ := quoted(t, must(m.attester(TPMOptions{}).Evidence(t.Context(), want)), want.B)
	if !bytes.Equal(body.EKCertificate, good.Raw) || !isKey(body.EKPublic, good.PublicKey) {
		t.Error("it is not the key of the third certificate, which is good")
	}
}

// Whoever keeps the endorsement key in the TPM may also remove it.
func TestAPersistentEndorsementKeyIsUsedWhileItIsThere(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	newEKAuthority(t).certify(m, ekTemplates()[3], 0)
	const at = tpm2.TPMHandle(0x81010001)
	m.do(func(s *tpmSession) error {
		k, err := s.createPrimary(tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate)
		if err != nil {
			return err
		}
		return evict(s, k, at)
	})
	tpm, want, secret := m.attester(TPMOptions{}), bindingOf(t), []byte("secret")
	body, _ := quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	if tpm.id.ek.persistent != at {
		t.Error("the key was made again")
	}
	c := must(credential(body.EKPublic, body.AKPublic, secret))
	for range 2 {
		if !proved(must(tpm.Activate(t.Context(), c, want)), secret, want.B) {
			t.Error("no proof")
		}
		m.do(func(s *tpmSession) error {
			r, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(s)
			if err != nil {
				return nil // it was removed already
			}
			return evict(s, tpmKey{handle: at, name: r.Name}, at)
		})
	}
	if tpm.id.ek.persistent != 0 || m.transient() != 0 {
		t.Error("the key that was removed is still used, or objects are left")
	}
}

func evict(s *tpmSession, k tpmKey, at tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{
		Auth:         tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle: &tpm2.NamedHandle{Handle: k.handle, Name: k.name}, PersistentHandle: at,
	}.Execute(s)
	return err
}

// withoutECC is a TPM that knows nothing of elliptic curves.
type withoutECC struct{ tpmConn }

func (w withoutECC) exchange(ctx context.Context, command []byte) ([]byte, error) {
	const getCapability, curves = "\x00\x00\x01\x7a", "\x00\x00\x00\x08"
	if string(command[6:10]) == getCapability && string(command[10:14]) == curves {
		return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0x01, 0xc4}, nil // TPM_RC_VALUE, parameter 1
	}
	return w.tpmConn.exchange(ctx, command)
}

func TestATPMWithoutEllipticCurvesAttestsWithRSA(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	newEKAuthority(t).certify(m, ekTemplates()[0], 0) // which it could not use
	old := newTPM(m.socket, func(ctx context.Context) (tpmConn, error) {
		c, err := openTPMSocket(m.socket)(ctx)
		return withoutECC{c}, err
	}, TPMOptions{EventLog: NoEventLog})
	want := bindingOf(t)
	body, _ := quoted(t, must(old.Evidence(t.Context(), want)), want.B)
	for name, area := range map[string][]byte{"AK": body.AKPublic, "EK": body.EKPublic} {
		if _, ok := must(publicKey(area)).(*rsa.PublicKey); !ok {
			t.Errorf("the %s is no RSA key", name)
		}
	}
	if body.EKCertificate != nil {
		t.Error("a certificate for another key was sent")
	}
	old.options.EK, old.id = TPMP256, nil
	_, err := old.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Internal, "tpm")
	if !strings.Contains(asError(err).Hint, "tpm.ek") {
		t.Errorf("hint %q", asError(err).Hint)
	}
}

func TestASealedKeyOfAnotherTPMIsNotLoadedThere(t *testing.T) {
	t.Parallel()
	a, b := newTPM2(t), newTPM2(t)
	theirs, ours, want := a.attester(TPMOptions{}), b.attester(TPMOptions{}), bindingOf(t)
	before, _ := quoted(t, must(theirs.Evidence(t.Context(), want)), want.B)
	key := must(theirs.NewKey(t.Context())).(*residentKey)
	stolen := &residentKey{tpm: ours, public: key.public, saved: key.saved}
	sum := sha256.Sum256(nil)
	_, err := stolen.Sign(nil, sum[:], crypto.SHA256)
	wantCheck(t, err, attest.Stale, checkKeyGone)
	ours.id = theirs.id // the saved attestation key, in the wrong machine
	after, _ := quoted(t, must(ours.Evidence(t.Context(), want)), want.B)
	if bytes.Equal(before.AKPublic, after.AKPublic) || bytes.Equal(before.EKPublic, after.EKPublic) {
		t.Error("one TPM quotes as another")
	}
}

func TestATPMThatWasClearedKeepsItsNamesAndIsUsedOn(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	tpm, want := m.attester(TPMOptions{}), bindingOf(t)
	before, _ := quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	m.clear()
	after, about := quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	if !bytes.Equal(before.EKPublic, after.EKPublic) || !bytes.Equal(before.AKPublic, after.AKPublic) {
		t.Error("the keys have changed")
	}
	if about.ClockInfo.ResetCount != 0 {
		t.Errorf("reset count %d", about.ClockInfo.ResetCount)
	}
	m.reset()
	again, about := quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	if !bytes.Equal(before.AKPublic, again.AKPublic) || about.ClockInfo.ResetCount != 1 {
		t.Errorf("after a reset: reset count %d", about.ClockInfo.ResetCount)
	}
}

func TestCollectedEvidenceCarriesTheNonceUnderItsOwnTag(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	tpm := m.attester(TPMOptions{})
	quoted(t, must(tpm.Collect(t.Context(), []byte("nonce"))), must(attest.CollectedBinding([]byte("nonce"))))
	_, err := tpm.Collect(t.Context(), nil)
	wantCheck(t, err, attest.Malformed, "challenge")
}

func TestProbeSaysWhoseTPMItIs(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	newEKAuthority(t).certify(m, ekTemplates()[0], 0)
	got := must(m.attester(TPMOptions{}).Probe(t.Context()))
	for _, want := range []string{m.socket, "TPM 2.0", "EK ecc-p256 certified by", "EK CA", "AK ecc-p256", "no event log"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

func TestABankThatTheTPMDoesNotHaveIsNamed(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	m.do(func(s *tpmSession) error {
		_, err := tpm2PCRAllocate(s, tpm2.TPMAlgSHA256)
		return err
	})
	m.reset()
	tpm := m.attester(TPMOptions{})
	_, err := tpm.Quote(context.Background(), bindingOf(t), PCRSelection{Bank: "sha384", PCRs: []int{0}}, nil)
	wantCheck(t, err, attest.Internal, "tpm")
	if !strings.Contains(err.Error(), "bank of PCRs: sha384") || !strings.Contains(asError(err).Hint, "firmware") {
		t.Errorf("got %v", err)
	}
	must(tpm.Evidence(t.Context(), bindingOf(t)))
}
