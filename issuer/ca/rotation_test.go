package ca

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/issuer/store"
)

const hour = time.Hour

// Two years at the lives that are the default, with relying parties whose bundle
// and verifier keys are up to the propagation time old: none meets an SVID, a
// result or a token that it cannot check, and the server can issue at every moment.
func TestNobodyMeetsAnSVIDThatTheyCannotVerifyInTwoYears(t *testing.T) {
	o := newOffice(t, nil)
	must(t, o.start(o.servers[0]))
	seen := map[store.Use]map[string]bool{}
	end := o.clock.Add(2 * 365 * day)
	for o.clock.Before(end) {
		if n := o.issue(); n != 1 {
			t.Fatalf("%s: the server does not issue: %v", o.clock, o.servers[0].ca.Ready())
		}
		o.meet(day)
		for use, a := range o.servers[0].ca.now.Load().signing {
			if seen[use] == nil {
				seen[use] = map[string]bool{}
			}
			seen[use][a.row.ID] = true
		}
		o.clock = o.clock.Add(8*hour - time.Second) // never the moment itself
		o.turn()
	}
	// A successor is made at the half of a life: every half year, every 15 days.
	for use, want := range map[store.Use]int{store.X509: 4, store.Verifier: 4, store.DenyList: 4, store.JWT: 48} {
		if n := len(seen[use]); n < want-1 || n > want+1 {
			t.Errorf("%d %s authorities signed, want about %d", n, use, want)
		}
	}
	// Those before are out of the bundle: the one that signs, and at most one more
	// that is prepared or has just retired.
	b := o.servers[0].ca.Bundle()
	if x, j := len(b.X509Authorities()), len(b.JWTAuthorities()); x > 2 || j > 2 {
		t.Errorf("%d X.509 and %d JWT authorities are in the bundle", x, j)
	}
	if n := len(o.servers[0].ca.VerifierKeys().Keys); n > 2 {
		t.Errorf("%d keys are in the document", n)
	}
	if w := o.servers[0].ca.Status().Warnings; len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

// Servers that join at different times, without the verifier root's key; one is
// down for days, one restarts every week.
func TestSeveralServersRotateBesideOneAnother(t *testing.T) {
	o := newOffice(t, func(c *Config) { c.AuthorityTTL, c.VerifierKeyTTL = 40*day, 50*day })
	main := o.servers[0]
	must(t, o.start(main))
	var second, third *testServer
	for n := range 4 * 120 { // 120 days
		o.clock = o.clock.Add(6*hour - time.Second)
		switch n {
		case 20:
			second = o.join(false)
			must(t, o.start(second))
			wantCheck(t, second.ca.Ready(), "authority_not_ready")
		case 90:
			third = o.join(true)
			must(t, o.start(third))
		case 165: // around a half of its life
			third.ca = nil
		case 177:
			must(t, o.start(third))
		case 300:
			main.ca = nil // the one with the verifier root's key
		case 330:
			must(t, o.start(main))
		}
		if n%28 == 27 && second != nil {
			must(t, o.start(second))
		}
		o.turn()
		o.issue()
		o.meet(day)
		for _, s := range o.servers {
			joined := map[*testServer]int{second: 20, third: 90}[s]
			if s.ca != nil && (joined == 0 || n > joined+6) && (s != third || n < 177 || n >= 185) {
				if err := s.ca.Ready(); err != nil {
					t.Fatalf("round %d: %s is not ready: %v", n, s.name, err)
				}
			}
		}
	}
	for _, s := range o.servers {
		if d := cmp.Diff(o.servers[0].ca.Authorities(), s.ca.Authorities(), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".LastSVID" }, cmp.Ignore())); d != "" {
			t.Errorf("%s tells of other authorities than main:\n%s", s.name, d)
		}
		if !o.servers[0].ca.Bundle().Equal(s.ca.Bundle()) {
			t.Errorf("%s has another bundle than main", s.name)
		}
		if n := len(s.ca.Members()); n != 3 {
			t.Errorf("%s knows %d members", s.name, n)
		}
	}
}

// What is forced: prepared ahead, it takes over when an operator says so, or when
// the one that signs is tainted, and not before it has been published long enough.
func TestAPreparedAuthorityIsActivatedWhenItIsKnown(t *testing.T) {
	o := newOffice(t, nil)
	s := o.servers[0]
	must(t, o.start(s))
	for _, use := range uses() {
		o.clock = o.clock.Add(time.Second)
		info, err := s.ca.Prepare(t.Context(), use, "uid 0")
		must(t, err)
		o.look()
		if info.State != store.Prepared || info.Published.IsZero() || !info.Usable.Equal(info.Published.Add(day)) {
			t.Errorf("%s: prepared %+v", use, info)
		}
		if _, err := s.ca.Prepare(t.Context(), use, "uid 0"); !isErr(err, ErrPrepared) {
			t.Errorf("%s: a second one: %v, want ErrPrepared", use, err)
		}
		old := s.ca.now.Load().signing[use]
		if _, err := s.ca.Activate(t.Context(), use, info.ID, "uid 0"); !isErr(err, ErrTooEarly) {
			t.Errorf("%s: at once: %v, want ErrTooEarly", use, err)
		}
		if _, err := s.ca.Taint(t.Context(), use, old.row.ID, "stolen", "uid 0", false); !isErr(err, ErrTooEarly) {
			t.Errorf("%s: taint without a successor: %v, want ErrTooEarly", use, err)
		}
		o.clock = o.clock.Add(day - time.Second)
		o.turn()
		if _, err := s.ca.Activate(t.Context(), use, info.ID, "uid 0"); !isErr(err, ErrTooEarly) {
			t.Errorf("%s: a second too early: %v, want ErrTooEarly", use, err)
		}
		o.clock = o.clock.Add(time.Second)
		o.turn()
		if got := s.ca.now.Load().signing[use]; got != nil && got.row.ID != old.row.ID {
			t.Errorf("%s: it was activated by itself, before the half of the one that signs", use)
		}
		o.issue()
		info, err = s.ca.Activate(t.Context(), use, info.ID, "uid 0 (root)")
		must(t, err)
		if got := s.ca.now.Load().signing[use]; info.State != store.Active || info.Actor != "uid 0 (root)" || got.row.ID != info.ID {
			t.Errorf("%s: activated %+v, and %s signs", use, info, got.row.ID)
		}
		if was := s.states(use); !slices.Equal(was, []store.State{store.Retired, store.Active}) {
			t.Errorf("%s: states %v", use, was)
		}
		o.issue()
		o.meet(day)
		// Again: no error, and nothing more.
		again, err := s.ca.Activate(t.Context(), use, info.ID, "uid 0")
		must(t, err)
		if d := cmp.Diff(info.Actor, again.Actor); d != "" {
			t.Error(d)
		}
		if _, err := s.ca.Activate(t.Context(), use, old.row.ID, "uid 0"); !isErr(err, ErrTooEarly) {
			t.Errorf("%s: one that has retired: %v, want ErrTooEarly", use, err)
		}
		if _, err := s.ca.Activate(t.Context(), use, "00", "uid 0"); !isErr(err, store.ErrNotFound) {
			t.Errorf("%s: an unknown one: %v, want ErrNotFound", use, err)
		}
	}
}
