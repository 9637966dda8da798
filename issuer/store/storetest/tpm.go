package storetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

func tpmBindings(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	ek := [32]byte{1}
	if _, err := s.TPMBinding(ctx, td, ek); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("none: %v, want ErrNotFound", err)
	}
	b := store.TPMBinding{TrustDomain: td, EK: ek, AK: []byte{0, 11, 7}, HasClock: true, Reset: 1<<32 - 1, Restart: 3, At: start}
	must(t, s.PutTPMBinding(ctx, b))
	next := b
	next.AK, next.Reset, next.HasClock, next.At = []byte{0, 11, 8}, 0, false, start.Add(time.Hour)
	other := b
	other.EK = [32]byte{2}
	must(t, s.PutTPMBinding(ctx, other))
	must(t, s.PutTPMBinding(ctx, next))
	s = reopen(t, s)
	got, err := s.TPMBinding(ctx, td, ek)
	must(t, err)
	diff(t, next, got)
	must(t, s.DeleteTPMBinding(ctx, td, ek))
	must(t, s.DeleteTPMBinding(ctx, td, ek))
	if _, err := s.TPMBinding(ctx, td, ek); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted: %v, want ErrNotFound", err)
	}
	got, err = s.TPMBinding(ctx, td, other.EK)
	must(t, err)
	diff(t, other, got)
	other.TrustDomain = "other.example.org"
	if err := s.PutTPMBinding(ctx, other); err == nil {
		t.Error("a binding of an unknown trust domain was stored")
	}
}

func tpmInventory(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	entry := func(n byte, group, note string) store.TPMEntry {
		return store.TPMEntry{TrustDomain: td, EK: [32]byte{n}, Group: group, Note: note, AddedAt: start}
	}
	put := func(replace bool, entries ...store.TPMEntry) (added, replaced int, err error) {
		return s.PutTPMs(ctx, entries, replace)
	}
	list := func(want ...store.TPMEntry) {
		t.Helper()
		got, err := s.TPMInventory(ctx, td)
		must(t, err)
		diff(t, want, got)
	}
	list()
	if added, replaced, err := put(false, entry(2, "b", "two"), entry(1, "b", ""), entry(3, "a", "")); added != 3 || replaced != 0 || err != nil {
		t.Errorf("added %d, replaced %d, %v", added, replaced, err)
	}
	list(entry(3, "a", ""), entry(1, "b", ""), entry(2, "b", "two"))

	// The same again is no change; other content is a conflict, of all of it.
	if added, replaced, err := put(false, entry(1, "b", "")); added != 0 || replaced != 0 || err != nil {
		t.Errorf("the same: %d, %d, %v", added, replaced, err)
	}
	added, replaced, err := put(false, entry(4, "c", ""), entry(1, "c", ""), entry(2, "b", "other"))
	if !errors.Is(err, store.ErrConflict) || added != 0 || replaced != 0 {
		t.Errorf("conflict: %d, %d, %v", added, replaced, err)
	}
	if err != nil && (!strings.Contains(err.Error(), "0100000000") || !strings.Contains(err.Error(), "0200000000") || strings.Contains(err.Error(), "0400000000")) {
		t.Errorf("the conflict does not name those that are there: %v", err)
	}
	list(entry(3, "a", ""), entry(1, "b", ""), entry(2, "b", "two"))

	later := entry(2, "a", "moved")
	later.AddedAt = start.Add(time.Hour)
	if added, replaced, err := put(true, later, entry(4, "c", "")); added != 1 || replaced != 1 || err != nil {
		t.Errorf("replacing: %d, %d, %v", added, replaced, err)
	}
	s = reopen(t, s)
	list(entry(2, "a", "moved"), entry(3, "a", ""), entry(1, "b", ""), entry(4, "c", "")) // added when it was

	// What was activated shows, and goes with the entry.
	must(t, s.PutTPMBinding(ctx, store.TPMBinding{TrustDomain: td, EK: [32]byte{1}, AK: []byte{1}, At: start.Add(time.Minute)}))
	bound := entry(1, "b", "")
	bound.ActivatedAt = start.Add(time.Minute)
	list(entry(2, "a", "moved"), entry(3, "a", ""), bound, entry(4, "c", ""))
	if err := s.DeleteTPMs(ctx, td, [][32]byte{{1}, {9}}); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "0900000000") {
		t.Errorf("unknown: %v, want ErrNotFound", err)
	}
	list(entry(2, "a", "moved"), entry(3, "a", ""), bound, entry(4, "c", ""))
	must(t, s.DeleteTPMs(ctx, td, [][32]byte{{1}, {2}}))
	list(entry(3, "a", ""), entry(4, "c", ""))
	if _, err := s.TPMBinding(ctx, td, [32]byte{1}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the binding of a removed TPM: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := s.PutTPMs(ctx, []store.TPMEntry{entry(8, "a", "")}, false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A boot log is stored once, and kept as long as evidence names it.
func eventLogs(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	log, other := bytes.Repeat([]byte("event"), 1000), []byte("another boot")
	evidence := func(n byte, log []byte, denied bool, at time.Time) store.Evidence {
		return store.Evidence{Digest: [32]byte{n}, Platform: "tpm2", Body: []byte{n}, EventLog: log, Denied: denied, At: at}
	}
	must(t, s.Append(ctx, store.Batch{TrustDomain: td, Chain: "a", Evidence: []store.Evidence{
		evidence(1, log, false, start), evidence(2, log, true, start.Add(time.Hour)), evidence(3, other, true, start), evidence(4, nil, false, start.Add(time.Hour)),
	}}))
	u, err := s.Usage(ctx, td)
	must(t, err)
	diff(t, store.Usage{Evidence: 2 + int64(len(log)), DeniedEvidence: 2 + int64(len(other))}, u)
	for n, want := range map[byte][]byte{1: log, 2: log, 3: other, 4: nil} {
		got, err := s.Evidence(ctx, td, [32]byte{n})
		must(t, err)
		if !bytes.Equal(got.EventLog, want) || (want == nil) != (got.EventLog == nil) {
			t.Errorf("evidence %d has a log of %d bytes, want %d", n, len(got.EventLog), len(want))
		}
	}
	p, err := s.Prune(ctx, td, start.Add(time.Minute), 9)
	must(t, err)
	diff(t, store.Pruned{Evidence: 2, EventLogs: 1}, p)
	got, err := s.Evidence(ctx, td, [32]byte{2})
	must(t, err)
	if !bytes.Equal(got.EventLog, log) {
		t.Error("a log that evidence names was pruned")
	}
	p, err = s.Prune(ctx, td, start.Add(2*time.Hour), 9)
	must(t, err)
	diff(t, store.Pruned{Evidence: 2, EventLogs: 1}, p)
	u, err = s.Usage(ctx, td)
	must(t, err)
	diff(t, store.Usage{}, u)
	// It comes again, and is stored again.
	must(t, s.Append(ctx, store.Batch{TrustDomain: td, Chain: "a", Evidence: []store.Evidence{evidence(5, log, false, start)}}))
	got, err = s.Evidence(ctx, td, [32]byte{5})
	must(t, err)
	if !bytes.Equal(got.EventLog, log) {
		t.Error("a log that came again is not there")
	}
}
