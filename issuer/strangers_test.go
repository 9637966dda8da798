package issuer

import (
	"fmt"
	"sync"
	"testing"
)

func TestAFullRoomMakesRoomWhereMostPlacesAreHeld(t *testing.T) {
	r := newWaitingRoom(4, 3)
	lost := ""
	enter := func(address, name string) *place {
		t.Helper()
		p, _, limit := r.enter(address, func() { lost += name })
		if limit != "" {
			t.Fatalf("%s is refused: %s", name, limit)
		}
		return p
	}
	enter("b", "1")
	a := enter("a", "2")
	enter("a", "3")
	enter("a", "4")
	enter("c", "5") // full in all: "a" holds most, and 2 has waited longest there
	if lost != "2" {
		t.Errorf("lost %q, want 2", lost)
	}
	if a.keep() {
		t.Error("a place that was lost is kept")
	}
	a.leave()
	if r.inside() != 4 {
		t.Errorf("%d inside", r.inside())
	}
}

func TestWhoHasAnsweredLosesNoPlace(t *testing.T) {
	r := newWaitingRoom(8, 2)
	first, _, _ := r.enter("a", func() { t.Error("the first lost its place") })
	second, _, _ := r.enter("a", func() { t.Error("the second lost its place") })
	if !first.keep() || !second.keep() || !first.keep() {
		t.Error("not kept")
	}
	if _, _, limit := r.enter("a", func() {}); limit != limitAddress {
		t.Errorf("limit %q, want %q", limit, limitAddress)
	}
	first.leave()
	first.leave()
	third, displaced, limit := r.enter("a", func() {})
	if limit != "" || displaced != "" || r.inside() != 2 {
		t.Errorf("limit %q, displaced %q, %d inside", limit, displaced, r.inside())
	}
	third.leave()
	second.leave()
	if r.inside() != 0 || len(r.byAddress) != 0 {
		t.Errorf("%d inside, %d addresses", r.inside(), len(r.byAddress))
	}
}

func TestNoMoreThanTheLimitsAreEverInside(t *testing.T) {
	r := newWaitingRoom(10, 4)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				p, _, _ := r.enter(fmt.Sprint(i%3, j%2), func() {})
				if p == nil {
					continue
				}
				if r.inside() > 10 {
					t.Error("too many inside")
				}
				if j%3 == 0 {
					p.keep()
				}
				if j%5 != 0 {
					p.leave()
				} else {
					defer p.leave()
				}
			}
		})
	}
	wg.Wait()
	if r.inside() != 0 || len(r.byAddress) != 0 {
		t.Errorf("%d inside, %d addresses, when all have left", r.inside(), len(r.byAddress))
	}
}
