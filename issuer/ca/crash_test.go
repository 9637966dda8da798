package ca

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/assay-project/assay/issuer/store"
)

// A server that is killed after any step of its authorities' lives goes on from
// there, and nobody notices. One whole turn of every use is gone through: prepared,
// published, in a document, active, retired, out of the bundle.
func TestAServerKilledAtAnyStepOfARotationGoesOn(t *testing.T) {
	short := func(c *Config) { c.AuthorityTTL, c.JWTTTL, c.VerifierKeyTTL = 16*day, 16*day, 16*day }
	kinds := map[string]bool{}
	steps := 0
	for n := 1; ; n++ {
		o := newOffice(t, short)
		s := o.servers[0]
		must(t, o.start(s))
		var seen []string
		at := killAt(n, &seen)
		killed := false
		for range 2 * 12 {
			o.clock = o.clock.Add(12 * hour)
			err := s.ca.maintain(context.Background(), at)
			if errors.Is(err, errKilled) {
				killed = true
				s.ca = nil
				o.look()
				o.clock = o.clock.Add(hour)
				must(t, o.start(s))
			} else {
				must(t, err)
			}
			o.look()
			if o.issue() != 1 {
				t.Fatalf("killed after %q: it does not issue: %v", seen[len(seen)-1], s.ca.Ready())
			}
			o.meet(day)
		}
		if !killed {
			steps = n - 1
			break
		}
		kinds[seen[n-1]] = true
		for _, use := range uses() {
			states := s.states(use)
			if len(states) != 2 && (len(states) != 3 || use == store.X509) || states[1] != store.Active {
				t.Errorf("killed after %q: the %s authorities are %v", seen[n-1], use, states)
			}
		}
		if t.Failed() {
			return
		}
	}
	for _, use := range uses() {
		for _, kind := range []string{"key", "row", "publish", "activate", "retire", "conclude"} {
			if step := fmt.Sprintf("%s %s", use, kind); !kinds[step] && step != "deny-list conclude" { // lists are good for longer
				t.Errorf("no kill after %q", step)
			}
		}
	}
	for _, step := range []string{"verifier-keys signed", "verifier-keys stored", "deny-list-keys signed", "deny-list-keys stored", "server file"} {
		if !kinds[step] {
			t.Errorf("no kill after %q", step)
		}
	}
	t.Logf("%d steps", steps)
}

// Two servers on an empty database, one killed after any step of its first start,
// and then both: one first authority of each use, and every other waits.
func TestAJoiningServerKilledAtAnyStepJoinsLater(t *testing.T) {
	for n := 1; ; n++ {
		o := newOffice(t, nil)
		must(t, o.start(o.servers[0]))
		s := o.join(true)
		var seen []string
		err := o.startAt(s, killAt(n, &seen))
		if err == nil {
			if n < 10 {
				t.Errorf("only %d steps were tried", n-1)
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		o.clock = o.clock.Add(hour)
		must(t, o.start(s))
		wantCheck(t, s.ca.Ready(), "authority_not_ready")
		for _, a := range s.ca.now.Load().all {
			if _, active := a.saidAt(store.Active); active && a.row.Server == s.name {
				t.Errorf("killed after %q: %s of the joining server signs at once", seen[n-1], a.row.KeyName)
			}
		}
		for range 3 {
			o.clock = o.clock.Add(day)
			o.turn()
			o.issue()
			o.meet(day)
		}
		if err := s.ca.Ready(); err != nil {
			t.Errorf("killed after %q: %v", seen[n-1], err)
		}
		if names, err := s.ca.cfg.Keys.Names(t.Context()); err != nil || len(names) != 3+4 {
			t.Errorf("killed after %q: keys %v, %v", seen[n-1], names, err)
		}
	}
}
