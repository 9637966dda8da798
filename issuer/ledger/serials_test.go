package ledger

import (
	"fmt"
	"testing"

	"github.com/assay-project/assay/issuer/store"
)

func TestTheNewestSerialsAreRememberedAndNoMore(t *testing.T) {
	s := newSerials(3)
	for i := range 5 {
		s.add([]store.Identity{{Serial: fmt.Sprint(i)}})
		s.add([]store.Identity{{Serial: fmt.Sprint(i)}}) // the same again takes no room
	}
	for i := range 5 {
		if got, want := s.has(fmt.Sprint(i)), i >= 2; got != want {
			t.Errorf("serial %d: %v, want %v", i, got, want)
		}
	}
	if len(s.known) != 3 || len(s.ring) != 3 {
		t.Errorf("%d known, %d in the ring, want 3", len(s.known), len(s.ring))
	}
}
