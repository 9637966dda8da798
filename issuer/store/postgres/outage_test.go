package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
	"github.com/assay-project/assay/issuer/store/storetest"
)

// Two servers write a chain each while the database is killed and restarted. Every
// record that was acknowledged is there, once, and the chains have no gap.
func TestNoAcknowledgedRecordIsLostWhenTheDatabaseIsKilled(t *testing.T) {
	c := postgrestest.Start(t)
	db := c.Database(t)
	first := filled(t, db)
	servers := []*postgres.Store{first, open(t, db)}
	var stop atomic.Bool
	var failures atomic.Int64
	acked := make([]map[uint64]bool, len(servers))
	last := make([]uint64, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		acked[i] = map[uint64]bool{}
		wg.Go(func() {
			chain := fmt.Sprintf("s%d", i)
			// What the ledger does: after a failure it asks where the chain ends,
			// which is where it did, or after the batch whose answer got lost.
			for n := uint64(1); !stop.Load(); {
				err := s.Append(context.Background(), storetest.Batch(chain, n, n+2))
				if err == nil {
					acked[i][n], acked[i][n+1], acked[i][n+2] = true, true, true
					n += 3
					last[i] = n - 1
					continue
				}
				if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("%s: %v, want ErrUnavailable", chain, err)
					return
				}
				failures.Add(1)
				for {
					h, err := s.Head(context.Background(), td, chain)
					if err == nil {
						if h.Sequence != n-1 && h.Sequence != n+2 {
							t.Errorf("%s ends at entry %d, after a batch from %d on", chain, h.Sequence, n)
							return
						}
						n = h.Sequence + 1
						last[i] = h.Sequence
						break
					}
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("%s: %v, want ErrUnavailable", chain, err)
						return
					}
				}
			}
		})
	}
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		c.Kill(t)
		c.Restart(t)
	}
	time.Sleep(300 * time.Millisecond)
	c.Stop(t)
	c.Restart(t)
	time.Sleep(300 * time.Millisecond)
	stop.Store(true)
	wg.Wait()
	for i := range servers {
		chain := fmt.Sprintf("s%d", i)
		if len(acked[i]) < 30 {
			t.Errorf("%s: only %d records: the test killed nothing that was under way", chain, len(acked[i]))
		}
		checkChain(t, first, chain, last[i])
		for n := range acked[i] {
			if ok, err := first.HasSerial(t.Context(), td, storetest.Entry(chain, n).Identities[0].Serial); !ok || err != nil {
				t.Errorf("%s: the serial of acknowledged entry %d is lost: %v", chain, n, err)
			}
		}
		t.Logf("%s: %d records acknowledged of %d", chain, len(acked[i]), last[i])
	}
	t.Logf("%d appends failed while the database was away", failures.Load())
}

func TestAServerThatWasIdleDoesNotNoticeARestart(t *testing.T) {
	c := postgrestest.Start(t)
	s := filled(t, c.Database(t))
	must(t, s.Append(t.Context(), storetest.Batch("a", 1, 1)))
	for n := uint64(2); n < 5; n++ {
		c.Kill(t)
		c.Restart(t)
		must(t, s.Append(t.Context(), storetest.Batch("a", n, n)))
		c.Kill(t)
		c.Restart(t)
		if h, err := s.Head(t.Context(), td, "a"); err != nil || h.Sequence != n {
			t.Errorf("head %v, %v, want entry %d", h, err, n)
		}
	}
}

func TestADatabaseThatIsAwayIsUnavailableInTime(t *testing.T) {
	c := postgrestest.Start(t)
	db := c.Database(t)
	must(t, filled(t, db).Close())
	s, err := postgres.Open(t.Context(), postgres.Config{ConnString: db, Reconnect: 200 * time.Millisecond})
	must(t, err)
	defer func() { _ = s.Close() }()
	c.Kill(t)
	begin := time.Now()
	for what, err := range map[string]error{
		"append": s.Append(t.Context(), storetest.Batch("a", 1, 1)),
		"head":   func() error { _, err := s.Head(t.Context(), td, "a"); return err }(),
		"policy": s.PutPolicy(t.Context(), store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 1}}),
		"ping":   s.Ping(t.Context()),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", what, err)
		}
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("four operations took %v to fail", took)
	}
	c.Restart(t)
	must(t, s.Append(t.Context(), storetest.Batch("a", 1, 1)))
}

// A caller without a deadline waits no longer than the store's timeout.
func TestEveryOperationHasADeadline(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	must(t, filled(t, db).Close())
	s, err := postgres.Open(t.Context(), postgres.Config{ConnString: db, Timeout: 500 * time.Millisecond})
	must(t, err)
	defer func() { _ = s.Close() }()
	blocker := hold(t, db, `LOCK TABLE entries, policies IN ACCESS EXCLUSIVE MODE`)
	for what, err := range map[string]error{
		"append": s.Append(context.Background(), storetest.Batch("a", 1, 1)),
		"policy": s.PutPolicy(context.Background(), store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 1}}),
		"read":   func() error { _, err := s.Entry(context.Background(), td, "a", 1); return err }(),
	} {
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want a deadline", what, err)
		}
	}
	must(t, blocker())
	must(t, s.Append(t.Context(), storetest.Batch("a", 1, 1)))
}
