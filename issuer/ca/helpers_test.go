package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

const td = attestedtest.TrustDomain

// fixture is an issuer's data directory, and a world that earns grants.
type fixture struct {
	*attestedtest.World
	dir    string
	store  *store.SQLite
	ring   *keys.Dir
	ledger *ledger.Ledger
	ca     *CA
}

// newFixture initialises a data directory.
func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{World: attestedtest.New(t), dir: filepath.Join(t.TempDir(), "data")}
	_, err := Init(t.Context(), f.initConfig())
	must(t, err)
	return f
}

func (f *fixture) initConfig() InitConfig {
	return InitConfig{DataDir: f.dir, TrustDomain: td, Simulated: true, Now: f.Now}
}

// open opens store, ring and CA.
func (f *fixture) open(t testing.TB, change ...func(*Config)) error {
	t.Helper()
	return f.openAt(t, noStop, change...)
}

func (f *fixture) openAt(t testing.TB, at stops, change ...func(*Config)) error {
	t.Helper()
	var err error
	f.store, err = store.OpenSQLite(context.Background(), DatabasePath(f.dir))
	must(t, err)
	s := f.store
	t.Cleanup(func() { _ = s.Close() })
	f.ring, err = keys.OpenDir(KeysPath(f.dir))
	must(t, err)
	c := Config{TrustDomain: td, Simulated: true, DataDir: f.dir, Keys: f.ring, Store: f.store, Now: f.Now}
	for _, ch := range change {
		ch(&c)
	}
	f.ca, err = openAt(context.Background(), c, at)
	if err != nil {
		f.ca = nil
		must(t, f.store.Close())
	}
	return err
}

// x509 and verifier are what the CA signs with.
func (f *fixture) x509() *authority     { return f.ca.now.Load().signing[store.X509] }
func (f *fixture) verifier() *authority { return f.ca.now.Load().signing[store.Verifier] }

func (f *fixture) close(t testing.TB) {
	t.Helper()
	must(t, f.store.Close())
}

// start opens everything and runs the ledger.
func start(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	f := newFixture(t)
	must(t, f.open(t, change...))
	f.run(t)
	return f
}

func (f *fixture) run(t testing.TB) {
	t.Helper()
	signer, err := CheckpointSigner(t.Context(), f.ring)
	must(t, err)
	f.ledger, err = ledger.Open(t.Context(), f.store, td, signer, ledger.Options{Now: f.Now})
	must(t, err)
	f.ca.cfg.Results = f.ledger
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.ledger.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (f *fixture) record(t testing.TB, r attestedtest.Request) *ledger.Recorded {
	t.Helper()
	rec, err := f.ledger.Record(t.Context(), f.Grant(t, r), ledger.Origin{})
	must(t, err)
	return rec
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func publics(ks ...crypto.Signer) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, k := range ks {
		out = append(out, k.Public())
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCheck(t testing.TB, err error, check string) {
	t.Helper()
	var e *attest.Error
	if !errors.As(err, &e) || e.Check != check {
		t.Errorf("got %v, want check %s", err, check)
	}
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func isErr(err, want error) bool { return errors.Is(err, want) }
