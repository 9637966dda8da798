package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"slices"
	"testing"
	"time"

	pb "github.com/google/go-tpm-tools/proto/attest"
	"github.com/google/go-tpm-tools/server"
	"github.com/google/go-tpm/legacy/tpm2"
	newtpm "github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// BenchmarkVerify shows what a renewal costs beside the cryptography that it
// cannot avoid: all of the verifier's work (AuthenticatePending, Bound, Activate
// of a known AK) over the bare verifications of the TPM's own signatures. Every
// sub-benchmark measures both in one loop, turn by turn, so that a busy machine
// slows both, and reports the ratio of the medians:
//
//	ecc        AK on P-256, software keys: 1 P-256. Wanted: at most 1.3
//	resident   and a resident key: 2 P-256. Wanted: at most 1.3
//	rsa        AK of RSA-2048: 1 RSA-2048, which is a third of a P-256. Wanted: at most 1.3
//	cold       ecc, nothing is known: 1 P-256, EK certificate and its CA, no second round
//	log        the recorded attestation of a GCE machine with its event log, known
//	log-cold   the same, replayed each time
//	library    go-tpm-tools on the same, for comparison
//
// ns/op and allocations are those of the pair. The time that a TPM itself takes is
// not in it.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	_, binding := challenge(b, [][]byte{spkiOf(b, keyOf(b, p256, "resident a").Public())})
	for name, o := range map[string]order{"ecc": {}, "resident": {resident: 1}, "rsa": {ekKind: rsa2048, akKind: rsa2048}} {
		b.Run(name, func(b *testing.B) {
			o.extra = binding.B[:]
			m := w.mint(b, o)
			v := w.verifier(b, tpm.WithBindings(new(tpm.MemoryBindings)))
			renew := func() {
				c, err := v.AuthenticatePending(b.Context(), m.evidence, epoch)
				if err == nil {
					err = v.Bound(c, binding)
				}
				if err == nil {
					err = v.Activate(b.Context(), m.evidence, c, binding, m.exchange(binding), epoch)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			renew()
			paired(b, bareVerification(b, m.body), renew)
		})
	}
	b.Run("cold", func(b *testing.B) {
		m := w.mint(b, order{})
		v := w.verifier(b, tpm.WithCacheSize(0))
		paired(b, bareVerification(b, m.body), func() {
			if _, err := v.AuthenticatePending(b.Context(), m.evidence, epoch); err != nil {
				b.Fatal(err)
			}
		})
	})
	ev := attestationEvidence(b, moduleAttestation(b, "gce-cos-85-no-nonce"), newtpm.TPMAlgSHA256)
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		b.Fatal(err)
	}
	floor := bareVerification(b, *body)
	for name, v := range map[string]*tpm.Verifier{"log": hardware(b), "log-cold": hardware(b, tpm.WithCacheSize(0))} {
		b.Run(name, func(b *testing.B) {
			run := func() { accept(b, v, ev, cosTime) }
			run()
			paired(b, floor, run)
		})
	}
	b.Run("library", func(b *testing.B) {
		var a pb.Attestation
		if err := proto.Unmarshal(moduleAttestation(b, "gce-cos-85-no-nonce"), &a); err != nil {
			b.Fatal(err)
		}
		opts := gceRoots(b)
		opts.HashAlgo = tpm2.AlgSHA256
		paired(b, floor, func() {
			if _, err := server.VerifyAttestation(&a, opts); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// BenchmarkRefuse is what a stranger's evidence costs: a quote by a key of its own,
// with an EK certificate that nobody signed.
func BenchmarkRefuse(b *testing.B) {
	w := newWorld(b)
	forged := newAuthority(b, "Maker", "foreign", nil)
	for name, o := range map[string]order{"forged certificate": {issuer: forged}, "no certificate": {noEKCert: true}, "signature": {signature: flipLast}} {
		b.Run(name, func(b *testing.B) {
			ev, v := w.mint(b, o).evidence, w.verifier(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.AuthenticatePending(b.Context(), ev, epoch); err == nil {
					b.Fatal("verified")
				}
			}
		})
	}
}

// paired runs both in turn, and reports the median of the second over that of
// the first: a busy machine slows some of the runs, but not the typical one.
func paired(b *testing.B, floor, f func()) {
	b.Helper()
	b.ReportAllocs()
	bare, whole := make([]time.Duration, 0, 1<<16), make([]time.Duration, 0, 1<<16)
	for b.Loop() {
		t0 := time.Now()
		floor()
		t1 := time.Now()
		f()
		bare, whole = append(bare, t1.Sub(t0)), append(whole, time.Since(t1))
	}
	slices.Sort(bare)
	slices.Sort(whole)
	m, n := bare[len(bare)/2], whole[len(whole)/2]
	b.ReportMetric(float64(n)/float64(m), "x-floor")
	b.ReportMetric(float64(n.Nanoseconds())/1e3, "us/verify")
	b.ReportMetric(float64(m.Nanoseconds())/1e3, "us/floor")
}

// bareVerification verifies the TPM's signatures over quote and certifications,
// hashing included and nothing else.
func bareVerification(b *testing.B, e attest.TPMEvidence) func() {
	b.Helper()
	area, err := newtpm.Unmarshal[newtpm.TPMTPublic](e.AKPublic)
	if err != nil {
		b.Fatal(err)
	}
	key, err := newtpm.Pub(*area)
	if err != nil {
		b.Fatal(err)
	}
	if k, ok := key.(*ecdsa.PublicKey); ok {
		// As crypto/ecdsa makes it, so that both verify with the same code.
		raw, err := k.Bytes()
		if err != nil {
			b.Fatal(err)
		}
		if key, err = ecdsa.ParseUncompressedPublicKey(k.Curve, raw); err != nil {
			b.Fatal(err)
		}
	}
	checks := []func() bool{bareSignature(b, key, e.Quote, e.Signature)}
	for _, c := range e.Certified {
		checks = append(checks, bareSignature(b, key, c.Attest, c.Signature))
	}
	return func() {
		for _, f := range checks {
			if !f() {
				b.Fatal("the bare verification fails")
			}
		}
	}
}

func bareSignature(b *testing.B, key crypto.PublicKey, message, sig []byte) func() bool {
	b.Helper()
	s, err := newtpm.Unmarshal[newtpm.TPMTSignature](sig)
	if err != nil {
		b.Fatal(err)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		v, err := s.Signature.RSASSA()
		if err != nil {
			b.Fatal(err)
		}
		return func() bool {
			sum := sha256.Sum256(message)
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], v.Sig.Buffer) == nil
		}
	case *ecdsa.PublicKey:
		v, err := s.Signature.ECDSA()
		if err != nil {
			b.Fatal(err)
		}
		r, t := new(big.Int).SetBytes(v.SignatureR.Buffer), new(big.Int).SetBytes(v.SignatureS.Buffer)
		return func() bool {
			sum := sha256.Sum256(message)
			return ecdsa.Verify(k, sum[:], r, t)
		}
	}
	b.Fatalf("a key of type %T", key)
	return nil
}
