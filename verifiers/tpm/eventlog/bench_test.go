package eventlog_test

import (
	"crypto"
	"testing"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// BenchmarkReplay states what the log of a real machine costs: Ubuntu 24.04 on GCE
// with SEV-SNP, 45 kB and 113 events in three banks.
//
//	assay    this package: decode, replay twice, claims
//	library  go-eventlog's parse and replay alone, which are within it
func BenchmarkReplay(b *testing.B) {
	m := machines(b)["Ubuntu2404AmdSevSnpEventLog"]
	pcrs := staticPCRs(m.banks[crypto.SHA256])
	var mrs []register.MR
	for i, v := range pcrs {
		mrs = append(mrs, register.PCR{Index: i, Digest: v, DigestAlg: crypto.SHA256})
	}
	b.Run("assay", func(b *testing.B) {
		b.SetBytes(int64(len(m.log)))
		b.ReportAllocs()
		var got *attest.MeasuredBoot
		for b.Loop() {
			var err error
			if got, err = eventlog.Replay(m.log, crypto.SHA256, pcrs); err != nil {
				b.Fatal(err)
			}
		}
		if got.CommandLine == "" {
			b.Fatal("no claims")
		}
	})
	b.Run("library", func(b *testing.B) {
		b.SetBytes(int64(len(m.log)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tcg.ParseAndReplay(m.log, mrs, tcg.ParseOpts{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
