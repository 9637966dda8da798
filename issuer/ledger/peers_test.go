package ledger_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// servers are several ledgers on one database, one chain each.
type servers struct {
	*fixture
	keys map[string]ed25519.PrivateKey
}

func newServers(t *testing.T, names ...string) *servers {
	t.Helper()
	s := &servers{newFixture(t), map[string]ed25519.PrivateKey{}}
	for _, n := range names {
		_, key, err := ed25519.GenerateKey(nil)
		must(t, err)
		s.keys[n] = key
	}
	return s
}

func (s *servers) public() map[string]ed25519.PublicKey {
	out := map[string]ed25519.PublicKey{}
	for n, k := range s.keys {
		out[n] = k.Public().(ed25519.PublicKey)
	}
	return out
}

// verifierKeys are all keys, as who verifies has them.
func (s *servers) verifierKeys(t *testing.T) map[string]ledger.VerifierKey {
	t.Helper()
	out := map[string]ledger.VerifierKey{}
	for n, k := range s.keys {
		key, err := ledger.NewVerifierKey(ledger.ChainName(td, n), k.Public())
		must(t, err)
		out[n] = key
	}
	return out
}

func (s *servers) openAs(t *testing.T, st store.Store, name string, o ledger.Options) *ledger.Ledger {
	t.Helper()
	o.Chain, o.Now = name, s.Now
	l, err := ledger.Open(t.Context(), st, td, crypto.Signer(s.keys[name]), o)
	must(t, err)
	l.FollowPeers(s.public)
	return l
}

func TestLookUpsGoOverAllChains(t *testing.T) {
	s := newServers(t, "a", "b")
	a, b := s.openAs(t, s.store, "a", ledger.Options{}), s.openAs(t, s.store, "b", ledger.Options{})
	run(t, a)
	run(t, b)
	var want []string
	for i := range 6 {
		l := []*ledger.Ledger{a, b}[i%2]
		r := s.record(t, l, attestedtest.Request{})
		want = append(want, r.Reference())
		s.Advance(time.Second)
	}
	first, err := b.Get(t.Context(), want[0])
	must(t, err)
	if first.Chain != "a" || first.Sequence != 1 {
		t.Errorf("the first is entry %d of chain %q", first.Sequence, first.Chain)
	}
	if by, err := b.BySerial(t.Context(), first.Entry.Identities[0].Serial); err != nil || by.Entry.Reference != want[0] {
		t.Errorf("by serial: %v, %v", by.Entry.Reference, err)
	}
	if ok, err := b.HasSerial(t.Context(), first.Entry.Identities[0].Serial); err != nil || !ok {
		t.Errorf("another server's serial: %t, %v", ok, err)
	}
	for key, i := range map[string]int{"2": 3, "a/2": 2, "b/2": 3} {
		if item, err := b.Get(t.Context(), key); err != nil || item.Entry.Reference != want[i] {
			t.Errorf("Get(%s) = %s, %v, want %s", key, item.Entry.Reference, err, want[i])
		}
	}
	for _, key := range []string{"a/4", "c/1", "a/", "/1", "a/b/1", "a/as-aaaaaaaaaa"} {
		if item, err := b.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get(%s) = %s, %v, want ErrNotFound", key, item.Entry.Reference, err)
		}
	}
	list := func(f ledger.Filter) (out []string) {
		for item, err := range a.Walk(t.Context(), f) {
			must(t, err)
			out = append(out, item.Entry.Reference)
		}
		return out
	}
	if d := cmp.Diff(want, list(ledger.Filter{Oldest: true})); d != "" {
		t.Errorf("oldest first: %s", d)
	}
	back := slices.Clone(want)
	slices.Reverse(back)
	if d := cmp.Diff(back, list(ledger.Filter{})); d != "" {
		t.Errorf("newest first: %s", d)
	}
	if d := cmp.Diff([]string{want[2], want[4]}, list(ledger.Filter{Chain: "a", After: 1, Oldest: true})); d != "" {
		t.Errorf("one chain: %s", d)
	}
	if _, err := a.List(t.Context(), ledger.Filter{After: 1}); err == nil {
		t.Error("a number of no chain passed")
	}
	reports, err := a.VerifyAll(t.Context(), s.verifierKeys(t), nil)
	must(t, err)
	if len(reports) != 2 || reports[0].Chain != "a" || reports[0].Entries != 3 || reports[1].Entries != 3 {
		t.Errorf("%+v", reports)
	}
}

// What is in a chain beside issuances is left out where issuances are asked for,
// and the hashes hold all the same.
func TestRecordsAreIssuancesOnly(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	first := f.record(t, l, attestedtest.Request{})
	for range 3 {
		_, err := l.RecordToken(t.Context(), f.token(first))
		must(t, err)
	}
	_, err := l.RecordAction(t.Context(), ledger.Action{Actor: "a", Method: "m", Outcome: "done"})
	must(t, err)
	f.record(t, l, attestedtest.Request{})
	for _, s := range []ledger.Span{{Outcome: ledger.Granted}, {Outcome: ledger.Granted, Since: f.Now().Add(-time.Minute), Limit: 2}} {
		var got []uint64
		for item, err := range l.Records(t.Context(), s) {
			must(t, err)
			must(t, item.Check(td, ""))
			if _, err := ledger.ParseGist(item.Payload); err != nil {
				t.Error(err)
			}
			got = append(got, item.Sequence)
		}
		if d := cmp.Diff([]uint64{1, 6}, got); d != "" {
			t.Errorf("%+v: %s", s, d)
		}
	}
	for outcome, want := range map[string]int{ledger.Granted: 2, ledger.Minted: 3, ledger.Admin: 1, ledger.Denied: 0, "": 6} {
		if got, err := l.List(t.Context(), ledger.Filter{Outcome: outcome}); err != nil || len(got) != want {
			t.Errorf("%q: %d, %v, want %d", outcome, len(got), err, want)
		}
	}
}

// A column that hides an issuance from who asks for issuances hides nothing.
func TestAnIssuanceThatIsCalledAnotherThingIsFound(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
	key := l.Key()
	must(t, f.store.Close())
	tamper(t, f.path, `UPDATE entries SET outcome = 'token'`)
	f.openStore(t)
	r := ledger.NewReader(f.store, td, "")
	n := 0
	for _, err := range r.Records(t.Context(), ledger.Span{Outcome: ledger.Granted}) {
		must(t, err)
		n++
	}
	if n != 1 {
		t.Errorf("%d issuances, want the one that is called a token", n)
	}
	_, err := r.Verify(t.Context(), key, nil)
	wantCheck(t, err, attest.Untrusted, "chain_index")
}

func TestCheckpointsNameEachOther(t *testing.T) {
	s := newServers(t, "a", "b", "c")
	a, b := s.openAs(t, s.store, "a", ledger.Options{}), s.openAs(t, s.store, "b", ledger.Options{})
	stopA := run(t, a)
	run(t, b)
	cp := func(l *ledger.Ledger) ledger.Checkpoint {
		t.Helper()
		s.record(t, l, attestedtest.Request{})
		note, err := l.Checkpoint(t.Context())
		must(t, err)
		c, err := ledger.ParseCheckpoint(note, l.Key())
		must(t, err)
		return c
	}
	first := cp(a)
	if len(first.Peers) != 0 {
		t.Errorf("alone, it names %v", first.Peers)
	}
	second := cp(b)
	if d := cmp.Diff([]ledger.Peer{{Chain: "a", Size: 1, Head: first.Head}}, second.Peers); d != "" {
		t.Error(d)
	}
	third := cp(a)
	if d := cmp.Diff([]ledger.Peer{{Chain: "b", Size: 1, Head: second.Head}}, third.Peers); d != "" {
		t.Error(d)
	}
	must(t, stopA())
	// It remembers after a restart.
	a = s.openAs(t, s.store, "a", ledger.Options{})
	run(t, a)
	if c := cp(a); len(c.Peers) != 1 || c.Peers[0].Chain != "b" {
		t.Errorf("after a restart it names %v", c.Peers)
	}
	reports, err := b.VerifyAll(t.Context(), s.verifierKeys(t), nil)
	must(t, err)
	if len(reports) != 2 || reports[0].Peers != 1 || reports[1].Peers != 2 {
		t.Errorf("%+v", reports)
	}
	if n := a.Stats().PeerFaults + b.Stats().PeerFaults; n != 0 {
		t.Errorf("%d faults", n)
	}
}

// A server that is killed again and again before a checkpoint is due makes one all
// the same.
func TestARestartDoesNotPutOffACheckpoint(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		ctx, kill := context.WithCancelCause(context.Background())
		st := &dyingStore{Store: f.store}
		l := f.openOn(t, st, ledger.Options{CheckpointInterval: time.Minute})
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		f.record(t, l, attestedtest.Request{})
		st.dead.Store(true) // no last checkpoint: it was killed
		kill(nil)
		if err := <-done; err == nil {
			t.Fatal("it stopped well")
		}
		f.Advance(25 * time.Second)
	}
	l := f.open(t, ledger.Options{CheckpointInterval: time.Minute})
	run(t, l)
	f.record(t, l, attestedtest.Request{})
	for end := time.Now().Add(10 * time.Second); l.LatestCheckpoint() == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no checkpoint, 75 seconds after the first entry")
		}
	}
}

// dyingStore is a store that is gone from a moment on.
type dyingStore struct {
	store.Store
	dead atomic.Bool
}

func (s *dyingStore) Append(ctx context.Context, b store.Batch) error {
	if s.dead.Load() {
		return errors.New("killed")
	}
	return s.Store.Append(ctx, b)
}

// Who can write the database and has no key cannot have a server sign a head that
// its peer never had.
func TestACheckpointThatNoPeerSignedIsNotNamed(t *testing.T) {
	s := newServers(t, "a", "b")
	_, forger, err := ed25519.GenerateKey(nil)
	must(t, err)
	bKey, err := ledger.NewVerifierKey(ledger.ChainName(td, "b"), forger.Public())
	must(t, err)
	forged, err := ledger.SignNote(ledger.ChainName(td, "b")+"\n5\n"+strings.Repeat("A", 43)+"=\ntime 2026-11-01T12:00:00Z\n", bKey, forger)
	must(t, err)
	must(t, s.store.Append(t.Context(), store.Batch{TrustDomain: td, Chain: "b", Checkpoints: []store.Checkpoint{{Size: 5, Note: forged, At: s.Now()}}}))
	a := s.openAs(t, s.store, "a", ledger.Options{})
	run(t, a)
	s.record(t, a, attestedtest.Request{})
	note, err := a.Checkpoint(t.Context())
	must(t, err)
	c, err := ledger.ParseCheckpoint(note, a.Key())
	must(t, err)
	if len(c.Peers) != 0 || a.Stats().PeerFaults != 1 {
		t.Errorf("it names %v, and saw %d faults, want none and 1", c.Peers, a.Stats().PeerFaults)
	}
	// A server that nobody endorsed is not spoken of either.
	must(t, s.store.Append(t.Context(), store.Batch{TrustDomain: td, Chain: "stranger", Checkpoints: []store.Checkpoint{{Size: 1, Note: forged, At: s.Now()}}}))
	s.record(t, a, attestedtest.Request{})
	if _, err := a.Checkpoint(t.Context()); err != nil {
		t.Error(err)
	}
}

// cutChain is a world of two servers in which b's chain loses its end: rows and
// checkpoints, as who owns the database can do.
func TestAChainThatIsCutIsFoundByItsPeer(t *testing.T) {
	for _, tt := range []struct {
		name, check string
		stmts       []string
	}{
		{"its end", "peer_truncation", []string{
			`DELETE FROM identities WHERE chain = 'b' AND sequence > 1`, `DELETE FROM entries WHERE chain = 'b' AND sequence > 1`, `DELETE FROM checkpoints WHERE chain = 'b' AND size > 1`}},
		{"all of it", "chain_missing", []string{
			`DELETE FROM identities WHERE chain = 'b'`, `DELETE FROM entries WHERE chain = 'b'`, `DELETE FROM checkpoints WHERE chain = 'b'`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServers(t, "a", "b")
			a, b := s.openAs(t, s.store, "a", ledger.Options{}), s.openAs(t, s.store, "b", ledger.Options{})
			stopA, stopB := run(t, a), run(t, b)
			for range 2 {
				s.record(t, b, attestedtest.Request{})
				_, err := b.Checkpoint(t.Context())
				must(t, err)
			}
			s.record(t, a, attestedtest.Request{})
			must(t, stopA())
			must(t, stopB())
			_, err := a.VerifyAll(t.Context(), s.verifierKeys(t), nil)
			must(t, err)
			must(t, s.store.Close())
			tamper(t, s.path, tt.stmts...)
			s.openStore(t)
			a = s.openAs(t, s.store, "a", ledger.Options{})
			run(t, a)
			_, err = a.VerifyAll(t.Context(), s.verifierKeys(t), nil)
			wantCheck(t, err, attest.Untrusted, tt.check)
			// The running server notices too, at its next checkpoint, and goes on saying
			// what it saw.
			s.record(t, a, attestedtest.Request{})
			note, err := a.Checkpoint(t.Context())
			must(t, err)
			c, err := ledger.ParseCheckpoint(note, a.Key())
			must(t, err)
			if a.Stats().PeerFaults == 0 || len(c.Peers) != 1 || c.Peers[0].Size != 2 {
				t.Errorf("%d faults; it names %v", a.Stats().PeerFaults, c.Peers)
			}
		})
	}
}

func TestVerificationWantsTheKeyOfEveryChain(t *testing.T) {
	s := newServers(t, "a", "b")
	a, b := s.openAs(t, s.store, "a", ledger.Options{}), s.openAs(t, s.store, "b", ledger.Options{})
	run(t, a)
	run(t, b)
	var elsewhere [][]byte
	for _, l := range []*ledger.Ledger{a, b} {
		s.record(t, l, attestedtest.Request{})
		note, err := l.Checkpoint(t.Context())
		must(t, err)
		elsewhere = append(elsewhere, note)
	}
	keys := s.verifierKeys(t)
	reports, err := a.VerifyAll(t.Context(), keys, elsewhere)
	must(t, err)
	if reports[0].Checkpoints != 2 || reports[1].Checkpoints != 2 {
		t.Errorf("%+v", reports)
	}
	other := maps.Clone(keys)
	delete(other, "b")
	_, err = a.VerifyAll(t.Context(), other, nil)
	wantCheck(t, err, attest.Untrusted, "checkpoint_signature")
	other["b"] = keys["a"]
	_, err = a.VerifyAll(t.Context(), other, nil)
	wantCheck(t, err, attest.Untrusted, "checkpoint_signature")
}

func TestWhatACheckpointSaysOfOthersIsStrict(t *testing.T) {
	_, signer, err := ed25519.GenerateKey(nil)
	must(t, err)
	key, err := ledger.NewVerifierKey(ledger.ChainName(td, "a"), signer.Public())
	must(t, err)
	head := strings.Repeat("A", 43) + "="
	parse := func(lines ...string) error {
		t.Helper()
		text := ledger.ChainName(td, "a") + "\n1\n" + head + "\ntime 2026-11-01T12:00:00Z\n" + strings.Join(lines, "")
		note, err := ledger.SignNote(text, key, signer)
		must(t, err)
		_, err = ledger.ParseCheckpoint(note, key)
		return err
	}
	peer := func(chain string) string { return "peer " + ledger.ChainName(td, chain) + " 7 " + head + "\n" }
	must(t, parse(peer("b"), peer("c.20261122t080000"), "something of a later version\n"))
	for name, lines := range map[string][]string{
		"itself":               {peer("a")},
		"another trust domain": {"peer other.example.org/assay/ledger/b 7 " + head + "\n"},
		"no name":              {peer("")},
		"a name of no chain":   {peer("B")},
		"twice":                {peer("b"), peer("b")},
		"out of order":         {peer("c"), peer("b")},
		"a short head":         {"peer " + ledger.ChainName(td, "b") + " 7 AAAA\n"},
		"a size with zeros":    {"peer " + ledger.ChainName(td, "b") + " 07 " + head + "\n"},
		"five words":           {"peer " + ledger.ChainName(td, "b") + " 7 " + head + " x\n"},
	} {
		if parse(lines...) == nil {
			t.Errorf("%s: it passed", name)
		}
	}
}

// lateStore lets another server write between the look at what keys are on record
// and the commit.
type lateStore struct {
	store.Store
	once sync.Once
	late func()
}

func (s *lateStore) KeysOnRecord(ctx context.Context, td string, thumbs [][32]byte) (map[[32]byte]bool, error) {
	used, err := s.Store.KeysOnRecord(ctx, td, thumbs)
	s.once.Do(s.late)
	return used, err
}

// One key that is sent to two servers at once gets one SVID, and who waits for the
// same commit gets theirs.
func TestAKeyThatAnotherServerTakesAtTheSameTimeFailsAlone(t *testing.T) {
	s := newServers(t, "a", "b")
	b := s.openAs(t, s.store, "b", ledger.Options{})
	run(t, b)
	keys := newKeys(t, 4)
	stolen := s.Grant(t, attestedtest.Request{Keys: keys[1:2]})
	late := &lateStore{Store: s.store, late: func() {
		if _, err := b.Record(context.Background(), stolen, ledger.Origin{}); err != nil {
			t.Error(err)
		}
	}}
	a := s.openAs(t, late, "a", ledger.Options{})
	results := make([]error, len(keys))
	var wg sync.WaitGroup
	for i := range keys {
		g := s.Grant(t, attestedtest.Request{Keys: keys[i : i+1]})
		wg.Go(func() { _, results[i] = a.Record(context.Background(), g, ledger.Origin{}) })
	}
	for a.Stats().Queue < len(keys) {
		time.Sleep(time.Millisecond)
	}
	stop := run(t, a)
	wg.Wait()
	must(t, stop())
	for i, err := range results {
		if i == 1 {
			wantCheck(t, err, attest.Malformed, "duplicate_key")
		} else if err != nil {
			t.Errorf("key %d: %v", i, err)
		}
	}
	if st := a.Stats(); st.Size != 3 || st.Failures != 0 {
		t.Errorf("size %d, failures %d, want 3 and 0", st.Size, st.Failures)
	}
	_, err := a.VerifyAll(t.Context(), s.verifierKeys(t), nil)
	must(t, err)
}

// An ID that a token has cannot be another's, and costs nobody else.
func TestATokensIDIsGivenOnce(t *testing.T) {
	s := newServers(t, "a", "b")
	b := s.openAs(t, s.store, "b", ledger.Options{})
	run(t, b)
	tok := s.token(s.record(t, b, attestedtest.Request{}))
	tok.ID = strings.Repeat("ab", 16)
	_, err := b.RecordToken(t.Context(), tok)
	must(t, err)
	a := s.openAs(t, s.store, "a", ledger.Options{})
	var wg sync.WaitGroup
	var twice, beside error
	wg.Go(func() { _, twice = a.RecordToken(context.Background(), tok) })
	other := tok
	other.ID = ""
	wg.Go(func() { _, beside = a.RecordToken(context.Background(), other) })
	for a.Stats().Queue < 2 {
		time.Sleep(time.Millisecond)
	}
	stop := run(t, a)
	wg.Wait()
	must(t, stop())
	wantCheck(t, twice, attest.Internal, "ledger_duplicate")
	if beside != nil {
		t.Error(beside)
	}
}
