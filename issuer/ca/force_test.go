package ca

import (
	"testing"

	"github.com/assay-project/assay/issuer/store"
)

// A force is for the authority that is tainted, and answered by the one that takes
// its place. Months later, when that one has ended because the server was down, its
// successor waits as any other.
func TestAForceHoldsForOneChangeOnly(t *testing.T) {
	for _, force := range []bool{true, false} {
		o := newOffice(t, nil)
		s := o.servers[0]
		must(t, o.start(s))
		if force {
			first := s.ca.now.Load().signing[store.JWT]
			_, err := s.ca.Taint(t.Context(), store.JWT, first.row.ID, "stolen", "uid 0", true)
			must(t, err)
			if s.ca.now.Load().signing[store.JWT] == nil {
				t.Fatal("the forced one does not sign")
			}
			for range 80 {
				o.clock = o.clock.Add(day)
				o.turn()
			}
		}
		s.ca = nil
		o.clock = o.clock.Add(60 * day)
		must(t, o.start(s))
		if now := s.ca.now.Load().signing[store.JWT]; now != nil {
			at, _ := now.published()
			t.Errorf("forced once %t: %s signs %v after its publication (%q)", force, now.row.ID, o.clock.Sub(at), now.said(store.Active).Reason)
		}
		o.clock = o.clock.Add(day)
		o.turn()
		if s.ca.now.Load().signing[store.JWT] == nil {
			t.Errorf("forced once %t: nothing signs after the propagation time", force)
		}
	}
}

// A clock that has gone back in between makes the forced one look older than the
// one in whose place it is.
func TestAForceHoldsForOneChangeOnlyWhateverTheClockDoes(t *testing.T) {
	o := newOffice(t, nil)
	s := o.servers[0]
	s.skew = 10 * day
	must(t, o.start(s))
	first := s.ca.now.Load().signing[store.X509]
	_, err := s.ca.Taint(t.Context(), store.X509, first.row.ID, "stolen", "uid 0", true)
	must(t, err)
	second := s.ca.now.Load().signing[store.X509]
	s.skew = 0
	_, err = s.ca.Taint(t.Context(), store.X509, second.row.ID, "stolen too", "uid 0", true)
	must(t, err)
	o.turn()
	third := s.ca.now.Load().signing[store.X509]
	if third == nil {
		t.Skip("the clock that went back left it without one")
	}
	own := s.ca.now.Load().all
	for _, a := range forced(own, o.clock) {
		if a.row.Use == store.X509 {
			t.Errorf("the force of %s still holds", a.row.ID)
		}
	}
}

// Another server taints by force what this one signs with; it answers once.
func TestAForceByAnotherServerIsAnsweredOnce(t *testing.T) {
	o := newOffice(t, nil)
	main, second := o.servers[0], o.join(true)
	must(t, o.start(main))
	must(t, o.start(second))
	o.clock = o.clock.Add(day)
	o.turn()
	o.turn()
	old := second.ca.now.Load().signing[store.X509]
	_, err := main.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", true)
	must(t, err)
	must(t, second.ca.maintain(t.Context(), noStop))
	next := second.ca.now.Load().signing[store.X509]
	if next == nil || next.said(store.Active).Reason != forcedReason || string(next.said(store.Active).Body) != old.row.ID {
		t.Fatalf("the one in its place: %+v", next)
	}
	// Without force: a row as a server would write it that has found another ready.
	must(t, main.ca.say(t.Context(), next, store.AuthorityChange{State: store.Tainted, At: o.clock}))
	must(t, second.ca.maintain(t.Context(), noStop))
	if a := second.ca.now.Load().signing[store.X509]; a != nil {
		t.Errorf("%s signs at once: %q", a.row.ID, a.said(store.Active).Reason)
	}
}
