package main

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// The references of the fixtures' records, in the order in which they were
// made.
var fixtureReferences = []string{"as-aaaaaaaaaa", "as-bbbbbbbbbb", "as-cccccccccc", "as-dddddddddd"}

// ledgerFixture makes a data directory with the ledger of a trust domain: an
// issuance, a denial, and two issuances, made by the real parts.
//
//	assay.db checkpoint.pub          as a server leaves them
//	witness.txt                      the checkpoints, as they were sent elsewhere
//	early.db                         a copy of the database before the last two issuances
//	orders.pem                       the simulator's root
func ledgerFixture(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	world := attestedtest.New(t)
	path := filepath.Join(dir, "assay.db")
	witness := filepath.Join(dir, "witness.txt")
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	db, err := store.OpenSQLite(t.Context(), path)
	check(t, err)
	check(t, db.InitTrustDomain(t.Context(), store.TrustDomain{Name: world.TrustDomain, Simulated: true, CreatedAt: world.Now()}))

	session := func(do func(l *ledger.Ledger)) {
		t.Helper()
		l, err := ledger.Open(t.Context(), db, world.TrustDomain, key, ledger.Options{Now: world.Now, Sink: witness})
		check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		do(l)
		cancel()
		check(t, <-done) // the last checkpoint is made now
		check(t, os.WriteFile(filepath.Join(dir, checkpointKeyFile), []byte(l.Key().String()+"\n"), 0o600))
	}
	n := 0
	origin := func() ledger.Origin {
		world.Advance(time.Second)
		n++
		return ledger.Origin{Reference: fixtureReferences[n-1], Peer: "192.0.2.1:4711"}
	}
	grant := func(l *ledger.Ledger) {
		t.Helper()
		from := origin()
		_, err := l.Record(t.Context(), world.Grant(t, attestedtest.Request{}), from)
		check(t, err)
	}
	session(func(l *ledger.Ledger) {
		grant(l)
		from := origin()
		v, d := world.Denied(t, attestedtest.Request{Image: "intruder"})
		kept, err := l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision, Origin: from})
		check(t, err)
		if !kept {
			t.Fatal("the denial was not kept")
		}
	})
	check(t, db.Close())
	b, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "early.db"), b, 0o600))
	db, err = store.OpenSQLite(t.Context(), path)
	check(t, err)
	session(func(l *ledger.Ledger) { grant(l); grant(l) })
	check(t, db.Close())
	check(t, os.WriteFile(filepath.Join(dir, "orders.pem"), world.Authority.RootPEM(), 0o600))
	return dir
}

// tamper is the script command `tamper FILE SQL…`: what somebody who can write
// to the database does to it.
func tamper(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: tamper FILE SQL...")
	}
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	for _, q := range args[1:] {
		r, err := db.ExecContext(context.Background(), q)
		ts.Check(err)
		if n, err := r.RowsAffected(); err == nil && n == 0 {
			// A statement about the schema affects no rows; the others have to.
			ts.Logf("%s: no row changed", q)
		}
	}
}
