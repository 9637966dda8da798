package ledger_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
)

// No two SVIDs share a key, however long ago the first was issued.
func TestAKeyThatHasAnSVIDGetsNoOther(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	keys := newKeys(t, 2)
	f.record(t, l, attestedtest.Request{Keys: keys[:1]})
	again := func(what string) {
		t.Helper()
		for _, request := range []attestedtest.Request{{Keys: keys[:1]}, {Keys: keys}} {
			_, err := l.Record(t.Context(), f.Grant(t, request), ledger.Origin{})
			var e *attest.Error
			if !errors.As(err, &e) || e.Kind != attest.Malformed || e.Check != "duplicate_key" {
				t.Errorf("%s: %v, want duplicate_key", what, err)
			}
		}
	}
	again("at once")
	must(t, stop())
	l = f.open(t, ledger.Options{})
	stop = run(t, l)
	again("after a restart")
	f.record(t, l, attestedtest.Request{Keys: keys[1:]}) // which was refused together with the other
	if r := verifies(t, l); r.Entries != 2 {
		t.Errorf("%d entries, want 2", r.Entries)
	}
	must(t, stop())
}

// Of two requests for one key that wait for the same commit one is recorded,
// and those beside them are not touched.
func TestTwoRequestsForOneKeyInOneCommitFailNobodyElse(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	keys := newKeys(t, 3)
	results := make([]error, 4)
	var wg sync.WaitGroup
	for i, k := range []int{0, 1, 1, 2} {
		g := f.Grant(t, attestedtest.Request{Keys: keys[k : k+1]})
		wg.Go(func() { _, results[i] = l.Record(t.Context(), g, ledger.Origin{}) })
	}
	stop := run(t, l)
	wg.Wait()
	must(t, stop())
	if results[0] != nil || results[3] != nil {
		t.Errorf("others failed: %v, %v", results[0], results[3])
	}
	if (results[1] == nil) == (results[2] == nil) {
		t.Errorf("of two with one key: %v, %v", results[1], results[2])
	}
	if r := verifies(t, l); r.Entries != 3 {
		t.Errorf("%d entries, want 3", r.Entries)
	}
}
