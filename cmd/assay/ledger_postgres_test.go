package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
)

// Two servers share a PostgreSQL: their chains are listed together, and verified each
// and against each other, without a server.
func TestTheLedgerOfSeveralServersIsReadFromTheirDatabase(t *testing.T) {
	url := postgrestest.Start(t).Database(t)
	w := attestedtest.New(t)
	st, err := postgres.Open(t.Context(), postgres.Config{ConnString: url})
	check(t, err)
	defer func() { check(t, st.Close()) }()
	check(t, st.InitTrustDomain(t.Context(), store.TrustDomain{Name: w.TrustDomain, Simulated: true, CreatedAt: w.Now()}))
	keys := map[string]ed25519.PrivateKey{}
	public := func() map[string]ed25519.PublicKey {
		out := map[string]ed25519.PublicKey{}
		for n, k := range keys {
			out[n] = k.Public().(ed25519.PublicKey)
		}
		return out
	}
	dir := t.TempDir()
	var witness []byte
	var args []string
	for _, name := range []string{"eu-1", "eu-2"} {
		_, key, err := ed25519.GenerateKey(nil)
		check(t, err)
		keys[name] = key
		l, err := ledger.Open(t.Context(), st, w.TrustDomain, key, ledger.Options{Chain: name, Now: w.Now})
		check(t, err)
		l.FollowPeers(public)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		for range 2 {
			_, err := l.Record(t.Context(), w.Grant(t, attestedtest.Request{}), ledger.Origin{})
			check(t, err)
		}
		note, err := l.Checkpoint(t.Context())
		check(t, err)
		witness = append(append(witness, note...), '\n')
		stop()
		check(t, <-ended)
		file := filepath.Join(dir, name+".pub")
		check(t, os.WriteFile(file, []byte(l.Key().String()+"\n"), 0o600))
		args = append(args, "--key", file)
	}
	kept := filepath.Join(dir, "witness.txt")
	check(t, os.WriteFile(kept, witness, 0o600))

	r := assay(t, nil, append([]string{"ledger", "verify", "--db", url, "--checkpoint", kept}, args...)...)
	for _, want := range []string{"ok: 2 entries of " + w.TrustDomain + "/assay/ledger/eu-1", "ok: 2 entries of " + w.TrustDomain + "/assay/ledger/eu-2", "seen by others  2 times", "ok: 2 chains agree"} {
		if r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("exit code %d, no %q:\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	if r := assay(t, nil, "ledger", "list", "--db", url); r.code != 0 || !strings.Contains(r.stdout, "eu-1/2") || !strings.Contains(r.stdout, "eu-2/1") {
		t.Errorf("list: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := assay(t, nil, "ledger", "show", "eu-2/1", "--db", url); r.code != 0 || !strings.Contains(r.stdout, "entry 1 of "+w.TrustDomain+"/assay/ledger/eu-2") {
		t.Errorf("show: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	// One key is not enough for two servers.
	if r := assay(t, nil, append([]string{"ledger", "verify", "--db", url}, args[:2]...)...); r.code != 2 || !strings.Contains(r.stderr, "there is no --key for chain eu-2") {
		t.Errorf("one key: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if err := postgrestest.Exec(t.Context(), url, `ALTER TABLE entries DISABLE TRIGGER ALL; ALTER TABLE checkpoints DISABLE TRIGGER ALL; ALTER TABLE identities DISABLE TRIGGER ALL;
		DELETE FROM identities WHERE chain = 'eu-1' AND sequence = 2; DELETE FROM entries WHERE chain = 'eu-1' AND sequence = 2; DELETE FROM checkpoints WHERE chain = 'eu-1'`); err != nil {
		t.Fatal(errors.Join(errors.New("tampering"), err))
	}
	if r := assay(t, nil, append([]string{"ledger", "verify", "--db", url}, args...)...); r.code != 4 || !strings.Contains(r.stderr, "peer_truncation") {
		t.Errorf("a chain that was cut, with its checkpoints: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
