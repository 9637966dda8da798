package ledger_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
)

func TestCheckpointsComeByCountByTimeOnDemandAndAtTheEnd(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{CheckpointEntries: 3, CheckpointInterval: time.Minute})
	stop := run(t, l)
	if l.LatestCheckpoint() != nil {
		t.Error("a checkpoint of an empty chain")
	}
	size := func() uint64 { return l.Stats().CheckpointSize }
	eventually := func(what string, want uint64) {
		t.Helper()
		for range 400 {
			if size() == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s: the checkpoint covers %d entries, want %d", what, size(), want)
	}
	for range 3 {
		f.record(t, l, attestedtest.Request{})
	}
	eventually("after three entries", 3)
	f.record(t, l, attestedtest.Request{})
	if size() != 3 {
		t.Error("a checkpoint before it was due")
	}
	f.Advance(time.Minute)
	eventually("after a minute", 4)
	f.record(t, l, attestedtest.Request{})
	note, err := l.Checkpoint(t.Context())
	must(t, err)
	if size() != 5 || !bytes.Equal(note, l.LatestCheckpoint()) {
		t.Errorf("on demand: covers %d", size())
	}
	again, err := l.Checkpoint(t.Context())
	must(t, err)
	if !bytes.Equal(note, again) {
		t.Error("nothing changed, and another checkpoint was made")
	}
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
	eventually("at the end", 6)

	cp, err := ledger.ParseCheckpoint(l.LatestCheckpoint(), l.Key())
	must(t, err)
	head, err := f.store.Head(t.Context(), td, "main")
	must(t, err)
	if d := cmp.Diff(ledger.Checkpoint{TrustDomain: td, Chain: "main", Size: 6, Head: head.Hash, Time: f.Now()}, cp); d != "" {
		t.Error(d)
	}
	if stored, err := l.Checkpoints(t.Context()); err != nil || len(stored) != 4 {
		t.Errorf("%d checkpoints stored, %v, want 4", len(stored), err)
	}
	// The newest is there after a restart, before anything is written.
	if again := f.open(t, ledger.Options{}); !bytes.Equal(again.LatestCheckpoint(), l.LatestCheckpoint()) {
		t.Error("the latest checkpoint was lost by a restart")
	}
}

func TestTheSinkHoldsEveryCheckpoint(t *testing.T) {
	f := newFixture(t)
	sink := filepath.Join(t.TempDir(), "checkpoints")
	for range 2 {
		l := f.open(t, ledger.Options{Sink: sink, CheckpointEntries: 1})
		stop := run(t, l)
		f.record(t, l, attestedtest.Request{})
		f.record(t, l, attestedtest.Request{})
		must(t, stop())
	}
	l := f.open(t, ledger.Options{})
	b, err := os.ReadFile(sink)
	must(t, err)
	stored, err := l.Checkpoints(t.Context())
	must(t, err)
	if d := cmp.Diff(stored, ledger.SplitNotes(b)); d != "" || len(stored) != 4 {
		t.Errorf("%d stored: (-stored +sink)\n%s", len(stored), d)
	}
	if _, err := l.Verify(t.Context(), l.Key(), ledger.SplitNotes(b)); err != nil {
		t.Error(err)
	}
}

func TestARolledBackDatabaseIsNoticedAtTheStart(t *testing.T) {
	f := newFixture(t)
	sink := filepath.Join(t.TempDir(), "checkpoints")
	o := ledger.Options{Sink: sink}
	stop := run(t, f.open(t, o))
	must(t, stop())
	l := f.open(t, o)
	stop = run(t, l)
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
	must(t, f.store.Close())
	backup, err := os.ReadFile(f.path)
	must(t, err)

	f.openStore(t)
	l = f.open(t, o)
	stop = run(t, l)
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
	must(t, f.store.Close())

	must(t, os.WriteFile(f.path, backup, 0o600)) // the state of one entry ago
	f.openStore(t)
	_, err = ledger.Open(t.Context(), f.store, td, f.signer, ledger.Options{Now: f.Now, Sink: sink})
	wantCheck(t, err, attest.Internal, "sink_ahead")
	check := func(sink string) error {
		return ledger.Check(t.Context(), f.store, td, f.signer, ledger.Options{Now: f.Now, Sink: sink})
	}
	wantCheck(t, check(sink), attest.Internal, "sink_ahead")
	must(t, check(""))
	missing := filepath.Join(t.TempDir(), "none")
	must(t, check(missing))
	if _, err := os.Stat(missing); err == nil {
		t.Error("Check made a sink")
	}
	wantCheck(t, check(filepath.Join(missing, "none")), attest.Internal, "sink_file")
	f.open(t, ledger.Options{}) // without the witness nobody can tell

	// Another second entry than the one that the sink has seen.
	l = f.open(t, ledger.Options{})
	stop = run(t, l)
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
	_, err = ledger.Open(t.Context(), f.store, td, f.signer, ledger.Options{Now: f.Now, Sink: sink})
	wantCheck(t, err, attest.Internal, "sink_ahead")
	b, err := os.ReadFile(sink)
	must(t, err)
	_, err = l.Verify(t.Context(), l.Key(), ledger.SplitNotes(b))
	wantCheck(t, err, attest.Untrusted, "checkpoint_mismatch")
}

func TestATornSinkIsMarkedAndGoesOn(t *testing.T) {
	f := newFixture(t)
	sink := filepath.Join(t.TempDir(), "checkpoints")
	cycle := func() {
		t.Helper()
		l := f.open(t, ledger.Options{Sink: sink})
		stop := run(t, l)
		f.record(t, l, attestedtest.Request{})
		must(t, stop())
	}
	cycle()
	whole, err := os.ReadFile(sink)
	must(t, err)
	cuts := []int{len(whole) - 2, len(whole) - 1} // in the last line feeds
	for cut := 1; cut < len(whole); cut += 37 {
		cuts = append(cuts, cut)
	}
	for _, cut := range cuts {
		must(t, os.WriteFile(sink, append(bytes.Clone(whole), whole[:cut]...), 0o600))
		cycle()
		b, err := os.ReadFile(sink)
		must(t, err)
		l := f.open(t, ledger.Options{})
		notes := ledger.SplitNotes(b)
		for i, n := range notes {
			// A torn piece can look like a note with a damaged signature line.
			if _, err := ledger.ParseCheckpoint(n, l.Key()); err != nil {
				t.Errorf("cut at %d: note %d: %v", cut, i, err)
			}
		}
		if len(notes) < 2 || !bytes.Equal(notes[len(notes)-1], l.LatestCheckpoint()) {
			t.Errorf("cut at %d: the last note is not the latest checkpoint: %d notes", cut, len(notes))
		}
		must(t, os.WriteFile(sink, whole, 0o600))
	}
}

func TestASinkThatCannotBeWrittenIsAnErrorAtTheStart(t *testing.T) {
	f := newFixture(t)
	_, err := ledger.Open(t.Context(), f.store, td, f.signer, ledger.Options{Now: f.Now, Sink: filepath.Join(t.TempDir(), "no", "such")})
	wantCheck(t, err, attest.Internal, "sink_file")
}

func TestTwoChainsOfOneTrustDomainStandBesideEachOther(t *testing.T) {
	f := newFixture(t)
	a, b := f.open(t, ledger.Options{Chain: "east"}), f.open(t, ledger.Options{Chain: "west"})
	run(t, a)
	run(t, b)
	ra, rb := f.record(t, a, attestedtest.Request{}), f.record(t, b, attestedtest.Request{})
	if ra.Sequence() != 1 || rb.Sequence() != 1 {
		t.Errorf("sequences %d and %d, want 1 and 1", ra.Sequence(), rb.Sequence())
	}
	verifies(t, a)
	verifies(t, b)
	east, err := a.Checkpoint(t.Context())
	must(t, err)
	if _, err := ledger.ParseCheckpoint(east, b.Key()); err == nil {
		t.Error("a checkpoint of one chain passes for the other's")
	}
	for _, name := range []string{"East", "a/b", "a b", "a+b", strings.Repeat("a", 65)} {
		if _, err := ledger.Open(t.Context(), f.store, td, f.signer, ledger.Options{Now: f.Now, Chain: name}); err == nil {
			t.Errorf("a chain was named %q", name)
		}
	}
}
