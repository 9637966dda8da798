package ledger_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy"
)

// grantsFor earns n grants before the clock runs: about a millisecond each.
func grantsFor(b *testing.B, f *fixture, n int) []*policy.Grant {
	b.Helper()
	out := make([]*policy.Grant, n)
	for i := range out {
		out[i] = f.Grant(b, attestedtest.Request{Module: "i-0123456789abcdef0-enc0123456789abcdef"})
	}
	return out
}

// BenchmarkRecord records with one caller, which pays for a sync alone, and
// with 64, who share it. entries/commit is what group commit gains.
func BenchmarkRecord(b *testing.B) {
	for _, bm := range []struct {
		name    string
		callers int
	}{{"1caller", 1}, {"64callers", 64}} {
		b.Run(bm.name, func(b *testing.B) {
			f := newFixture(b)
			l := f.open(b, ledger.Options{Quotas: ledger.Quotas{EvidencePerInstance: 1 << 30}})
			run(b, l)
			const batch = 1024
			var spent time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= batch {
				b.StopTimer()
				grants := grantsFor(b, f, min(left, batch))
				b.StartTimer()
				start := time.Now()
				queue := make(chan *policy.Grant, len(grants))
				for _, g := range grants {
					queue <- g
				}
				close(queue)
				var wg sync.WaitGroup
				for range bm.callers {
					wg.Go(func() {
						for g := range queue {
							if _, err := l.Record(context.Background(), g, ledger.Origin{}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				spent += time.Since(start)
			}
			b.StopTimer()
			s := l.Stats()
			b.ReportMetric(float64(s.Records)/float64(s.Commits), "entries/commit")
			b.ReportMetric(float64(b.N)/spent.Seconds(), "records/s")
		})
	}
}
