package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/storetest"
)

func TestARestoredSQLiteIsNumberedOn(t *testing.T) {
	storetest.RunRestored(t, func(t *testing.T) store.Store { return open(t, newPath(t)) })
}

// Snapshots are taken while a server appends as fast as it can: each is whole,
// has a chain without gaps, and has at least what was durable before it began.
func TestASnapshotUnderLoadIsOfOneMoment(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	const td = "simulated.example.org"
	ctx := context.WithoutCancel(t.Context())
	if err := s.InitTrustDomain(ctx, store.TrustDomain{Name: td, Simulated: true, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		var head store.Head
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			next := store.Head{Sequence: head.Sequence + 1, Hash: [32]byte{byte(head.Sequence), byte(head.Sequence >> 8), 1}}
			e := store.Entry{
				Sequence: next.Sequence, Hash: next.Hash, Payload: make([]byte, 5000), At: time.Now(), Outcome: "granted",
				Reference: fmt.Sprint("r", next.Sequence), Instance: "i",
				Identities: []store.Identity{{Serial: fmt.Sprintf("%032x", next.Sequence), SPIFFEID: "spiffe://x/y", KeyThumbprint: next.Hash, NotAfter: time.Now()}},
			}
			if err := s.Append(ctx, store.Batch{TrustDomain: td, Chain: "main", Previous: head, Entries: []store.Entry{e}}); err != nil {
				done <- err
				return
			}
			head = next
		}
	}()
	for i := range 5 {
		for {
			h, err := s.Head(ctx, td, "main")
			if err != nil {
				t.Fatal(err)
			}
			if h.Sequence > uint64(10*(i+1)) {
				break
			}
		}
		before, err := s.Head(ctx, td, "main")
		if err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(t.TempDir(), "copy.db")
		if err := store.SnapshotSQLite(ctx, path, into); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(into)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the snapshot's mode: %v, %v", info.Mode(), err)
		}
		if err := store.CheckSQLite(ctx, into); err != nil {
			t.Fatal(err)
		}
		c, err := store.OpenSQLiteReadOnly(ctx, into)
		if err != nil {
			t.Fatal(err)
		}
		head, err := c.Head(ctx, td, "main")
		if err != nil || head.Sequence < before.Sequence {
			t.Errorf("the snapshot ends at %d (%v), %d were durable before", head.Sequence, err, before.Sequence)
		}
		all, err := c.Entries(ctx, td, "main", 0, 1_000_000)
		if err != nil || uint64(len(all)) != head.Sequence {
			t.Errorf("the snapshot has %d entries (%v), its head is %d", len(all), err, head.Sequence)
		}
		stray, err := c.StrayIdentities(ctx, td)
		if err != nil || stray != 0 {
			t.Errorf("%d identities without an entry (%v)", stray, err)
		}
		_ = c.Close()
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestASnapshotReplacesNothing(t *testing.T) {
	path := newPath(t)
	open(t, path)
	into := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(into, []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.SnapshotSQLite(t.Context(), path, into); err == nil {
		t.Error("a file was replaced")
	}
	if b, err := os.ReadFile(into); err != nil || string(b) != "something" {
		t.Errorf("the file is now %q (%v)", b, err)
	}
}

func TestDamageOfADatabaseFileIsFound(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	if err := s.InitTrustDomain(t.Context(), store.TrustDomain{Name: "simulated.example.org", Simulated: true, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(t.TempDir(), "copy.db")
	if err := store.SnapshotSQLite(t.Context(), path, into); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(into)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(b); i += 512 { // every page but the first, which has the header
		b[i] ^= 0xff
	}
	if err := os.WriteFile(into, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.CheckSQLite(t.Context(), into); attest.CheckOf(err) != "database_damaged" {
		t.Errorf("damage: %v, want database_damaged", err)
	}
}
