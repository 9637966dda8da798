package ledger_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// TestWhatWasRecordedSurvivesALossAtAnyMoment copies the database while four
// callers record, as the disk of a machine that lost power would hold it, and
// opens each copy: every Recorded that a caller held before the copy began is in
// it, and the chain verifies and goes on.
func TestWhatWasRecordedSurvivesALossAtAnyMoment(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{CheckpointEntries: 7})
	stop := run(t, l)
	const n = 60 // few enough that SQLite does not move the log into the database meanwhile: after 1,000 pages, migrations included
	grants := make(chan *policy.Grant, n)
	for range n {
		grants <- f.Grant(t, attestedtest.Request{Module: "i-0123456789abcdef0-enc0123456789abcdef"})
	}
	close(grants)
	var returned atomic.Uint64 // the highest sequence that a caller holds
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for g := range grants {
				r, err := l.Record(context.Background(), g, ledger.Origin{})
				if err != nil {
					t.Error(err)
					return
				}
				for {
					old := returned.Load()
					if r.Sequence() <= old || returned.CompareAndSwap(old, r.Sequence()) {
						break
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	type copied struct {
		path  string
		least uint64
	}
	var copies []copied
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		default:
		}
		c := copied{filepath.Join(t.TempDir(), "assay.db"), returned.Load()}
		for _, s := range []string{"", "-wal"} {
			b, err := os.ReadFile(f.path + s)
			must(t, err)
			must(t, os.WriteFile(c.path+s, b, 0o600))
		}
		if len(copies) == 0 || copies[len(copies)-1].least != c.least {
			copies = append(copies, c)
		}
	}
	must(t, stop())
	if len(copies) < 3 {
		t.Errorf("only %d copies differ", len(copies))
	}
	for _, c := range copies {
		s, err := store.OpenSQLite(t.Context(), c.path)
		must(t, err)
		again := f.openOn(t, s, ledger.Options{})
		stop := run(t, again)
		if r := verifies(t, again); r.Entries < c.least {
			t.Errorf("the copy has %d entries, a caller held number %d", r.Entries, c.least)
		}
		f.record(t, again, attestedtest.Request{})
		must(t, stop())
		verifies(t, again)
		must(t, s.Close())
	}
	t.Logf("%d copies", len(copies))
}
