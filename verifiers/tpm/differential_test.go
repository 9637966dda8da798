package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/quote"
	"github.com/google/go-tpm-tools/server"
	legacy "github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// libraryQuote verifies the quote of a body with go-tpm-tools, over the AK of its
// public area, and for the nonce that it carries.
func libraryQuote(t testing.TB, e attest.TPMEvidence) error {
	t.Helper()
	area, err := legacy.DecodePublic(e.AKPublic)
	if err != nil {
		return err
	}
	key, err := area.Key()
	if err != nil {
		return err
	}
	q, err := tpm2.Unmarshal[tpm2.TPMSAttest](e.Quote)
	if err != nil {
		return err
	}
	return libraryQuoteBy(e, key, q.ExtraData.Buffer)
}

func libraryQuoteBy(e attest.TPMEvidence, key crypto.PublicKey, nonce []byte) error {
	bank := tpmpb.HashAlgo_SHA256
	for _, v := range e.PCRs {
		if len(v) == 48 {
			bank = tpmpb.HashAlgo_SHA384
		}
	}
	return quote.Verify(&tpmpb.Quote{Quote: e.Quote, RawSig: e.Signature, Pcrs: &tpmpb.PCRs{Hash: bank, Pcrs: e.PCRs}}, key, nonce)
}

// The library does not verify RSAPSS: what is admitted here with it is compared
// with nothing.
func pssSigned(e attest.TPMEvidence) bool {
	return bytes.HasPrefix(e.Signature, []byte{0, 0x16})
}

func TestWeAdmitNothingThatTheLibraryRefuses(t *testing.T) {
	w := newWorld(t)
	admitted, refused, pss, more := 0, 0, 0, make(map[string]int)
	compare := func(t *testing.T, v *tpm.Verifier, o order) {
		t.Helper()
		m := w.mint(t, o)
		_, err := v.AuthenticatePending(t.Context(), m.evidence, epoch)
		library := libraryQuote(t, m.body)
		switch {
		case err == nil && library == nil:
			admitted++
		case err == nil && pssSigned(m.body):
			pss++
		case err == nil:
			t.Errorf("we admit what the library refuses: %v", library)
		case library == nil:
			refused++
			more[attest.CheckOf(err)]++
		default:
			refused++
		}
	}
	for _, ek := range []string{p256, p384, rsa2048} {
		for _, ak := range []string{p256, p384, rsa2048} {
			for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
				compare(t, w.verifier(t), order{ekKind: ek, akKind: ak, bank: bank})
				compare(t, w.verifier(t), order{ekKind: ek, akKind: ak, bank: bank, resident: 1, selected: []int{0, 7, 14, 23}})
			}
		}
	}
	compare(t, w.verifier(t), order{akKind: rsa2048, pss: true})
	for _, c := range slices.Concat(quoteCases(t), endorsementCases(t, w), residentCases(t)) {
		compare(t, w.verifier(t), c.o)
	}
	if admitted < 36 || refused < 120 || pss != 1 {
		t.Errorf("%d admitted, %d refused: the comparison shows little", admitted, refused)
	}
	t.Logf("%d admitted by both, %d refused here; of those the library passes the quote of: %s", admitted, refused, checktest.Tally(more))
	t.Run("recorded", func(t *testing.T) {
		for _, r := range recordings(t) {
			v := hardware(t, tpm.WithTrustedAK(r.key))
			_, err := v.Authenticate(t.Context(), evidence(t, r.body, nil), r.at)
			if library := libraryQuote(t, r.body); err == nil && library != nil {
				t.Errorf("%s: we admit what the library refuses: %v", r.name, library)
			}
		}
	})
}

// gceRoots are the roots in the library's words.
func gceRoots(t testing.TB) server.VerifyOpts {
	t.Helper()
	var o server.VerifyOpts
	for _, f := range []string{"tpm_ek_root_1.cer", "gcp_ek_ak_ca_root.crt"} {
		o.TrustedRootCerts = append(o.TrustedRootCerts, moduleCertificate(t, f))
	}
	for _, f := range []string{"tpm_ek_intermediate_2.crt", "tpm_ek_intermediate_3.crt", "gcp_ek_ak_ca_intermediate_v3.crt"} {
		o.IntermediateCerts = append(o.IntermediateCerts, moduleCertificate(t, f))
	}
	return o
}

func moduleCertificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(module(t), "server", "ca-certs", name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The attestation of a real machine, whole and with a byte changed somewhere: what
// is admitted here, the library's VerifyAttestation admits with the same instance,
// or nothing is claimed of what it refuses.
func TestRealAttestationsAreAdmittedByTheLibraryToo(t *testing.T) {
	raw := moduleAttestation(t, "gce-cos-85-nonce9009")
	opts := gceRoots(t)
	opts.Nonce, opts.HashAlgo = []byte{0x90, 0x09}, legacy.AlgSHA256
	good := attestationEvidence(t, raw, tpm2.TPMAlgSHA256)
	var a pb.Attestation
	if err := proto.Unmarshal(raw, &a); err != nil {
		t.Fatal(err)
	}
	body, err := attest.DecodeTPMEvidence(good.Body)
	if err != nil {
		t.Fatal(err)
	}
	v, admitted, refused, unclaimed := hardware(t), 0, 0, 0
	both := func(change func(*attest.TPMEvidence, []byte) []byte) {
		e := *body
		e.PCRs = make(map[uint32][]byte)
		for i, p := range body.PCRs {
			e.PCRs[i] = bytes.Clone(p)
		}
		log := change(&e, bytes.Clone(good.EventLog))
		sum := digestOf(log)
		e.EventLogDigest = sum[:]
		got, err := v.Authenticate(t.Context(), evidence(t, e, log, good.Endorsements...), cosTime)
		if err != nil {
			refused++
			return
		}
		admitted++
		b := proto.CloneOf(&a)
		b.Quotes = []*tpmpb.Quote{{Quote: e.Quote, RawSig: e.Signature, Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: e.PCRs}}}
		b.EventLog, b.AkPub, b.AkCert = log, e.AKPublic, e.AKCertificate
		state, err := server.VerifyAttestation(b, opts)
		if err != nil {
			// Data of PCR 7's events that do not hash to their digests: the digests
			// replay, and the library refuses the log where nothing is claimed here. Of
			// the authorities nothing ever is.
			if b := got.TPM.Boot; (b.SecureBoot != nil || b.Keys != nil) && !strings.Contains(err.Error(), "authority") {
				t.Errorf("we admit what the library refuses, and claim from it: %v", err)
			}
			unclaimed++
			return
		}
		if i := state.GetPlatform().GetInstanceInfo(); i.GetProjectId() != got.TPM.Cloud.ProjectID || i.GetInstanceName() != got.TPM.Cloud.InstanceName || i.GetZone() != got.TPM.Cloud.Zone {
			t.Errorf("another instance: %v, %v", i, got.TPM.Cloud)
		}
		if b := got.TPM.Boot; b.SecureBoot != nil && state.GetSecureBoot().GetEnabled() != *b.SecureBoot {
			t.Errorf("secure boot: the library says %t", state.GetSecureBoot().GetEnabled())
		}
	}
	both(func(_ *attest.TPMEvidence, log []byte) []byte { return log })
	for i := 0; i < len(good.EventLog); i += 487 {
		both(func(_ *attest.TPMEvidence, log []byte) []byte { log[i] ^= 4; return log })
	}
	for i := range body.Quote {
		both(func(e *attest.TPMEvidence, log []byte) []byte { e.Quote = at(i, e.Quote[i]^1)(e.Quote); return log })
	}
	for i := range uint32(24) {
		both(func(e *attest.TPMEvidence, log []byte) []byte { e.PCRs[i][3] ^= 1; return log })
	}
	for i := range body.AKCertificate {
		both(func(e *attest.TPMEvidence, log []byte) []byte {
			e.AKCertificate = at(i, e.AKCertificate[i]^1)(e.AKCertificate)
			return log
		})
	}
	if admitted < 10 || refused < 1000 {
		t.Errorf("%d admitted, %d refused", admitted, refused)
	}
	t.Logf("%d admitted here, %d refused, %d without a claim of what the library refuses", admitted, refused, unclaimed)
}

// Each of these passes go-tpm-tools alone, and is refused here.
func TestTheLibraryAlonePasses(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		o     order
		check string
	}{
		"a boundary shift": {order{selected: []int{0, 7, 16}, values: func(m map[uint32][]byte) {
			m[0], m[7], m[16] = append(bytes.Clone(m[0]), m[7]...), m[16], []byte{}
		}}, tpm.CheckPCRValueLength},
		"bytes behind the quote":   {order{quoteRaw: longer}, tpm.CheckQuoteStructure},
		"a quote over no register": {order{selected: []int{}}, tpm.CheckPCREmpty},
		"an AK that would sign anything": {order{ak: attributes(func(a *tpm2.TPMAObject) {
			*a = tpm2.TPMAObject{SignEncrypt: true}
		})}, tpm.CheckAKRestricted},
	} {
		t.Run(name, func(t *testing.T) {
			m := w.mint(t, c.o)
			if err := libraryQuote(t, m.body); err != nil {
				t.Fatalf("the library refuses it: %v", err)
			}
			got, err := w.verifier(t).AuthenticatePending(t.Context(), m.evidence, epoch)
			wantRefusal(t, got, err, c.check)
		})
	}
	t.Run("a nil nonce for an empty one", func(t *testing.T) {
		m := w.mint(t, order{noEK: true, cloud: w.google, extra: []byte{}})
		if err := libraryQuoteBy(m.body, m.ak.Public(), nil); err != nil {
			t.Fatalf("the library refuses it: %v", err)
		}
		v := w.verifier(t)
		_, b := challenge(t, nil)
		wantRefusal(t, nil, v.Bound(accept(t, v, m.evidence, epoch), b), tpm.CheckBindingEmpty)
	})
	t.Run("an AK certificate whatever it is for", func(t *testing.T) {
		m := w.mint(t, order{noEK: true, cloud: w.google, akCertificate: func(c *x509.Certificate) {
			c.KeyUsage, c.UnknownExtKeyUsage, c.ExtKeyUsage, c.ExtraExtensions = x509.KeyUsageKeyEncipherment, nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, nil
		}})
		c, err := x509.ParseCertificate(m.body.AKCertificate)
		if err != nil {
			t.Fatal(err)
		}
		if err := server.VerifyAKCert(c, []*x509.Certificate{w.google.root}, []*x509.Certificate{w.google.issuer}); err != nil {
			t.Fatalf("the library refuses it: %v", err)
		}
		got, err := w.verifier(t).Authenticate(t.Context(), m.evidence, epoch)
		wantRefusal(t, got, err, tpm.CheckAKCertificateUsage)
	})
}

// What the manifest says of recorded quotes, signature and digest, holds by other
// code: also of those that are refused here before their signature is looked at.
func TestRecordedSignaturesAndDigestsHold(t *testing.T) {
	for _, r := range recordings(t) {
		t.Run(r.name, func(t *testing.T) {
			checkTPMT(t, r.key, r.body.Quote, r.body.Signature)
			if r.want.PCRs == nil {
				return
			}
			q, err := tpm2.Unmarshal[tpm2.TPMSAttest](r.body.Quote)
			if err != nil {
				t.Fatal(err)
			}
			info, err := q.Attested.Quote()
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, i := range r.want.Selection[0].PCRs {
				all = append(all, r.body.PCRs[uint32(i)]...)
			}
			if !bytes.Equal(hashed(t, signatureHash(t, r.body.Signature), all), info.PCRDigest.Buffer) {
				t.Error("the registers do not hash to the quoted digest")
			}
		})
		if r.name == "tpm/parsec-ecc-quote-and-certify" {
			checkTPMT(t, r.key, r.vector.Read(t, "certify.bin"), r.vector.Read(t, "certify_signature.bin"))
		}
	}
}
