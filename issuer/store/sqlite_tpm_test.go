package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// Whoever has genuine TPMs can have them remembered, up to a number; the
// operator's own are never among those that make room.
func TestTheBindingsOfUnlistedTPMsAreBounded(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	ctx := t.Context()
	const td = "simulated.example.org"
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.InitTrustDomain(ctx, store.TrustDomain{Name: td, Simulated: true, CreatedAt: at}))
	bind := func(n byte, at time.Time) {
		t.Helper()
		must(s.PutTPMBinding(ctx, store.TPMBinding{TrustDomain: td, EK: [32]byte{n}, AK: []byte{n}, At: at}))
	}
	// The oldest of all is the operator's.
	bind(1, at.Add(-2*time.Hour))
	bind(2, at.Add(-time.Hour))
	_, _, err := s.PutTPMs(ctx, []store.TPMEntry{{TrustDomain: td, EK: [32]byte{1}, Group: "a", AddedAt: at}}, false)
	must(err)
	raw(t, path, fmt.Sprintf(`INSERT INTO tpm_bindings SELECT '%s', CAST(printf('stranger %%06d', value) AS BLOB), x'00', 0, 0, 0, %d + value FROM
		(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < %d) SELECT value FROM n)`, td, at.UnixMicro(), store.MaxTPMBindings-1))
	must(s.Close())
	s = open(t, path) // the first new binding after a start makes room
	bind(3, at.Add(time.Hour))
	for n, want := range map[byte]bool{1: true, 2: false, 3: true} {
		_, err := s.TPMBinding(ctx, td, [32]byte{n})
		if got := !errors.Is(err, store.ErrNotFound); got != want {
			t.Errorf("binding %d is there: %t, %v", n, got, err)
		}
	}
	bind(3, at.Add(2*time.Hour)) // the same again makes nobody go
	if _, err := s.TPMBinding(ctx, td, [32]byte{3}); err != nil {
		t.Error(err)
	}
}
