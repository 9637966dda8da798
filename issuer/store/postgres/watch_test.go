package postgres_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
)

// hold runs a statement in a transaction that stays open until the function that
// it returns is called.
func hold(t *testing.T, db, statement string) (release func() error) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), statement)
	must(t, err)
	return func() error { return tx.Commit(context.Background()) }
}

// watching runs Watch, and returns a function that waits for an event.
func watching(t *testing.T, db string, poll time.Duration) (expect func(either ...store.Event)) {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{ConnString: db, Poll: poll})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	events, done := make(chan store.Event, 100), make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(e store.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = s.Close()
	})
	return func(want ...store.Event) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case got := <-events:
				if slices.Contains(want, got) {
					return
				}
				t.Logf("passed over %+v", got)
			case <-timeout:
				t.Fatalf("no event %+v", want)
			}
		}
	}
}

func TestServersAreToldWhatOthersChange(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	s := filled(t, db)
	ctx := t.Context()
	must(t, s.PutDocument(ctx, store.Document{TrustDomain: td, Kind: "before", Sequence: 1, Body: []byte{1}}))
	expect := watching(t, db, time.Hour) // told, not asked for
	expect(store.Event{TrustDomain: td, Topic: store.TopicDocuments})
	expect(store.Event{TrustDomain: td, Topic: store.TopicTrustDomains})

	must(t, s.PutDocument(ctx, store.Document{TrustDomain: td, Kind: "k", Sequence: 1, Body: []byte{1}}))
	expect(store.Event{TrustDomain: td, Topic: store.TopicDocuments, Key: "k"})
	must(t, s.AddAuthority(ctx, store.Authority{TrustDomain: td, Use: store.X509, ID: "aa", Server: "two", KeyName: "k", State: store.Active, Public: []byte{1}}))
	expect(store.Event{TrustDomain: td, Topic: store.TopicAuthorities, Key: "x509/aa"})
	must(t, s.PutPolicy(ctx, store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 1}}))
	expect(store.Event{TrustDomain: td, Topic: store.TopicPolicies, Key: "p"})
	ek := [32]byte{0xab}
	_, _, err := s.PutTPMs(ctx, []store.TPMEntry{{TrustDomain: td, EK: ek, Group: "g"}}, false)
	must(t, err)
	expect(store.Event{TrustDomain: td, Topic: store.TopicInventory})
	const hex = "ab00000000000000000000000000000000000000000000000000000000000000"
	must(t, s.PutTPMBinding(ctx, store.TPMBinding{TrustDomain: td, EK: ek, AK: []byte{1}}))
	expect(store.Event{TrustDomain: td, Topic: store.TopicBindings, Key: hex})
	must(t, s.DeleteTPMBinding(ctx, td, ek))
	expect(store.Event{TrustDomain: td, Topic: store.TopicBindings, Key: hex})
	must(t, s.PutTPMBinding(ctx, store.TPMBinding{TrustDomain: td, EK: ek, AK: []byte{1}}))
	expect(store.Event{TrustDomain: td, Topic: store.TopicBindings, Key: hex})
	must(t, s.DeleteTPMs(ctx, td, [][32]byte{ek}))
	expect(store.Event{TrustDomain: td, Topic: store.TopicInventory})
	expect(store.Event{TrustDomain: td, Topic: store.TopicBindings})
}

func TestAChangeThatWasNotHeardOfIsAskedFor(t *testing.T) {
	c := postgrestest.Start(t)
	db := c.Database(t)
	s := filled(t, db)
	expect := watching(t, db, 100*time.Millisecond)
	expect(store.Event{TrustDomain: td, Topic: store.TopicTrustDomains})
	c.Exec(t, db, `INSERT INTO changes VALUES ('`+td+`', 'policies', 5)`) // and no NOTIFY
	expect(store.Event{TrustDomain: td, Topic: store.TopicPolicies})

	c.Kill(t)
	expect(store.Event{Topic: store.TopicLost})
	c.Restart(t)
	expect(store.Event{Topic: store.TopicHeard})
	must(t, s.PutPolicy(t.Context(), store.PolicyChange{Policy: store.Policy{TrustDomain: td, Name: "p", Revision: 1}}))
	// Told or asked for: it depends on whether the watcher was back before.
	expect(store.Event{TrustDomain: td, Topic: store.TopicPolicies}, store.Event{TrustDomain: td, Topic: store.TopicPolicies, Key: "p"})
}
