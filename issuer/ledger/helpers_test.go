package ledger_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

const td = attestedtest.TrustDomain

// fixture is a ledger over a real store, and a world that earns grants.
type fixture struct {
	*attestedtest.World
	path   string
	store  *store.SQLite
	signer crypto.Signer
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	f := &fixture{World: attestedtest.New(t), path: filepath.Join(t.TempDir(), "assay.db"), signer: key}
	f.openStore(t)
	must(t, f.store.InitTrustDomain(t.Context(), store.TrustDomain{Name: td, Simulated: true, CreatedAt: f.Now()}))
	return f
}

func (f *fixture) openStore(t testing.TB) {
	t.Helper()
	s, err := store.OpenSQLite(context.Background(), f.path)
	must(t, err)
	f.store = s
	t.Cleanup(func() { _ = s.Close() })
}

func (f *fixture) open(t testing.TB, o ledger.Options) *ledger.Ledger {
	t.Helper()
	return f.openOn(t, f.store, o)
}

func (f *fixture) openOn(t testing.TB, s store.Store, o ledger.Options) *ledger.Ledger {
	t.Helper()
	if o.Now == nil {
		o.Now = f.Now
	}
	l, err := ledger.Open(t.Context(), s, td, f.signer, o)
	must(t, err)
	return l
}

// run runs the writer; the function that it returns stops it and returns what
// Run did.
func run(t testing.TB, l *ledger.Ledger) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return stop
}

func (f *fixture) record(t testing.TB, l *ledger.Ledger, r attestedtest.Request) *ledger.Recorded {
	t.Helper()
	got, err := l.Record(t.Context(), f.Grant(t, r), ledger.Origin{Peer: "192.0.2.1:4711"})
	must(t, err)
	return got
}

func verifies(t testing.TB, l *ledger.Ledger) ledger.Report {
	t.Helper()
	r, err := l.Verify(context.Background(), l.Key(), nil)
	if err != nil {
		t.Errorf("the chain does not verify: %v", err)
	}
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCheck(t testing.TB, err error, kind attest.Kind, check string) {
	t.Helper()
	var e *attest.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v, want an *attest.Error of check %s", err, check)
		return
	}
	if e.Kind != kind || e.Check != check {
		t.Errorf("got %v/%s, want %v/%s: %v", e.Kind, e.Check, kind, check, err)
	}
}
