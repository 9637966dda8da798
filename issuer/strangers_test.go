package issuer

import (
	"fmt"
	"sync"
	"testing"
)

func TestAFullRoomMakesRoomWhereMostPlacesAreHeld(t *testing.T) {
	r := newWaitingRoom(4, 3, 0)
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
	r := newWaitingRoom(8, 2, 0)
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
	r := newWaitingRoom(10, 4, 1<<10)
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
				p.hold(int64(j % 200))
				if r.holding() > 1<<10 {
					t.Error("too much is held")
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
	if r.inside() != 0 || len(r.byAddress) != 0 || r.holding() != 0 {
		t.Errorf("%d inside, %d addresses, when all have left", r.inside(), len(r.byAddress))
	}
}

func TestAFullRoomOfBytesMakesRoomWhereMostAreHeld(t *testing.T) {
	r := newWaitingRoom(20, 10, 100)
	lost := ""
	enter := func(address, name string) *place {
		t.Helper()
		p, _, limit := r.enter(address, func() { lost += name })
		if limit != "" {
			t.Fatalf("%s is refused: %s", name, limit)
		}
		return p
	}
	hold := func(p *place, n int64, took int, ok bool) {
		t.Helper()
		if gotTook, gotOK := p.hold(n); gotTook != took || gotOK != ok {
			t.Errorf("took %d places, %t; want %d, %t", gotTook, gotOK, took, ok)
		}
	}
	enter("a", "1") // holds nothing: taking its place would gain nothing
	a2, a3, b := enter("a", "2"), enter("a", "3"), enter("b", "4")
	hold(b, 30, 0, true)
	hold(a2, 25, 0, true)
	hold(a3, 25, 0, true)
	c := enter("c", "5")
	hold(c, 20, 0, true)
	hold(c, 20, 1, true) // "a" holds most, and 2 has waited longest of those that hold
	if lost != "2" || r.holding() != 95 {
		t.Errorf("lost %q, %d bytes held", lost, r.holding())
	}
	hold(a2, 1, 0, false) // who has lost his place holds nothing more
	a2.leave()
	if r.holding() != 95 {
		t.Errorf("%d bytes held", r.holding())
	}
	// Who has answered loses nothing; who asks for more than there is, himself.
	if !b.keep() || !a3.keep() {
		t.Error("not kept")
	}
	hold(c, 20, 0, false)
	if lost != "2" {
		t.Errorf("lost %q", lost)
	}
	// Waited for once more, a place can be lost again.
	if !a3.wait() || a2.wait() {
		t.Error("waiting")
	}
	d := enter("d", "6")
	hold(d, 10, 1, true) // the heaviest address is "c" now
	if lost != "25" || c.keep() {
		t.Errorf("lost %q", lost)
	}
	for _, p := range []*place{a2, a3, b, c, d} {
		p.leave()
	}
	if r.holding() != 0 || r.inside() != 1 {
		t.Errorf("%d bytes, %d inside", r.holding(), r.inside())
	}
}
