package ca

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

// Who can write the database puts a row where a server will say that an authority
// is tainted. The server cannot say it, and must not seem to have.
func TestATaintThatARowIsInTheWayOfIsNotDone(t *testing.T) {
	for _, state := range []store.State{store.Tainted, store.Revoked} {
		o := newOffice(t, nil)
		main, second := o.servers[0], o.join(true)
		must(t, o.start(main))
		must(t, o.start(second))
		o.clock = o.clock.Add(25 * time.Hour)
		o.turn()
		a := second.ca.now.Load().signing[store.X509]
		must(t, o.shared.ChangeAuthority(t.Context(), store.AuthorityChange{TrustDomain: td, Use: store.X509, ID: a.row.ID, State: state, Server: "main", At: o.clock, Signature: make([]byte, 64)}))
		_, err := main.ca.Taint(t.Context(), store.X509, a.row.ID, "stolen", "uid 0", true)
		if state == store.Revoked {
			must(t, err)
			_, err = main.ca.Revoke(t.Context(), store.X509, a.row.ID, "stolen", "uid 0")
		}
		wantCheck(t, err, "authority_in_the_way")
		if !strings.Contains(err.Error(), a.row.ID) || !strings.Contains(err.Error(), "NOT DONE") {
			t.Errorf("%s: %v", state, err)
		}
		// Another server can say it.
		if state == store.Tainted {
			_, err = second.ca.Taint(t.Context(), store.X509, a.row.ID, "stolen", "uid 0", true)
		} else {
			_, err = second.ca.Revoke(t.Context(), store.X509, a.row.ID, "stolen", "uid 0")
		}
		must(t, err)
		must(t, main.ca.Reload(t.Context()))
		if got := main.ca.now.Load().find(store.X509, a.row.ID).state(); got != state {
			t.Errorf("said by another server: %s, want %s", got, state)
		}
	}
}

// What was said before is said: the same again is no error, and nothing more.
func TestWhatWasSaidBeforeIsNoError(t *testing.T) {
	o := newOffice(t, nil)
	s := o.servers[0]
	must(t, o.start(s))
	a := s.ca.now.Load().signing[store.X509]
	must(t, s.ca.say(t.Context(), a, store.AuthorityChange{State: store.Published, At: o.clock}))
	o.clock = o.clock.Add(time.Second)
	must(t, s.ca.say(t.Context(), a, store.AuthorityChange{State: store.Published, At: o.clock}))
}

// forgetful is a database that loses rows which it had: a standby that was behind
// has taken over.
type forgetful struct {
	store.Store
	lost  func(store.AuthorityChange) bool // of those that were there
	since []store.AuthorityChange          // what came after
}

func (f *forgetful) ChangeAuthority(ctx context.Context, c store.AuthorityChange) error {
	if f.lost != nil && f.lost(c) {
		if slices.ContainsFunc(f.since, func(o store.AuthorityChange) bool { return o.Server == c.Server && o.ID == c.ID && o.State == c.State }) {
			return store.ErrConflict
		}
		f.since = append(f.since, c)
		return nil
	}
	return f.Store.ChangeAuthority(ctx, c)
}

func (f *forgetful) AuthorityState(ctx context.Context, trustDomain string) (store.AuthorityState, error) {
	st, err := f.Store.AuthorityState(ctx, trustDomain)
	if f.lost != nil {
		st.Changes = append(slices.DeleteFunc(st.Changes, f.lost), f.since...)
	}
	return st, err
}

func TestATaintThatTheDatabaseLostIsSaidAgain(t *testing.T) {
	for _, again := range []string{"by itself", "by the command"} {
		o := newOffice(t, nil)
		f := &forgetful{Store: unclosed{o.shared}}
		o.change = func(c *Config) { c.Store = f }
		s := o.servers[0]
		must(t, o.start(s))
		old := s.ca.now.Load().signing[store.X509]
		_, err := s.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", true)
		must(t, err)
		f.lost = func(ch store.AuthorityChange) bool { return ch.State == store.Tainted }
		if again == "by itself" {
			must(t, s.ca.maintain(t.Context(), noStop))
			if w := strings.Join(s.ca.Status().Warnings, "\n"); !strings.Contains(w, "the database has lost") {
				t.Errorf("warnings %q", w)
			}
		} else {
			_, err := s.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", true)
			must(t, err)
		}
		if len(f.since) != 1 {
			t.Errorf("%s: %d rows were written", again, len(f.since))
		}
		must(t, o.start(s))
		if got := s.ca.now.Load().find(store.X509, old.row.ID).state(); got != store.Tainted {
			t.Errorf("%s: after a restart it is %s", again, got)
		}
		if n := s.ca.Disbelieved(); n != 0 {
			t.Errorf("%s: %d rows are not believed", again, n)
		}
	}
}

// Where somebody else's row is in the place of what was lost, this server says it
// in its own name.
func TestALostTaintOfAnotherServerIsSaidInItsPlace(t *testing.T) {
	o := newOffice(t, nil)
	main, second := o.servers[0], o.join(true)
	must(t, o.start(main))
	must(t, o.start(second))
	o.clock = o.clock.Add(25 * time.Hour)
	o.turn()
	old := second.ca.now.Load().signing[store.X509]
	_, err := main.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", true)
	must(t, err)
	must(t, second.ca.maintain(t.Context(), noStop))
	f := &forgetful{Store: unclosed{o.shared}}
	f.lost = func(ch store.AuthorityChange) bool { return ch.State == store.Tainted && ch.Server == "main" }
	f.since = []store.AuthorityChange{{TrustDomain: td, Use: store.X509, ID: old.row.ID, State: store.Tainted, Server: "main", At: o.clock, Signature: make([]byte, 64)}}
	second.ca.cfg.Store = f
	must(t, second.ca.maintain(t.Context(), noStop))
	st, err := o.shared.AuthorityState(t.Context(), td)
	must(t, err)
	if !slices.ContainsFunc(st.Changes, func(ch store.AuthorityChange) bool {
		return ch.ID == old.row.ID && ch.State == store.Tainted && ch.Server == second.name
	}) {
		t.Error("it was not said again")
	}
}

// restored is a database that was put back to an older state.
type restored struct {
	store.Store
	backup store.AuthorityState
	added  []store.Authority
}

func (r *restored) AuthorityState(context.Context, string) (store.AuthorityState, error) {
	return r.backup, nil
}

func (r *restored) Authorities(_ context.Context, _ string, use store.Use) (out []store.Authority, err error) {
	for _, a := range r.backup.Authorities {
		if a.Use == use {
			out = append(out, a)
		}
	}
	return out, nil
}

func (r *restored) AddAuthority(_ context.Context, a store.Authority) error {
	r.added = append(r.added, a)
	r.backup.Authorities = append(r.backup.Authorities, a)
	return nil
}

func (r *restored) ChangeAuthority(_ context.Context, a store.AuthorityChange) error {
	r.backup.Changes = append(r.backup.Changes, a)
	return nil
}

// The keys of the lost time look like keys that nobody has used yet. One of them
// was stolen, and its taint is lost as well.
func TestAKeyThatAnAuthorityHadIsNotTheNextOnes(t *testing.T) {
	for _, remembered := range []bool{true, false} {
		o := newOffice(t, nil)
		s := o.servers[0]
		must(t, o.start(s))
		backup, err := o.shared.AuthorityState(t.Context(), td)
		must(t, err)
		info, err := s.ca.Prepare(t.Context(), store.X509, "uid 0")
		must(t, err)
		o.clock = o.clock.Add(25 * time.Hour)
		o.turn()
		_, err = s.ca.Activate(t.Context(), store.X509, info.ID, "uid 0")
		must(t, err)
		_, err = s.ca.Taint(t.Context(), store.X509, info.ID, "stolen", "uid 0", true)
		must(t, err)
		r := &restored{Store: unclosed{o.shared}, backup: backup}
		o.change = func(c *Config) { c.Store = r }
		cfg := o.config(s)
		if !remembered { // the data directory is older as well, and the keys are in an HSM
			must(t, removeFile(s.dir, usedFile))
			aside, err := SetAside(t.Context(), s.dir, cfg.Keys, r, td)
			must(t, err)
			if !slices.Contains(aside, x509Prefix+info.ID) || len(aside) != 2 { // and its forced successor's
				t.Errorf("set aside: %q", aside)
			}
		}
		s.ca, err = openAt(context.Background(), cfg, noStop)
		must(t, err)
		next, err := s.ca.Prepare(t.Context(), store.X509, "uid 0")
		must(t, err)
		if next.ID == info.ID {
			t.Errorf("the tainted key %s is the next authority's", next.ID)
		}
	}
}

// A key that no authority had is still taken: of a start that was interrupted, or a
// spare in an HSM.
func TestASpareKeyIsTakenAllTheSame(t *testing.T) {
	f := start(t)
	_, err := f.ring.Create(t.Context(), x509Prefix+"00112233445566ff", keys.P256)
	must(t, err)
	info, err := f.ca.Prepare(t.Context(), store.X509, "")
	must(t, err)
	if info.ID != "00112233445566ff" {
		t.Errorf("the next is %s", info.ID)
	}
}

func TestADamagedListOfUsedKeysIsNoEmptyOne(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	f.close(t)
	writeText(t, f.dir, usedFile, "# Keys\n../../etc/passwd\n")
	wantCheck(t, f.open(t), "authority_used")
}

// The backup is of before a rotation, and the loss after it: relying parties have
// fetched bundles without the authority that signs by the backup.
func TestARestoredAuthorityThatMayHaveLeftTheBundleWaits(t *testing.T) {
	o := newOffice(t, nil)
	s := o.servers[0]
	must(t, o.start(s))
	first := s.ca.now.Load().signing[store.JWT]
	backup, err := o.shared.AuthorityState(t.Context(), td)
	must(t, err)
	for range 20 { // its half is over after 15 days
		o.clock = o.clock.Add(day)
		o.turn()
	}
	if s.ca.Bundle().HasJWTAuthority(first.kid) {
		t.Fatal("it has not left the bundle")
	}
	r := &restored{Store: unclosed{o.shared}, backup: backup}
	o.change = func(c *Config) { c.Store = r }
	cfg := o.config(s)
	_, err = SetAside(t.Context(), s.dir, cfg.Keys, r, td)
	must(t, err)
	must(t, Restored(s.dir, o.clock))
	s.ca, err = openAt(context.Background(), cfg, noStop)
	must(t, err)
	if _, err := s.ca.jwtAuthority(t.Context()); err == nil {
		t.Error("it signs at once")
	} else {
		wantCheck(t, err, "authority_not_ready")
	}
	must(t, s.ca.Ready()) // the X.509 authority cannot have retired in the lost time
	o.clock = o.clock.Add(day)
	must(t, s.ca.maintain(t.Context(), noStop))
	_, err = s.ca.jwtAuthority(t.Context())
	must(t, err)
	writeText(t, s.dir, restoredFile, "yesterday")
	_, err = openAt(context.Background(), cfg, noStop)
	wantCheck(t, err, "authority_restored")
}
