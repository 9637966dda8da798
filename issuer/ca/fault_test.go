package ca

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Who can write the database, and has a server's key, puts a row that means nothing
// into that server's name. The taint of the key is heard all the same.
func TestAJunkRowKeepsNoTaintAway(t *testing.T) {
	for name, junk := range map[string]func(o *office, a *authority) error{
		"of the authority": func(o *office, a *authority) error {
			return o.shared.ChangeAuthority(t.Context(), store.AuthorityChange{TrustDomain: td, Use: store.X509, ID: a.row.ID, State: store.Prepared, Server: "main", At: o.clock, Signature: make([]byte, 64)})
		},
		"a row of its own": func(o *office, a *authority) error {
			row := a.row
			row.ID, row.State = "00112233445566ff", store.Prepared
			row.KeyName = x509Prefix + row.ID
			return o.shared.AddAuthority(t.Context(), row)
		},
	} {
		for _, at := range []string{"another server", "its owner"} {
			o := newOffice(t, nil)
			a := o.servers[0]
			must(t, o.start(a))
			b := o.join(true)
			must(t, o.start(b))
			o.clock = o.clock.Add(25 * time.Hour)
			o.turn()
			must(t, a.ca.Ready())
			stolen := a.ca.now.Load().signing[store.X509]
			must(t, junk(o, stolen))
			wantCheck(t, a.ca.Reload(t.Context()), "authority_signature")
			if err := a.ca.Ready(); attest.KindOf(err) != attest.Unavailable {
				t.Errorf("%s: ready: %v", name, err)
			}
			if _, err := a.ca.signsWith(); err != nil {
				t.Errorf("%s: it does not go on with what it has verified: %v", name, err)
			}
			if _, err := a.ca.Prepare(t.Context(), store.X509, ""); attest.CheckOf(err) != "authority_signature" {
				t.Errorf("%s: prepared: %v", name, err)
			}
			by := b
			if at == "its owner" {
				by = a
			}
			_, err := by.ca.Taint(t.Context(), store.X509, stolen.row.ID, "stolen", "uid 0", true)
			must(t, err)
			_ = a.ca.Reload(t.Context())
			if with, err := a.ca.signsWith(); err == nil && with.x509.row.ID == stolen.row.ID {
				t.Errorf("%s, tainted at %s: its owner signs with it", name, at)
			}
			if !a.ca.TaintedBy(stolen.cert) {
				t.Errorf("%s, tainted at %s: its owner takes what it signed", name, at)
			}
			wantCheck(t, o.start(a), "authority_signature")
		}
	}
}

// An endorsement of another key under its name stops no server from hearing.
func TestAnotherMemberOfItsNameKeepsNoTaintAway(t *testing.T) {
	o := newOffice(t, nil)
	a := o.servers[0]
	must(t, o.start(a))
	b := o.join(true)
	must(t, o.start(b))
	o.clock = o.clock.Add(25 * time.Hour)
	o.turn()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	root, err := a.ca.cfg.Keys.Get(t.Context(), bootstrapRootKey)
	must(t, err)
	der, err := endorse(a.ca.td, b.name, key.Public(), a.ca.bootstrapRoot, root, o.clock)
	must(t, err)
	b.ca.cfg.Store = &replaced{Store: unclosed{o.shared}, name: b.name, by: der}
	_, err = a.ca.Taint(t.Context(), store.X509, b.ca.now.Load().signing[store.X509].row.ID, "stolen", "uid 0", true)
	must(t, err)
	wantCheck(t, b.ca.Reload(t.Context()), "member_name")
	if err := b.ca.Ready(); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("ready: %v", err)
	}
	if with, err := b.ca.signsWith(); err == nil {
		t.Errorf("it signs with %s, which is tainted", with.x509.row.ID)
	}
}

// replaced is a database in which a server's endorsement is of another key.
type replaced struct {
	store.Store
	name string
	by   []byte
}

func (d *replaced) AuthorityState(ctx context.Context, trustDomain string) (store.AuthorityState, error) {
	st, err := d.Store.AuthorityState(ctx, trustDomain)
	for i, m := range st.Members {
		if m.Server == d.name {
			st.Members[i].Endorsement = d.by
		}
	}
	return st, err
}

// rowsLost is a database that has lost an authority with all that was said of it,
// until it is stored again.
type rowsLost struct {
	store.Store
	lost  string
	again []string
}

func (r *rowsLost) AddAuthority(ctx context.Context, a store.Authority) error {
	if a.ID == r.lost {
		r.again, r.lost = append(r.again, "row"), ""
		return nil
	}
	return r.Store.AddAuthority(ctx, a)
}

func (r *rowsLost) AuthorityState(ctx context.Context, trustDomain string) (store.AuthorityState, error) {
	st, err := r.Store.AuthorityState(ctx, trustDomain)
	st.Authorities = slices.DeleteFunc(st.Authorities, func(a store.Authority) bool { return a.ID == r.lost })
	st.Changes = slices.DeleteFunc(st.Changes, func(c store.AuthorityChange) bool { return c.ID == r.lost })
	return st, err
}

// A standby that was behind has taken over: the row of the authority that signs is
// gone, and what it signed lives.
func TestAnAuthorityThatTheDatabaseLostStaysInTheBundle(t *testing.T) {
	o := newOffice(t, nil)
	f := &rowsLost{Store: unclosed{o.shared}}
	o.change = func(c *Config) { c.Store = f }
	s := o.servers[0]
	must(t, o.start(s))
	info, err := s.ca.Prepare(t.Context(), store.X509, "uid 0")
	must(t, err)
	o.clock = o.clock.Add(25 * time.Hour)
	o.turn()
	_, err = s.ca.Activate(t.Context(), store.X509, info.ID, "uid 0")
	must(t, err)
	signing := s.ca.now.Load().signing[store.X509]
	f.lost = info.ID
	must(t, s.ca.Reload(t.Context()))
	if s.ca.Disbelieved() == 0 {
		t.Error("nobody is told")
	}
	for range 2 {
		if with, err := s.ca.signsWith(); err != nil || with.x509.row.ID != info.ID || !s.ca.Bundle().HasX509Authority(signing.cert) {
			t.Errorf("signs: %v, %v; in the bundle: %t", with.x509, err, s.ca.Bundle().HasX509Authority(signing.cert))
		}
		must(t, s.ca.maintain(t.Context(), noStop))
	}
	if !slices.Equal(f.again, []string{"row"}) || s.ca.Disbelieved() != 0 {
		t.Errorf("stored again: %q; %d rows missing", f.again, s.ca.Disbelieved())
	}
}
