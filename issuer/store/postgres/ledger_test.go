package postgres_test

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
)

// ledgerOn opens and runs a ledger over a store, with a chain of that name.
func ledgerOn(t testing.TB, w *attestedtest.World, s store.Store, chain string) (l *ledger.Ledger, stop func()) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	must(t, s.InitTrustDomain(t.Context(), store.TrustDomain{Name: attestedtest.TrustDomain, Simulated: true, CreatedAt: w.Now()}))
	l, err = ledger.Open(t.Context(), s, attestedtest.TrustDomain, key, ledger.Options{Chain: chain, Now: w.Now, Quotas: ledger.Quotas{EvidencePerInstance: 1 << 30}})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

// The ledgers of two servers share a database that is killed while they record.
// What a caller holds is on record, and both chains verify.
func TestTwoLedgersOutliveTheDeathOfTheirDatabase(t *testing.T) {
	c := postgrestest.Start(t)
	db := c.Database(t)
	w := attestedtest.New(t)
	var ledgers []*ledger.Ledger
	var stops []func()
	for _, chain := range []string{"one", "two"} {
		l, stop := ledgerOn(t, w, open(t, db), chain)
		ledgers, stops = append(ledgers, l), append(stops, stop)
	}
	const each = 40
	records := make([][]*ledger.Recorded, len(ledgers))
	var wg sync.WaitGroup
	for i, l := range ledgers {
		wg.Go(func() {
			for range each {
				r, err := l.Record(context.Background(), w.Grant(t, attestedtest.Request{}), ledger.Origin{})
				if err == nil {
					records[i] = append(records[i], r)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for range 2 {
		time.Sleep(150 * time.Millisecond)
		c.Kill(t)
		c.Restart(t)
	}
	wg.Wait()
	for i, l := range ledgers {
		if len(records[i]) == 0 {
			t.Error("nothing was recorded")
		}
		stops[i]()
		report, err := l.Verify(t.Context(), l.Key(), nil)
		if err != nil {
			t.Errorf("chain %d does not verify: %v", i, err)
		}
		t.Logf("chain %d: %d of %d records acknowledged; %+v", i, len(records[i]), each, report)
	}
}

// BenchmarkRecord records on SQLite and on PostgreSQL, side by side: with one
// caller, who pays for a commit alone, with 64 who share it, and (PostgreSQL) with
// two servers that have 32 each.
func BenchmarkRecord(b *testing.B) {
	for _, bm := range []struct {
		name             string
		servers, callers int
		postgres         bool
	}{
		{"sqlite/1caller", 1, 1, false}, {"postgres/1caller", 1, 1, true},
		{"sqlite/64callers", 1, 64, false}, {"postgres/64callers", 1, 64, true},
		{"postgres/2servers", 2, 32, true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			w := attestedtest.New(b)
			var ledgers []*ledger.Ledger
			var db string
			if bm.postgres {
				db = cluster(b).Database(b)
			}
			for i := range bm.servers {
				var s store.Store
				if bm.postgres {
					s = open(b, db)
				} else {
					lite, err := store.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "assay.db"))
					must(b, err)
					b.Cleanup(func() { _ = lite.Close() })
					s = lite
				}
				l, _ := ledgerOn(b, w, s, []string{"one", "two"}[i])
				ledgers = append(ledgers, l)
			}
			benchmarkRecord(b, w, ledgers, bm.callers)
		})
	}
}

func benchmarkRecord(b *testing.B, w *attestedtest.World, ledgers []*ledger.Ledger, callers int) {
	const batch = 1024
	var spent time.Duration
	b.ResetTimer()
	for left := b.N; left > 0; left -= batch {
		b.StopTimer()
		queue := make(chan func(*ledger.Ledger) error, batch)
		for range min(left, batch) {
			g := w.Grant(b, attestedtest.Request{Module: "i-0123456789abcdef0-enc0123456789abcdef"})
			queue <- func(l *ledger.Ledger) error {
				_, err := l.Record(context.Background(), g, ledger.Origin{})
				return err
			}
		}
		close(queue)
		b.StartTimer()
		start := time.Now()
		var wg sync.WaitGroup
		for _, l := range ledgers {
			for range callers {
				wg.Go(func() {
					for record := range queue {
						if err := record(l); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
		}
		wg.Wait()
		spent += time.Since(start)
	}
	b.StopTimer()
	var records, commits uint64
	for _, l := range ledgers {
		s := l.Stats()
		records, commits = records+s.Records, commits+s.Commits
	}
	b.ReportMetric(float64(records)/float64(commits), "entries/commit")
	b.ReportMetric(float64(b.N)/spent.Seconds(), "records/s")
}
