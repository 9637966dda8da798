package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/assay-project/assay/issuer/store"
)

// No serial, key or reference of one chain is taken by another.
func once(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.Append(ctx, Batch("a", 1, 3)))
	taken := Entry("a", 2)
	for name, spoil := range map[string]func(*store.Entry){
		"the serial":    func(e *store.Entry) { e.Identities[0].Serial = taken.Identities[0].Serial },
		"the key":       func(e *store.Entry) { e.Identities[0].KeyThumbprint = taken.Identities[0].KeyThumbprint },
		"the reference": func(e *store.Entry) { e.Reference = taken.Reference },
	} {
		b := Batch("b", 1, 2)
		spoil(&b.Entries[1])
		if err := s.Append(ctx, b); !errors.Is(err, store.ErrDuplicate) || errors.Is(err, store.ErrConflict) {
			t.Errorf("%s of another chain's entry: %v, want ErrDuplicate", name, err)
		}
		if h, err := s.Head(ctx, td, "b"); err != nil || h != (store.Head{}) {
			t.Errorf("%s: head %v, %v: part of the batch was written", name, h, err)
		}
	}
	must(t, s.Append(ctx, Batch("b", 1, 2)))
}

// atOnce runs f n times together, and counts those that succeeded. All others
// must have failed by a conflict.
func atOnce(t *testing.T, what string, n int, f func(ctx context.Context, i int) error) (won int) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(context.WithoutCancel(t.Context()), i) })
	}
	wg.Wait()
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrConflict):
			t.Errorf("%s: %v, want ErrConflict", what, err)
		}
	}
	return won
}

// What reads before it writes does so as if it were alone.
func inTurn(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	const n = 6
	if won := atOnce(t, "trust domains", n, func(ctx context.Context, i int) error {
		return s.InitTrustDomain(ctx, store.TrustDomain{Name: "other.example.org", Simulated: i%2 == 0, CreatedAt: start})
	}); won != n/2 {
		t.Errorf("%d of %d servers, half of each kind, made a trust domain", won, n)
	}
	won := atOnce(t, "authorities", n, func(ctx context.Context, i int) error {
		return s.AddAuthority(ctx, store.Authority{
			TrustDomain: td, Use: store.X509, ID: fmt.Sprintf("%02x", i), Server: "main", KeyName: "k", State: store.Prepared,
			Public: []byte{1}, NotBefore: start, NotAfter: start, CreatedAt: start,
		})
	})
	row, err := s.TrustDomain(ctx, td)
	must(t, err)
	all, err := s.Authorities(ctx, td, store.X509)
	must(t, err)
	if won != n || row.BundleSequence != n || len(all) != n {
		t.Errorf("%d authorities added, %d are there, the bundle sequence is %d; want %d each", won, len(all), row.BundleSequence, n)
	}

	won = atOnce(t, "documents", n, func(ctx context.Context, i int) error {
		return s.PutDocument(ctx, store.Document{TrustDomain: td, Kind: "k", Sequence: 7, Body: []byte{byte(i)}, CreatedAt: start})
	})
	if won != 1 {
		t.Errorf("%d documents with one sequence were stored", won)
	}

	won = atOnce(t, "policies", n, func(ctx context.Context, i int) error { return s.PutPolicy(ctx, change("p", 3, byte(i))) })
	inForce, err := s.PolicyChanges(ctx, td, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 9})
	must(t, err)
	if won != 1 || len(inForce) != 1 {
		t.Errorf("%d policies with one revision came into force, %d are on record", won, len(inForce))
	}
	// All of other names: they come into force one after the other, and the last
	// of the record is the one that is in force.
	if won := atOnce(t, "names", n, func(ctx context.Context, i int) error {
		return s.PutPolicy(ctx, change(fmt.Sprint("n", i), 1, byte(i)))
	}); won != n {
		t.Errorf("%d policies came into force, want %d", won, n)
	}

	won = atOnce(t, "inventory", n, func(ctx context.Context, i int) error {
		_, _, err := s.PutTPMs(ctx, []store.TPMEntry{{TrustDomain: td, EK: [32]byte{1}, Group: fmt.Sprint("g", i), AddedAt: start}}, false)
		return err
	})
	if won != 1 {
		t.Errorf("one TPM is in %d groups", won)
	}
}

func byteOrder(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	for _, name := range []string{"b.example", "a-b.example", "B.example", "a.b.example", "ab.example"} {
		must(t, s.InitTrustDomain(ctx, store.TrustDomain{Name: name, CreatedAt: start}))
	}
	all, err := s.TrustDomains(ctx)
	must(t, err)
	var names []string
	for _, row := range all {
		names = append(names, row.Name)
	}
	diff(t, []string{"B.example", "a-b.example", "a.b.example", "ab.example", "b.example", td}, names)

	var entries []store.TPMEntry
	for i, group := range []string{"b", "a_b", "B", "a-b", "ab", "é"} {
		entries = append(entries, store.TPMEntry{TrustDomain: td, EK: [32]byte{byte(i)}, Group: group, AddedAt: start})
	}
	_, _, err = s.PutTPMs(ctx, entries, false)
	must(t, err)
	list, err := s.TPMInventory(ctx, td)
	must(t, err)
	names = nil
	for _, e := range list {
		names = append(names, e.Group)
	}
	diff(t, []string{"B", "a-b", "a_b", "ab", "b", "é"}, names)
}

func anyText(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	const odd = "it's \"odd\" \\x00 %s $1 ?1 {\n\tλ 🔑 \u2028"
	c := change("p", 1, 1)
	c.Actor, c.Note, c.Detail = odd, odd, odd
	must(t, s.PutPolicy(ctx, c))
	b := Batch("a", 1, 1)
	b.Entries[0].Instance, b.Entries[0].Reference = odd, odd
	b.Entries[0].Payload = []byte("\x00\xff not text at all")
	must(t, s.Append(ctx, b))
	got, err := s.PolicyChanges(ctx, td, store.FindPolicy{Limit: 1})
	must(t, err)
	if len(got) != 1 || got[0].Actor != odd || got[0].Note != odd || got[0].Detail != odd {
		t.Errorf("%+v came back", got)
	}
	entries, err := s.FindEntries(ctx, td, "a", store.Find{Instance: odd, Reference: odd, Limit: 2})
	must(t, err)
	b.Entries[0].Identities = nil
	diff(t, b.Entries, entries)

	// What is no text comes with refused documents. The refusal is on record all
	// the same, as text.
	c = change("", 0, 2)
	c.Detail = "line 1: \x00\xff\xfe is no policy"
	must(t, s.RefusePolicy(ctx, c))
	got, err = s.PolicyChanges(ctx, td, store.FindPolicy{Outcome: store.PolicyRefused, Limit: 1})
	must(t, err)
	if len(got) != 1 || !strings.Contains(got[0].Detail, "is no policy") || !utf8.ValidString(strings.ReplaceAll(got[0].Detail, "\xff\xfe", "")) {
		t.Errorf("%+v came back", got)
	}
}

// Evidence that names a boot log comes while old logs are pruned: none of it loses
// its log.
func pruneBeside(t *testing.T, s store.Store) {
	initialised(t, s)
	ctx := context.WithoutCancel(t.Context())
	log := []byte("the log of a machine that renews and renews")
	var wg sync.WaitGroup
	const rounds = 30
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := s.Prune(ctx, td, start.Add(time.Hour), 9); err != nil {
				t.Errorf("prune: %v", err)
				return
			}
		}
	})
	for n := range byte(rounds) {
		// Old enough to be pruned at once, and its log with it.
		old := store.Evidence{Digest: [32]byte{1, n}, Body: []byte("old"), EventLog: log, At: start}
		kept := store.Evidence{Digest: [32]byte{2, n}, Body: []byte("new"), EventLog: log, At: start.Add(2 * time.Hour)}
		if err := s.Append(ctx, store.Batch{TrustDomain: td, Chain: "a", Evidence: []store.Evidence{old}}); err != nil {
			t.Error(err)
		}
		if err := s.Append(ctx, store.Batch{TrustDomain: td, Chain: "a", Evidence: []store.Evidence{kept}}); err != nil {
			t.Error(err)
		}
		if _, err := s.Prune(ctx, td, start.Add(time.Hour), 9); err != nil {
			t.Error(err)
		}
		if _, err := s.Evidence(ctx, td, kept.Digest); err != nil {
			t.Errorf("round %d: %v", n, err)
		}
		// The next round begins without the log.
		if _, err := s.Prune(ctx, td, start.Add(3*time.Hour), 9); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}
