package postgres_test

import (
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// A server was killed while its last commit was on its way in a slow database, and is
// started at once. It goes on behind that commit, and not beside it.
func TestARestartGoesOnBehindALateCommit(t *testing.T) {
	db := cluster(t).Database(t)
	w := attestedtest.New(t)
	must(t, open(t, db).InitTrustDomain(t.Context(), store.TrustDomain{Name: attestedtest.TrustDomain, Simulated: true, CreatedAt: w.Now()}))
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	start := func() (*ledger.Ledger, chan error) {
		l, err := ledger.Open(t.Context(), open(t, db), attestedtest.TrustDomain, key, ledger.Options{Chain: "one", Now: w.Now, Quotas: ledger.Quotas{EvidencePerInstance: 1 << 30}})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		return l, done
	}
	first, _ := start()
	conn, err := pgx.Connect(t.Context(), db)
	must(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE identities IN EXCLUSIVE MODE`) // the database is slow
	must(t, err)
	late, again := w.Grant(t, attestedtest.Request{}), w.Grant(t, attestedtest.Request{})
	recorded := make(chan error, 1)
	go func() {
		_, err := first.Record(context.Background(), late, ledger.Origin{})
		recorded <- err
	}()
	time.Sleep(500 * time.Millisecond) // it is in the database, and waits there
	released := make(chan error, 1)
	go func() {
		time.Sleep(500 * time.Millisecond)
		released <- tx.Rollback(context.Background())
	}()
	second, done := start() // the next process of this server: it waits as well
	must(t, <-released)
	must(t, <-recorded)
	r, err := second.Record(t.Context(), again, ledger.Origin{})
	if err != nil {
		select {
		case ended := <-done:
			t.Fatalf("%v; the writer ended: %v", err, ended)
		case <-time.After(2 * time.Second):
			t.Fatal(err)
		}
	}
	if r.Sequence() != 2 {
		t.Errorf("it is entry %d, want 2", r.Sequence())
	}
}
