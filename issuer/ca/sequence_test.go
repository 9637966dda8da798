package ca

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// watcher notes, from outside, until when a relying party could still fetch a
// bundle, or a document, without some authority. Who fetches from then on has it.
type watcher struct {
	without map[string]time.Time  // by key name
	first   map[store.Use]string  // the key name of the trust domain's first
	all     map[string]*authority // every one that was ever seen
	up      time.Time             // when some server was up before this look
	forced  map[string]int        // forces that no authority has answered, by server and use
	answers map[string]int        // by key name
	excused map[string]bool       // authorities that answered a force
}

func (w *watcher) look(o *office) {
	up := w.up
	for _, s := range o.servers {
		if s.ca == nil {
			continue
		}
		up = o.clock
		for _, a := range s.ca.now.Load().all {
			if w.all[a.row.KeyName] == nil {
				w.all[a.row.KeyName], w.without[a.row.KeyName] = a, w.up
			}
			if a.row.State == store.Active && w.first[a.row.Use] == "" {
				w.first[a.row.Use] = a.row.KeyName
			}
		}
	}
	for _, s := range o.servers {
		if s.ca == nil {
			continue
		}
		for name, a := range w.all {
			if !s.shows(a) {
				w.without[name] = o.clock
			}
		}
	}
	w.up = up
}

// shows says whether who asks the server now learns of an authority.
func (s *testServer) shows(a *authority) bool {
	switch a.row.Use {
	case store.X509:
		return a.cert != nil && s.ca.Bundle().HasX509Authority(a.cert)
	case store.JWT:
		return s.ca.Bundle().HasJWTAuthority(a.kid)
	case store.Verifier, store.DenyList:
	}
	kind := verifierKeysKind
	if a.row.Use == store.DenyList {
		kind = denyListKeysKind
	}
	d := s.ca.documentOf(kind).Load()
	return d == nil || d.names(a) // none at all leaves everybody with what they have
}

// check: whatever would sign now has been known for the propagation time; or is
// the first of its use; or was forced, and says so.
func (w *watcher) check(o *office) error {
	for _, s := range o.servers {
		if s.ca == nil {
			continue
		}
		now := o.clock.Add(s.skew)
		for _, use := range uses() {
			a := s.ca.signer(s.ca.now.Load(), use, now)
			if !now.Add(s.ca.longest(use)).After(o.clock) {
				continue // by a clock so far behind: all that it signs has ended before it is made
			}
			if a == nil || a.row.KeyName == w.first[use] {
				continue
			}
			if ch := a.said(store.Active); ch != nil && ch.Reason == forcedReason && w.forced[s.name+" "+string(use)] > 0 {
				if w.answers[a.row.KeyName]++; w.answers[a.row.KeyName] == 1 { // each force is one authority's
					w.forced[s.name+" "+string(use)]--
					w.excused[a.row.KeyName] = true
				}
			}
			if w.excused[a.row.KeyName] {
				continue
			}
			if known := o.clock.Sub(w.without[a.row.KeyName]); known < s.ca.cfg.Propagation {
				return fmt.Errorf("%s signs with %s, and %v ago one could fetch a bundle or document without it", s.name, a.row.KeyName, known)
			}
			if a.condemned() {
				return fmt.Errorf("%s signs with %s, which is %s", s.name, a.row.KeyName, a.state())
			}
		}
	}
	return nil
}

// Whatever happens, in whatever order: nothing signs that has not been published
// for the propagation time. Clocks go back, servers die in the middle of a step,
// the root's key comes and goes, operators do what they like.
func TestNothingSignsBeforeItIsKnownWhateverHappens(t *testing.T) {
	rounds, length := 10, 90
	if testing.Short() {
		rounds = 3
	}
	did := map[string]int{}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 7))
			documents := 0
			o := newOffice(t, func(c *Config) {
				c.AuthorityTTL, c.JWTTTL, c.VerifierKeyTTL = 12*day, 8*day, 12*day
				c.Store = counting{c.Store, &documents}
			})
			must(t, o.start(o.servers[0]))
			w := &watcher{without: map[string]time.Time{}, first: map[store.Use]string{}, all: map[string]*authority{}, forced: map[string]int{}, answers: map[string]int{}, excused: map[string]bool{}}
			w.look(o)
			roots := map[*testServer]func(){}
			var log []string
			for n := range length {
				s := o.servers[r.IntN(len(o.servers))]
				use := uses()[r.IntN(4)]
				before := documents
				what := happen(t, o, s, use, r, roots, w)
				if n := documents - before; n > 4 {
					t.Fatalf("%q has had %d documents signed", what, n)
				}
				did[what]++
				o.hear(nil) // of what is in the database by now, whoever was killed
				log = append(log, fmt.Sprintf("%d %s: %s %s", n, s.name, what, use))
				w.look(o)
				if err := w.check(o); err != nil {
					t.Fatalf("%v, after\n%v", err, log[max(0, len(log)-12):])
				}
			}
		})
	}
	for _, what := range []string{"time", "round", "restart", "killed", "prepare", "activate", "taint", "force", "revoke", "root away", "root back", "clock back", "down", "join"} {
		if did[what] == 0 && !testing.Short() {
			t.Errorf("%q never happened: %v", what, did)
		}
	}
}

// counting counts the documents that are signed.
type counting struct {
	store.Store
	documents *int
}

func (c counting) PutDocument(ctx context.Context, d store.Document) error {
	err := c.Store.PutDocument(ctx, d)
	if err == nil {
		*c.documents++
	}
	return err
}

// happen does one thing, and says what.
func happen(t *testing.T, o *office, s *testServer, use store.Use, r *rand.Rand, roots map[*testServer]func(), w *watcher) string {
	t.Helper()
	ctx := context.Background()
	pickID := func() string {
		if all := s.ca.now.Load().all; len(all) > 0 {
			for range 8 {
				if a := all[r.IntN(len(all))]; a.row.Use == use {
					return a.row.ID
				}
			}
		}
		return "none"
	}
	kind := r.IntN(30)
	switch {
	case kind < 9:
		o.clock = o.clock.Add(time.Duration(r.Int64N(int64(20 * hour))))
		return "time"
	case kind == 9 && len(o.servers) < 3:
		o.join(r.IntN(2) == 0)
		return "join"
	case kind < 12 || s.ca == nil:
		s.ca = nil
		_ = o.start(s) // a root's key may be missing
		return "restart"
	case kind < 18:
		_ = s.ca.maintain(ctx, noStop)
		return "round"
	case kind < 20:
		var seen []string
		if err := s.ca.maintain(ctx, killAt(1+r.IntN(4), &seen)); errors.Is(err, errKilled) {
			s.ca = nil
			return "killed"
		}
		return "round"
	case kind < 22:
		_, _ = s.ca.Prepare(ctx, use, "")
		return "prepare"
	case kind < 24:
		_, _ = s.ca.Activate(ctx, use, pickID(), "")
		return "activate"
	case kind == 24:
		_, _ = s.ca.Taint(ctx, use, pickID(), "", "", false)
		return "taint"
	case kind == 25:
		a := s.ca.now.Load().find(use, pickID())
		if a == nil {
			return "nothing"
		}
		signs := a.signsAt(o.clock.Add(s.skew))
		if _, err := s.ca.Taint(ctx, use, a.row.ID, "", "", true); err == nil && signs {
			w.forced[a.row.Server+" "+string(use)]++
		}
		return "force"
	case kind == 26:
		_, _ = s.ca.Revoke(ctx, use, pickID(), "", "")
		return "revoke"
	case kind == 27:
		if back := roots[s]; back != nil {
			back()
			delete(roots, s)
			return "root back"
		}
		if _, err := s.ca.cfg.Keys.Get(ctx, verifierRootKey); err == nil {
			roots[s] = offlineIn(t, s.dir, verifierRootKey)
			return "root away"
		}
		return "nothing"
	case kind == 28:
		s.skew -= time.Duration(r.Int64N(int64(30 * hour)))
		return "clock back"
	}
	s.ca = nil
	return "down"
}
