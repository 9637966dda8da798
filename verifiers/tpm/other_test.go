package tpm_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

func TestAWrongEventLogIsRefused(t *testing.T) {
	good := attestationEvidence(t, moduleAttestation(t, "gce-cos-85-no-nonce"), tpm2.TPMAlgSHA256)
	accept(t, hardware(t), good, cosTime)
	body, err := attest.DecodeTPMEvidence(good.Body)
	if err != nil {
		t.Fatal(err)
	}
	// Byte 120 is in the digests of the first event behind the header.
	for name, change := range map[string]func([]byte) []byte{
		"a digest changed": func(log []byte) []byte {
			log[120] ^= 1
			return log
		},
		"events left out": func(log []byte) []byte { return log[:len(log)/4] },
	} {
		t.Run(name, func(t *testing.T) {
			log := change(bytes.Clone(good.EventLog))
			sum := digestOf(log)
			changed := *body
			changed.EventLogDigest = sum[:]
			got, err := hardware(t).Authenticate(t.Context(), evidence(t, changed, log, good.Endorsements...), cosTime)
			if c := attest.CheckOf(err); got != nil || c != tpm.CheckEventLogReplay && c != tpm.CheckEventLogStructure {
				t.Errorf("%v", err)
			}
			t.Log(err)
		})
	}
	// The log of another machine's boot: whole, and it replays to other registers.
	log := other(t)
	sum := digestOf(log)
	changed := *body
	changed.EventLogDigest = sum[:]
	got, err := hardware(t).Authenticate(t.Context(), evidence(t, changed, log, good.Endorsements...), cosTime)
	wantRefusal(t, got, err, tpm.CheckEventLogReplay)
}

func TestInspectShowsEvidenceWithoutBelievingIt(t *testing.T) {
	w := newWorld(t)
	m := w.mint(t, order{cloud: w.google, resident: 1, akKind: rsa2048})
	u, err := tpm.Inspect(m.evidence)
	if err != nil || u.Malformed != nil {
		t.Fatal(err, u)
	}
	want := &tpm.UnverifiedQuote{
		Selection: map[string][]int{"SHA-256": upTo(15)}, PCRDigest: u.Quote.PCRDigest, ExtraData: bytes.Repeat([]byte{0xb1}, 32), QualifiedSigner: u.Quote.QualifiedSigner,
		Clock: 123456, ResetCount: 7, Firmware: testFirmware, Safe: true,
	}
	if diff := cmp.Diff(want, u.Quote); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if u.Signature != "RSASSA with SHA-256" || u.AK.Type != "RSA-2048" || u.EK.Type != "P-256" || u.EK.Scheme != "none" || u.EKCertificate.TPM.Model != "Test" || u.AKCertificate.Instance.ProjectID != "a-project" || len(u.Certified) != 1 || len(u.Endorsements) != 2 || len(u.PCRs) != 16 {
		t.Errorf("%+v", u)
	}
	for _, c := range quoteCases(t) {
		if kindOf(t, c.check) != attest.Malformed {
			continue
		}
		u, err := tpm.Inspect(w.mint(t, c.o).evidence)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if attest.CheckOf(u.Malformed) != c.check {
			t.Errorf("%s: %v", c.name, u.Malformed)
		}
	}
	if u, err := tpm.Inspect(attest.Evidence{Body: []byte("garbage")}); u != nil || attest.CheckOf(err) != tpm.CheckBody {
		t.Errorf("%v, %v", u, err)
	}
	bad := w.mint(t, order{ekDER: func([]byte) []byte { return []byte("garbage") }})
	if u, err := tpm.Inspect(bad.evidence); err != nil || u.EKCertificate.Problem == "" {
		t.Errorf("%v, %v", u, err)
	}
}

func TestACacheRemembersOnlyWhatVerified(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithCacheSize(4))
	for _, c := range []order{{signature: flipLast}, {noEKCert: true}, {resident: 1, keyHierarchy: 1}} {
		if _, err := v.AuthenticatePending(t.Context(), w.mint(t, c).evidence, epoch); err == nil {
			t.Fatal("verified")
		}
	}
	if s := v.CacheStats(); s.Keys != 0 || s.Certificates != 0 || s.EventLogs != 0 || s.Size != 4 {
		t.Errorf("after refusals: %+v", s)
	}
	// Beside another's EK and its certificate, an AK can be anybody's: nothing is
	// remembered before it is activated, nor when that fails.
	ch, b := challenge(t, nil)
	m := w.mint(t, order{extra: b.B[:]})
	good := m.evidence
	if _, err := enrol(t, v, m, ch, nil); err == nil {
		t.Fatal("verified")
	}
	if _, err := v.AuthenticatePending(t.Context(), good, epoch); err != nil {
		t.Fatal(err)
	}
	if s := v.CacheStats(); s.Keys != 0 || s.Certificates != 0 {
		t.Errorf("before it is activated: %+v", s)
	}
	run := func(m minted) {
		t.Helper()
		if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
			t.Fatal(err)
		}
	}
	var before tpm.CacheStats
	for i := range 3 {
		run(m)
		s := v.CacheStats()
		if i > 0 && s.Signatures != before.Signatures {
			t.Errorf("a known certificate cost %d signatures", s.Signatures-before.Signatures)
		}
		before = s
	}
	if before.Keys != 2 || before.Certificates != 1 || before.Hits != 2 || before.Size != 4 {
		t.Errorf("%+v", before)
	}
	// At a time at which its chain is not valid, a known certificate is refused.
	got, err := v.AuthenticatePending(t.Context(), good, validUntil.AddDate(1, 0, 0))
	wantRefusal(t, got, err, tpm.CheckEKChainValidity)
	// A remembered AK with another quote is another quote.
	got, err = v.AuthenticatePending(t.Context(), w.mint(t, order{signature: flipLast}).evidence, epoch)
	wantRefusal(t, got, err, tpm.CheckQuoteSignature)
	for _, kind := range []string{p384, rsa2048} {
		for _, ek := range []string{p256, p384, rsa2048} {
			run(w.mint(t, order{akKind: kind, ekKind: ek, extra: b.B[:]}))
		}
	}
	if s := v.CacheStats(); s.Keys > 4 || s.Certificates > 4 || s.Evictions == 0 {
		t.Errorf("it grew: %+v", s)
	}
	none := w.verifier(t, tpm.WithCacheSize(0))
	if _, err := none.AuthenticatePending(t.Context(), good, epoch); err != nil || none.CacheStats().Keys != 0 {
		t.Errorf("without a cache: %+v, %v", none.CacheStats(), err)
	}
}

// A remembered EK certificate must not vouch for another EK.
func TestAKnownCertificateIsForItsKeyOnly(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	ch, b := challenge(t, nil)
	good := w.mint(t, order{extra: b.B[:]})
	if _, err := enrol(t, v, good, ch, good.exchange(b)); err != nil {
		t.Fatal(err)
	}
	got, err := v.AuthenticatePending(t.Context(), w.mint(t, order{ekKind: rsa2048, body: func(e *attest.TPMEvidence) { e.EKCertificate = good.body.EKCertificate }}).evidence, epoch)
	wantRefusal(t, got, err, tpm.CheckEKCertificateKey)
	certified := w.mint(t, order{noEK: true, cloud: w.google})
	accept(t, v, certified.evidence, epoch)
	got, err = v.Authenticate(t.Context(), w.mint(t, order{noEK: true, akKind: rsa2048, cloud: w.google, body: func(e *attest.TPMEvidence) { e.AKCertificate = certified.body.AKCertificate }}).evidence, epoch)
	wantRefusal(t, got, err, tpm.CheckAKCertificateKey)
	// Nor does an EK's certificate vouch as an AK's, though both are remembered.
	got, err = v.Authenticate(t.Context(), w.mint(t, order{noEK: true, body: func(e *attest.TPMEvidence) { e.AKCertificate = good.body.EKCertificate }}).evidence, epoch)
	wantRefusal(t, got, err, tpm.CheckAKCertificateKey)
}

func TestRootsAreOfOneKind(t *testing.T) {
	w := newWorld(t)
	if r := tpm.HardwareRoots(); r.Simulated() || len(r.List()) != 4 {
		t.Errorf("%+v", r.List())
	}
	for _, root := range tpm.HardwareRoots().List() {
		if root.Known == "" {
			t.Errorf("%s is not in the table of known roots", root.Subject)
		}
	}
	google := googleRoots(t)
	for name, f := range map[string]func() (tpm.Roots, error){
		"hardware's roots as simulated":          func() (tpm.Roots, error) { return tpm.SimulatedRoots(google) },
		"hardware's roots beside simulated ones": func() (tpm.Roots, error) { return w.roots(t).WithCloud(tpm.GCE, google) },
		"no root":                                func() (tpm.Roots, error) { return tpm.SimulatedRoots(nil) },
		"a sentence":                             func() (tpm.Roots, error) { return tpm.SimulatedRoots([]byte("no certificate")) },
		"an intermediate alone":                  func() (tpm.Roots, error) { return tpm.SimulatedRoots(pemOf(w.maker.issuer)) },
		"a cloud that is not known":              func() (tpm.Roots, error) { return w.roots(t).WithCloud("aws", pemOf(w.google.root)) },
		"a leaf": func() (tpm.Roots, error) {
			c, err := parseCertificate(w.mint(t, order{}).body.EKCertificate)
			if err != nil {
				t.Fatal(err)
			}
			return tpm.SimulatedRoots(pemOf(w.maker.root, w.maker.issuer, c))
		},
	} {
		if r, err := f(); err == nil {
			t.Errorf("%s: %+v", name, r.List())
		}
	}
	if _, err := tpm.New(tpm.Roots{}); err == nil {
		t.Error("no roots were accepted")
	}
	if _, err := tpm.New(w.roots(t), tpm.WithCacheSize(-1)); err == nil {
		t.Error("a negative cache was accepted")
	}
	if _, err := tpm.New(w.roots(t), tpm.WithTrustedAK("a name")); err == nil {
		t.Error("a trusted AK that is no key was accepted")
	}
}

func TestAnOperatorsDirectoryAddsRoots(t *testing.T) {
	w := newWorld(t)
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }
	good := fstest.MapFS{
		"README.md": file([]byte("where they are from")), "ek/maker.pem": file(pemOf(w.maker.issuer, w.maker.root)), "gce/cloud.cer": file(w.google.root.Raw), "gce/below.crt": file(pemOf(w.google.issuer)),
	}
	r, err := tpm.HardwareRoots().WithDirectory(good)
	if err != nil {
		t.Fatal(err)
	}
	if r.Simulated() || len(r.List()) != 6 {
		t.Errorf("%+v", r.List())
	}
	// The intermediates need not come along then.
	v := verifierOver(t, r)
	if _, err := v.AuthenticatePending(t.Context(), w.mint(t, order{endorsements: [][]byte{}}).evidence, epoch); err != nil {
		t.Error(err)
	}
	accept(t, v, w.mint(t, order{noEK: true, cloud: w.google, endorsements: [][]byte{}}).evidence, epoch)
	for name, dir := range map[string]fstest.MapFS{
		"nothing":             {},
		"another directory":   {"roots/maker.pem": good["ek/maker.pem"]},
		"a file outside":      {"maker.pem": good["ek/maker.pem"]},
		"a directory deeper":  {"ek/old/maker.pem": good["ek/maker.pem"]},
		"another kind":        {"ek/maker.p7b": good["ek/maker.pem"]},
		"an empty file":       {"ek/maker.pem": file(nil)},
		"a broken file":       {"ek/maker.der": file([]byte{0x30, 1})},
		"a key":               {"ek/key.pem": file([]byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"))},
		"no root for purpose": {"ek/maker.pem": file(pemOf(w.maker.issuer)), "gce/root.pem": file(pemOf(w.maker.root))},
	} {
		if r, err := tpm.HardwareRoots().WithDirectory(dir); err == nil {
			t.Errorf("%s: %+v", name, r.List())
		}
	}
}

// Names cost a stranger nothing: what they can make a verification cost is bounded.
func TestEndorsementsThatLeadInCirclesCostLittle(t *testing.T) {
	w := newWorld(t)
	named := func(subject, issuer string, serial int64) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"A test of Assay"}, CommonName: subject}, NotBefore: validFrom, NotAfter: validUntil,
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		parent := *c
		parent.Subject.CommonName = issuer
		return issue(t, c, &parent, keyOf(t, p256, "circle").Public(), keyOf(t, p256, "circle")).Raw
	}
	var circle, lookalikes [][]byte
	for i := range int64(8) {
		circle = append(circle, named("Maker Issuing CA", "Maker Other CA", i+1), named("Maker Other CA", "Maker Issuing CA", i+100))
		lookalikes = append(lookalikes, named("Maker Issuing CA", "Maker Root", i+1), named("Maker Issuing CA", "Maker Root", i+100))
	}
	for name, along := range map[string][][]byte{"a circle": circle, "sixteen issuers of the right name": lookalikes} {
		v := w.verifier(t)
		got, err := v.AuthenticatePending(t.Context(), w.mint(t, order{endorsements: along}).evidence, epoch)
		wantRefusal(t, got, err, tpm.CheckEKChain)
		if n := v.CacheStats().Signatures; n > 8 {
			t.Errorf("%s: %d signatures were verified", name, n)
		}
	}
}
