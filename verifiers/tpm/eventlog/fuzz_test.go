package eventlog_test

import (
	"crypto"
	"testing"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// Whatever the log: no panic, an error of this package's or claims, and what is
// admitted is admitted by go-eventlog.
func FuzzReplay(f *testing.F) {
	for _, log := range realLogs(f) {
		if len(log) <= 16<<10 { // larger ones are more of the same, and slow
			f.Add(log)
		}
	}
	f.Add(logOf(aBoot()...))
	f.Add(logOf(stub(".linux", "a kernel", ".cmdline", "quiet")...))
	for _, log := range hostile() {
		f.Add(log)
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		for _, bank := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
			l, err := eventlog.Events(log, bank)
			if err != nil {
				if l != nil || attest.CheckOf(err) == "" || attest.KindOf(err) != attest.Malformed && attest.KindOf(err) != attest.Untrusted {
					t.Fatalf("%v, %+v", err, l)
				}
				continue
			}
			got, err := eventlog.Replay(log, bank, l.PCRs)
			if err != nil {
				t.Fatalf("it does not replay to what it yields: %v", err)
			}
			if len(got.Replayed) != len(l.PCRs) {
				t.Fatalf("%d of %d PCRs", len(got.Replayed), len(l.PCRs))
			}
			theirs, parsed := tcg.ParseEventLog(log, tcg.ParseOpts{})
			var mrs []register.MR
			wrong := make(map[int]attest.Bytes)
			for pcr, v := range l.PCRs {
				wrong[pcr] = append(attest.Bytes{v[0] ^ 1}, v[1:]...)
				mrs = append(mrs, register.PCR{Index: pcr, Digest: v, DigestAlg: bank})
			}
			if got, err := eventlog.Replay(log, bank, wrong); len(wrong) > 0 && (got != nil || attest.CheckOf(err) != eventlog.CheckReplay) {
				t.Fatalf("other values: %v", err)
			}
			if parsed == nil {
				if _, err := theirs.Verify(mrs); err != nil {
					t.Fatalf("go-eventlog: %v", err)
				}
			}
		}
	})
}
