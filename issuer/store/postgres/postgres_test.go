package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
	"github.com/assay-project/assay/issuer/store/storetest"
)

const td = "simulated.example.org"

// running is the cluster of the tests that kill none, once the first wanted it.
var running *postgrestest.Cluster

var shared = sync.OnceValue(func() (err error) {
	running, err = postgrestest.New()
	return err
})

func cluster(t testing.TB) *postgrestest.Cluster {
	t.Helper()
	err := shared()
	if errors.Is(err, postgrestest.ErrMissing) {
		postgrestest.Skip(t, err)
	}
	must(t, err)
	return running
}

func TestMain(m *testing.M) {
	code := m.Run()
	if running != nil {
		if err := running.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func open(t testing.TB, db string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{ConnString: db, Poll: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// filled is a store with the trust domain that storetest's batches are of.
func filled(t testing.TB, db string) *postgres.Store {
	t.Helper()
	s := open(t, db)
	must(t, s.InitTrustDomain(t.Context(), store.TrustDomain{Name: td, Simulated: true, CreatedAt: time.Unix(1, 0)}))
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPostgreSQLKeepsThePromisesOfAStore(t *testing.T) {
	c := cluster(t)
	databases := map[store.Store]string{}
	storetest.Run(t,
		func(t *testing.T) store.Store {
			db := c.Database(t)
			s := open(t, db)
			databases[s] = db
			return s
		},
		func(t *testing.T, s store.Store) store.Store {
			must(t, s.Close())
			return open(t, databases[s])
		})
}

func TestANewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	must(t, open(t, db).Close())
	c.Exec(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	_, err := postgres.Open(t.Context(), postgres.Config{ConnString: db})
	if attest.CheckOf(err) != "database_schema" || !strings.Contains(err.Error(), "newer") {
		t.Errorf("Open: %v, want check database_schema", err)
	}
	if _, err := postgres.OpenReadOnly(t.Context(), postgres.Config{ConnString: db}); attest.CheckOf(err) != "database_schema" {
		t.Errorf("OpenReadOnly: %v, want check database_schema", err)
	}

	empty := c.Database(t)
	if _, err := postgres.OpenReadOnly(t.Context(), postgres.Config{ConnString: empty}); attest.CheckOf(err) != "database_schema" {
		t.Errorf("OpenReadOnly of an empty database: %v, want check database_schema", err)
	}
	c.Exec(t, empty, `CREATE TABLE somebody_elses (x int)`)
	if _, err := postgres.Open(t.Context(), postgres.Config{ConnString: empty}); attest.CheckOf(err) != "database_schema" {
		t.Errorf("Open of another program's: %v, want check database_schema", err)
	}
}

func TestServersThatStartAtOnceMigrateOnce(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			s, err := postgres.Open(context.Background(), postgres.Config{ConnString: db})
			if err == nil {
				err = s.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	if n := count(t, db, `SELECT count(*) FROM goose_db_version WHERE version_id = 6`); n != 1 {
		t.Errorf("the first migration is recorded %d times", n)
	}
}

func count(t testing.TB, db, statement string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), db)
	must(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	must(t, conn.QueryRow(context.Background(), statement).Scan(&n))
	return n
}

func TestAServerWithoutTheRightToMigrateRunsOnAMigratedDatabase(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	must(t, filled(t, db).Close())
	c.Exec(t, db, `CREATE ROLE server LOGIN`)
	c.Exec(t, db, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO server`)
	s := open(t, strings.Replace(db, "user=assay", "user=server", 1))
	must(t, s.Append(t.Context(), storetest.Batch("a", 1, 3)))
	must(t, s.PutPolicy(t.Context(), store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 1}}))
}

func TestAReaderSeesWhatTheServerWritesAndWritesNothing(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	s := filled(t, db)
	must(t, s.Append(t.Context(), storetest.Batch("a", 1, 3)))
	r, err := postgres.OpenReadOnly(t.Context(), postgres.Config{ConnString: db})
	must(t, err)
	defer func() { _ = r.Close() }()
	if h, err := r.Head(t.Context(), td, "a"); err != nil || h.Sequence != 3 {
		t.Errorf("head %v, %v", h, err)
	}
	if got, err := r.Entries(t.Context(), td, "a", 0, 10); err != nil || len(got) != 3 {
		t.Errorf("%d entries, %v", len(got), err)
	}
	for what, err := range map[string]error{
		"append": r.Append(t.Context(), storetest.Batch("a", 4, 4)),
		"policy": r.PutPolicy(t.Context(), store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 1}}),
	} {
		if err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
}

func TestTheLedgerRefusesUpdateAndDelete(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	s := filled(t, db)
	ctx := t.Context()
	b := storetest.Batch("a", 1, 3)
	b.Checkpoints = []store.Checkpoint{{Size: 3, Note: []byte("n"), At: time.Unix(1, 0)}}
	must(t, s.Append(ctx, b))
	must(t, s.AddAuthority(ctx, store.Authority{TrustDomain: td, Use: store.X509, ID: "aa", Server: "main", KeyName: "k", State: store.Active, Public: []byte{1}}))
	must(t, s.PutPolicy(ctx, store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 2}, Document: []byte("d")}))
	must(t, s.PutDocument(ctx, store.Document{TrustDomain: td, Kind: "k", Sequence: 1, Body: []byte{1}}))
	for _, digest := range [][32]byte{{1}, {2}} {
		must(t, s.DenyPolicy(ctx, store.DeniedPolicy{TrustDomain: td, Digest: digest, Reason: "r", Actor: "a", At: time.Unix(1, 0)}))
	}
	must(t, s.LiftPolicy(ctx, td, [32]byte{2}, store.Lifted{LiftedAt: time.Unix(2, 0), LiftedBy: "a", LiftReason: "r"}))
	for _, stmt := range []string{
		`UPDATE entries SET payload = '\x00' WHERE sequence = 2`,
		`DELETE FROM entries WHERE sequence = 3`,
		`TRUNCATE entries CASCADE`,
		`UPDATE identities SET spiffe_id = 'spiffe://x/y'`,
		`DELETE FROM identities`,
		`TRUNCATE identities CASCADE`,
		`UPDATE checkpoints SET size = 1`,
		`DELETE FROM checkpoints`,
		`TRUNCATE checkpoints`,
		`DELETE FROM authorities`,
		`UPDATE authorities SET public = '\x00'`,
		`UPDATE authorities SET not_after = not_after + 1`,
		`TRUNCATE authorities CASCADE`,
		`UPDATE authorities SET state = 'retired'`,
		`DELETE FROM documents`,
		`UPDATE documents SET sequence = 9`,
		`TRUNCATE documents`,
		`UPDATE trust_domains SET bundle_sequence = 0`,
		`DELETE FROM policies`,
		`UPDATE policies SET revision = 1`,
		`TRUNCATE policies`,
		`DELETE FROM policy_changes`,
		`UPDATE policy_changes SET document = '\x00'`,
		`UPDATE policy_changes SET actor = 'somebody else'`,
		`UPDATE policy_changes SET refused = true, document = NULL`,
		`TRUNCATE policy_changes`,
		`DELETE FROM denied_policies`,
		`DELETE FROM denied_policies WHERE lifted_at <> 0`,
		`UPDATE denied_policies SET reason = 'another', lifted_at = 1 WHERE lifted_at = 0`,
		`UPDATE denied_policies SET lifted_at = 0 WHERE lifted_at <> 0`,
		`UPDATE denied_policies SET lift_reason = 'another' WHERE lifted_at <> 0`,
		`TRUNCATE denied_policies`,
	} {
		if err := postgrestest.Exec(ctx, db, stmt); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v, want it refused", stmt, err)
		}
	}
	for _, stmt := range []string{`UPDATE trust_domains SET simulated = false`, `DELETE FROM trust_domains`} {
		if err := postgrestest.Exec(ctx, db, stmt); err == nil || !strings.Contains(err.Error(), "for life") {
			t.Errorf("%s: %v, want it refused", stmt, err)
		}
	}
}

// Two servers with a chain each: the one goes on while the other's transaction
// holds its chain.
func TestTwoChainsDoNotWaitForOneAnother(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	one, two := filled(t, db), open(t, db)
	ctx := t.Context()
	must(t, one.Append(ctx, storetest.Batch("a", 1, 2)))

	// A transaction of the first server stands still between its two round trips:
	// an entry is written and not committed. (Written by hand, as Append does.)
	conn, err := pgx.Connect(ctx, db)
	must(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(ctx)
	must(t, err)
	_, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, postgres.ChainLock(td, "a"))
	must(t, err)
	_, err = tx.Exec(ctx, `INSERT INTO entries SELECT trust_domain, chain, 3, hash, payload, at, 'as-a-3', instance, evidence_digest FROM entries WHERE sequence = 2`)
	must(t, err)

	quick, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for n := uint64(1); n <= 20; n++ {
		if err := two.Append(quick, storetest.Batch("b", n, n)); err != nil {
			t.Fatalf("chain b waits for chain a: %v", err)
		}
	}
	// Who asks where chain a ends waits until that is decided.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if h, err := one.Head(short, td, "a"); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Head of a chain in doubt: %v, %v, want it to wait", h, err)
	}
	must(t, tx.Commit(ctx))
	if h, err := one.Head(ctx, td, "a"); err != nil || h.Sequence != 3 {
		t.Errorf("head %v, %v, want entry 3", h, err)
	}
}

// Each of two pools writes a chain of its own and, in turn with the other, one
// that they share: every record that was acknowledged is there, once.
func TestTwoServersAppendAtOnce(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	servers := []*postgres.Store{filled(t, db), open(t, db)}
	ctx := t.Context()
	const own, shared = 40, 40
	var mu sync.Mutex
	written := map[uint64]int{} // of the shared chain
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			chain := fmt.Sprintf("own%d", i)
			for n := uint64(1); n <= own; n++ {
				if err := s.Append(ctx, storetest.Batch(chain, n, n)); err != nil {
					t.Errorf("%s: %v", chain, err)
					return
				}
			}
		})
		wg.Go(func() {
			for {
				h, err := s.Head(ctx, td, "shared")
				if err != nil {
					t.Error(err)
					return
				}
				if h.Sequence >= shared {
					return
				}
				switch err := s.Append(ctx, storetest.Batch("shared", h.Sequence+1, h.Sequence+1)); {
				case err == nil:
					mu.Lock()
					written[h.Sequence+1]++
					mu.Unlock()
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for n := uint64(1); n <= shared; n++ {
		if written[n] != 1 {
			t.Errorf("entry %d of the shared chain was acknowledged %d times", n, written[n])
		}
	}
	for chain, want := range map[string]int{"own0": own, "own1": own, "shared": shared} {
		checkChain(t, servers[0], chain, uint64(want))
	}
}

// checkChain: the chain has exactly the entries 1 to n of storetest.
func checkChain(t *testing.T, s *postgres.Store, chain string, n uint64) {
	t.Helper()
	got, err := s.Entries(t.Context(), td, chain, 0, 1<<20)
	must(t, err)
	var seqs []uint64
	for _, e := range got {
		seqs = append(seqs, e.Sequence)
		if e.Hash != storetest.Entry(chain, e.Sequence).Hash {
			t.Errorf("entry %d of %s has another hash", e.Sequence, chain)
		}
	}
	var want []uint64
	for i := range n {
		want = append(want, i+1)
	}
	if !slices.Equal(seqs, want) {
		t.Errorf("chain %s has entries %v, want 1 to %d", chain, seqs, n)
	}
}
