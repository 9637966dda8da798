package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// office is a trust domain with several servers on one database, under one clock
// that a test moves. Each server has a data directory of its own.
type office struct {
	t       testing.TB
	clock   time.Time
	dir     string
	shared  *store.SQLite
	servers []*testServer
	change  func(*Config)
	root    func(doc []byte, at time.Time) (*svid.VerifierKeys, error)
	history []shown
	held    []signedThing
}

// testServer is one of them; ca is nil while it is down.
type testServer struct {
	name, dir string
	skew      time.Duration // of its clock
	ca        *CA
}

// shown is what one server showed to the world from a time on.
type shown struct {
	at     time.Time
	server string
	bundle *spiffebundle.Bundle
	keys   *svid.VerifierKeys
}

// signedThing is something that was signed.
type signedThing struct {
	what        string
	authority   *x509.Certificate // of an X.509-SVID
	kid         string            // of a JWT-SVID
	result      *authority        // the verifier key of its result
	from, until time.Time
}

// unclosed is a store that its owner closes.
type unclosed struct{ store.Store }

func (unclosed) Close() error { return nil }

func newOffice(t testing.TB, change func(*Config)) *office {
	t.Helper()
	o := &office{t: t, clock: attestedtest.Noon, dir: t.TempDir(), change: change}
	first := filepath.Join(o.dir, "main")
	_, err := Init(t.Context(), InitConfig{DataDir: first, TrustDomain: td, Simulated: true, Now: o.now})
	must(t, err)
	o.shared, err = store.OpenSQLite(context.Background(), DatabasePath(first))
	must(t, err)
	t.Cleanup(func() { _ = o.shared.Close() })
	root, err := readPublicKey(filepath.Join(first, verifierRootFile))
	must(t, err)
	o.root = func(doc []byte, at time.Time) (*svid.VerifierKeys, error) {
		return svid.ParseVerifierKeys(doc, root, at)
	}
	o.servers = append(o.servers, &testServer{name: "main", dir: first})
	return o
}

func (o *office) now() time.Time { return o.clock }

// join adds a server, with a copy of the verifier root's key or without.
func (o *office) join(verifierRoot bool) *testServer {
	o.t.Helper()
	name := fmt.Sprintf("s%d", len(o.servers)+1)
	s := &testServer{name: name, dir: filepath.Join(o.dir, name)}
	_, err := Join(o.t.Context(), JoinConfig{
		DataDir: s.dir, From: o.servers[0].dir, Server: name, CopyRootKeys: true, Now: o.now,
		Open: func(context.Context) (store.Store, error) { return unclosed{o.shared}, nil },
	})
	must(o.t, err)
	if !verifierRoot {
		if err := os.Remove(filepath.Join(KeysPath(s.dir), verifierRootKey+".key")); !errors.Is(err, fs.ErrNotExist) {
			must(o.t, err)
		}
	}
	o.servers = append(o.servers, s)
	return s
}

func (o *office) config(s *testServer) Config {
	o.t.Helper()
	ring, err := keys.OpenDir(KeysPath(s.dir))
	must(o.t, err)
	c := Config{
		TrustDomain: td, Simulated: true, Chain: s.name, DataDir: s.dir, Keys: ring, Store: unclosed{o.shared},
		Now: func() time.Time { return o.clock.Add(s.skew) },
	}
	if o.change != nil {
		o.change(&c)
	}
	return c
}

// start starts a server, or restarts it.
func (o *office) start(s *testServer) error { return o.startAt(s, noStop) }

func (o *office) startAt(s *testServer, at stops) (err error) {
	o.t.Helper()
	s.ca, err = openAt(context.Background(), o.config(s), at)
	if err != nil {
		s.ca = nil
		return err
	}
	o.hear(s)
	o.look()
	return nil
}

// hear has the other servers hear of what one has changed.
func (o *office) hear(s *testServer) {
	for _, other := range o.servers {
		if other != s && other.ca != nil {
			must(o.t, other.ca.Reload(context.Background()))
		}
	}
}

// turn is one round of every server that runs.
func (o *office) turn() {
	o.t.Helper()
	for _, s := range o.servers {
		if s.ca == nil {
			continue
		}
		must(o.t, s.ca.maintain(context.Background(), noStop))
		o.hear(s)
		o.look()
	}
}

// look notes what is shown to the world now, where it differs.
func (o *office) look() {
	o.t.Helper()
	for _, s := range o.servers {
		now := shown{at: o.clock, server: s.name}
		if s.ca != nil {
			now.bundle, now.keys = s.ca.now.Load().bundle, s.ca.VerifierKeys()
		}
		var last *shown
		for i := range o.history {
			if o.history[i].server == s.name {
				last = &o.history[i]
			}
		}
		if last == nil || last.bundle == nil || now.bundle == nil || !last.bundle.Equal(now.bundle) || last.keys.Sequence != now.keys.Sequence {
			o.history = append(o.history, now)
		}
	}
}

// asOf is what a relying party holds that fetched from a server at a time, or the
// newest before it.
func (o *office) asOf(server string, at time.Time) *shown {
	var found *shown
	for i := range o.history {
		if h := &o.history[i]; h.server == server && !h.at.After(at) {
			found = h
		}
	}
	if found != nil && found.bundle == nil {
		return nil // it was down: nobody could ask it
	}
	return found
}

// issue has every server that can sign all that it signs, with the longest lives.
// It reports how many were signed.
func (o *office) issue() (n int) {
	o.t.Helper()
	for _, s := range o.servers {
		if s.ca == nil {
			continue
		}
		now := o.clock.Add(s.skew)
		if with, err := s.ca.signsWith(); err == nil {
			h := signedThing{what: "SVID by " + with.x509.row.ID + " of " + s.name, authority: with.x509.certs[len(with.x509.certs)-1], result: with.verifier, from: o.clock, until: now.Add(maxSVIDTTL)}
			for _, a := range []*authority{with.x509, with.verifier} {
				if a.row.NotAfter.Before(h.until) {
					h.until = a.row.NotAfter
				}
			}
			for _, a := range []*authority{with.x509, with.verifier} {
				done, err := a.use(h.until)
				must(o.t, err)
				done()
			}
			o.held = append(o.held, h)
			n++
		}
		if a, err := s.ca.jwtAuthority(context.Background()); err == nil {
			h := signedThing{what: "token by " + a.row.ID + " of " + s.name, kid: a.kid, from: o.clock, until: now.Add(s.ca.cfg.MaxTokenTTL)}
			if a.row.NotAfter.Before(h.until) {
				h.until = a.row.NotAfter
			}
			done, err := a.use(h.until)
			must(o.t, err)
			done()
			o.held = append(o.held, h)
		}
	}
	return n
}

// meet has relying parties check everything that is good now: each holds what some
// server showed, between `old` ago and now.
func (o *office) meet(old time.Duration) {
	o.t.Helper()
	var left []signedThing
	for _, h := range o.held {
		if !o.clock.Before(h.until) {
			continue
		}
		left = append(left, h)
		for _, s := range o.servers {
			for _, age := range []time.Duration{0, old / 2, old} {
				held := o.asOf(s.name, o.clock.Add(-age))
				if held == nil {
					continue
				}
				if why := held.refuses(h, o.clock); why != "" {
					o.t.Fatalf("%s: with what %s showed %v before: %s: %s (signed %s)", o.clock.Format(time.RFC3339), s.name, age, h.what, why, h.from.Format(time.RFC3339))
				}
			}
		}
	}
	o.held = left
}

func (b *shown) refuses(h signedThing, at time.Time) string {
	if h.authority != nil && !b.bundle.HasX509Authority(h.authority) {
		return "the bundle does not have its authority"
	}
	if h.kid != "" && !b.bundle.HasJWTAuthority(h.kid) {
		return "the bundle does not have its JWT authority"
	}
	if h.result == nil {
		return ""
	}
	if !at.Before(b.keys.NextUpdate) {
		return "the verifier keys have ended"
	}
	for _, k := range b.keys.Keys {
		if k.Key.Equal(h.result.verifierPublic()) && !h.from.Before(k.NotBefore) && h.from.Before(k.NotAfter) {
			return ""
		}
	}
	return "the document does not name its verifier key"
}

// states are those of a use, oldest first.
func (s *testServer) states(use store.Use) (out []store.State) {
	for _, a := range s.ca.now.Load().all {
		if a.row.Use == use && a.row.Server == s.name {
			out = append(out, a.state())
		}
	}
	return out
}
