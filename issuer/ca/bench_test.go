package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
)

// BenchmarkIssue issues one SVID with its attestation result, as a ratio to the
// two P-256 signatures that it cannot avoid (result and certificate), and to
// one x509.CreateCertificate.
func BenchmarkIssue(b *testing.B) {
	f := start(b)
	f.ca.cfg.Results = nil
	key := newKey(b)
	sum := sha256.Sum256([]byte("x"))

	bare := time.Duration(0)
	create := time.Duration(0)
	const rounds = 300
	s := specimenOf(b, f)
	for range rounds {
		at := time.Now()
		for range 2 {
			if _, err := ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
				b.Fatal(err)
			}
		}
		bare += time.Since(at)
		at = time.Now()
		if _, err := x509.CreateCertificate(rand.Reader, s.template, s.parent, s.key, s.signer); err != nil {
			b.Fatal(err)
		}
		create += time.Since(at)
	}

	const batch = 256
	var spent time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= batch {
		b.StopTimer()
		recs := make([]*ledger.Recorded, min(left, batch))
		for i := range recs {
			recs[i] = f.record(b, attestedtest.Request{Module: "i-0123456789abcdef0-enc0123456789abcdef"})
		}
		b.StartTimer()
		at := time.Now()
		for _, r := range recs {
			if _, err := f.ca.Issue(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
		spent += time.Since(at)
	}
	b.StopTimer()
	each := float64(spent) / float64(b.N)
	b.ReportMetric(each/(float64(bare)/rounds), "x2signatures")
	b.ReportMetric(each/(float64(create)/rounds), "xCreateCertificate")
}
