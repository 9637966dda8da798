package main

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/federation"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
)

// The references of the fixtures' records, in the order in which they were
// made.
var fixtureReferences = []string{"as-aaaaaaaaaa", "as-bbbbbbbbbb", "as-cccccccccc", "as-dddddddddd"}

// office is a server's data directory, and the world that it serves.
type office struct {
	*attestedtest.World
	dir string
	db  *store.SQLite // while it is open
}

// newOffice makes the data directory of a trust domain, and in its ledger an
// issuance, a denial, and two issuances, all made by the real parts:
//
//	assay.db checkpoint.pub …   as `assayd init` and a server leave them
//	witness.txt                 the checkpoints, as they were sent elsewhere
//	early.db                    a copy of the database before the last two issuances
//	simulator.pem               the simulator's root
//	orders.pem                  the last SVID that was issued
func newOffice(t testing.TB) *office {
	t.Helper()
	o := &office{World: attestedtest.New(t), dir: filepath.Join(t.TempDir(), "data")}
	_, err := ca.Init(t.Context(), ca.InitConfig{DataDir: o.dir, TrustDomain: o.TrustDomain, Simulated: true, Now: o.Now})
	check(t, err)
	n := 0
	origin := func() ledger.Origin {
		o.Advance(time.Second)
		n++
		return ledger.Origin{Reference: fixtureReferences[n-1], Peer: "192.0.2.1:4711"}
	}
	grant := func(l *ledger.Ledger, c *ca.CA) {
		t.Helper()
		from := origin()
		r, err := l.Record(t.Context(), o.Grant(t, attestedtest.Request{}), from)
		check(t, err)
		issued, err := c.Issue(t.Context(), r)
		check(t, err)
		o.put(t, "orders.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.SVIDs[0].Chain[0]}))
	}
	o.session(t, func(l *ledger.Ledger, c *ca.CA) {
		grant(l, c)
		from := origin()
		v, d := o.Denied(t, attestedtest.Request{Image: "intruder"})
		kept, err := l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision, Origin: from})
		check(t, err)
		if !kept {
			t.Fatal("the denial was not kept")
		}
	})
	b, err := os.ReadFile(ca.DatabasePath(o.dir))
	check(t, err)
	o.put(t, "early.db", b)
	o.session(t, func(l *ledger.Ledger, c *ca.CA) { grant(l, c); grant(l, c) })
	o.put(t, "simulator.pem", o.Authority.RootPEM())
	return o
}

func (o *office) put(t testing.TB, name string, b []byte) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(o.dir, name), b, 0o600))
}

// open opens ledger and authority as a server does; the function that it
// returns closes them.
func (o *office) open(t testing.TB) (*ledger.Ledger, *ca.CA, func() error) {
	t.Helper()
	db, err := store.OpenSQLite(t.Context(), ca.DatabasePath(o.dir))
	check(t, err)
	o.db = db
	ring, err := keys.OpenDir(ca.KeysPath(o.dir))
	check(t, err)
	signer, err := ca.CheckpointSigner(t.Context(), ring)
	check(t, err)
	l, err := ledger.Open(t.Context(), db, o.TrustDomain, signer, ledger.Options{Now: o.Now, Sink: filepath.Join(o.dir, "witness.txt")})
	check(t, err)
	c, err := ca.Open(t.Context(), ca.Config{
		TrustDomain: o.TrustDomain, Simulated: true, DataDir: o.dir, Keys: ring, Store: db, Results: l, Now: o.Now, Log: slog.New(slog.DiscardHandler),
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, c, func() error {
		cancel()
		return errors.Join(<-done, db.Close()) // Run makes the last checkpoint
	}
}

func (o *office) session(t testing.TB, do func(*ledger.Ledger, *ca.CA)) {
	t.Helper()
	l, c, closeAll := o.open(t)
	do(l, c)
	check(t, closeAll())
}

// serve runs a server over the data directory until the test ends, and returns
// its admin socket.
func (o *office) serve(t *testing.T) string {
	t.Helper()
	return o.serveWith(t, func(*config.Config, *issuer.Listeners) {})
}

// serveWith is serve with another configuration, and further listeners.
func (o *office) serveWith(t *testing.T, change func(*config.Config, *issuer.Listeners)) string {
	t.Helper()
	// Not t.TempDir: the path of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "assay")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.TrustDomain, cfg.DataDir, cfg.AdminSocket = o.TrustDomain, o.dir, filepath.Join(dir, "admin.sock")
	cfg.Policy, cfg.Nitro.SimulatedRoot = filepath.Join(dir, "policy.yaml"), filepath.Join(o.dir, "simulator.pem")
	cfg.ShutdownTimeout = time.Second
	check(t, os.WriteFile(cfg.Policy, []byte(fixturePolicy(launched.Image.PCR0)), 0o600))
	log := slog.New(slog.DiscardHandler)
	policyFile, err := issuer.LoadPolicyFile(cfg.Policy, o.TrustDomain, log)
	check(t, err)
	admin, err := issuer.ListenAdmin(cfg.AdminSocket)
	check(t, err)
	public, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)

	listeners := issuer.Listeners{Attestation: public, Admin: admin}
	change(&cfg, &listeners)
	l, c, closeAll := o.open(t)
	registry, err := tpms.Open(t.Context(), o.db, o.TrustDomain, o.Now)
	check(t, err)
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	check(t, err)
	foreign, err := federation.Open(t.Context(), federation.Config{
		TrustDomain: td, Store: o.db, Now: time.Now, Seal: federation.Seal{Server: "main", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))},
	})
	check(t, err)
	s, err := issuer.New(cfg, issuer.Parts{
		Federation: foreign,
		Set:        o.Set, Policy: policyFile, Ledger: l, CA: c, Store: o.db, Metrics: issuer.NewMetrics(o.TrustDomain), TPMs: registry, Log: log, Now: o.Now, Version: "1.2.3",
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx, listeners) }()
	t.Cleanup(func() {
		cancel()
		check(t, errors.Join(<-served, closeAll()))
	})
	return cfg.AdminSocket
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
