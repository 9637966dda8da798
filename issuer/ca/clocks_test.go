package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/issuer/store"
)

func removeFile(dir, name string) error { return os.Remove(filepath.Join(dir, name)) }

func writeText(t *testing.T, dir, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

// Two servers with the verifier root's key, whose clocks differ: each could sign a
// document against the other's for as long as they do not agree on the end of a key.
func TestServersWhoseClocksDifferDoNotSignAgainstEachOther(t *testing.T) {
	for _, skew := range []time.Duration{-2 * time.Second, -15 * time.Minute} {
		t.Run(fmt.Sprint(skew), func(t *testing.T) {
			o := newOffice(t, nil)
			a := o.servers[0]
			must(t, o.start(a))
			b := o.join(true)
			b.skew = skew
			o.clock = o.clock.Add(time.Hour)
			must(t, o.start(b))
			o.turn()
			old := a.ca.now.Load().signing[store.Verifier]
			info, err := a.ca.Prepare(t.Context(), store.Verifier, "uid 0")
			must(t, err)
			o.clock = o.clock.Add(25 * time.Hour)
			o.turn()
			_, err = a.ca.Activate(t.Context(), store.Verifier, info.ID, "uid 0")
			must(t, err)
			for range 5 {
				o.clock = o.clock.Add(2 * time.Second)
				o.turn()
			}
			r := a.ca.now.Load().find(store.Verifier, old.row.ID).said(store.Retired)
			if r == nil {
				t.Fatal("it has not retired")
			}
			count := func() uint64 {
				d, err := o.shared.LatestDocument(t.Context(), td, string(verifierKeysKind))
				must(t, err)
				return d.Sequence
			}
			o.clock = r.EndsAt.Add(-time.Hour)
			o.turn()
			o.clock = r.EndsAt.Add(maxBackdate + time.Second) // over for one, and not for the other
			o.turn()
			first := count()
			for range 50 { // each round is what the notifications make both servers do
				o.turn()
			}
			if n := count() - first; n > 2 {
				t.Errorf("in 50 rounds of the same moment %d documents were signed", n)
			}
			// In the end it is gone.
			for range 4 {
				o.clock = o.clock.Add(settling)
				o.turn()
			}
			if d := a.ca.document.Load(); d.names(old) {
				t.Error("the document still names the key")
			}
		})
	}
}

// NTP sets a clock back by seconds, just after an activation.
func TestAClockThatGoesBackBySecondsChangesNothing(t *testing.T) {
	o := newOffice(t, nil)
	s := o.servers[0]
	must(t, o.start(s))
	info, err := s.ca.Prepare(t.Context(), store.X509, "uid 0")
	must(t, err)
	o.clock = o.clock.Add(25 * time.Hour)
	o.turn()
	_, err = s.ca.Activate(t.Context(), store.X509, info.ID, "uid 0")
	must(t, err)
	o.turn()
	o.clock = o.clock.Add(-3 * time.Second)
	with, err := s.ca.signsWith()
	must(t, err)
	done, err := with.x509.use(o.clock.Add(time.Hour))
	must(t, err)
	done()
	if with.x509.row.ID != info.ID {
		t.Errorf("%s signs", with.x509.row.ID)
	}
}

// The upstream CA's key is at hand, and its certificate ends. Nothing is made below
// it that would end before others know it, nor one after the other that ends with it.
func TestNoAuthorityIsMadeThatEndsWithTheUpstreamCABeforeItIsKnown(t *testing.T) {
	o := newOffice(t, nil)
	key := newKey(t)
	ends := o.clock.Add(40 * day)
	root := &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{CommonName: "Corporate root"}, NotBefore: o.clock.Add(-time.Hour), NotAfter: ends,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: -1,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	must(t, err)
	u, err := NewUpstream([]*x509.Certificate{parse(t, der)}, key, false)
	must(t, err)
	o.change = func(c *Config) { c.Upstream = u }
	s := o.servers[0]
	must(t, o.start(s))
	warned := false
	for o.clock.Before(ends.Add(-2 * time.Hour)) {
		o.clock = o.clock.Add(2 * time.Hour)
		must(t, s.ca.maintain(t.Context(), noStop))
		must(t, s.ca.Ready())
		warned = warned || strings.Contains(strings.Join(s.ca.Status().Warnings, "\n"), "the upstream CA at")
	}
	if rows, err := o.shared.Authorities(t.Context(), td, store.X509); err != nil || len(rows) != 1 {
		t.Errorf("%d authorities, %v", len(rows), err)
	}
	if !warned {
		t.Error("nobody was warned")
	}
	_, err = s.ca.Prepare(t.Context(), store.X509, "uid 0")
	wantCheck(t, err, "upstream_validity")
	// By force, an hour is better than nothing.
	_, err = s.ca.Taint(t.Context(), store.X509, s.ca.now.Load().signing[store.X509].row.ID, "stolen", "uid 0", true)
	must(t, err)
	must(t, s.ca.Ready())
	for range 20 {
		must(t, s.ca.maintain(t.Context(), noStop))
	}
	if rows, err := o.shared.Authorities(t.Context(), td, store.X509); err != nil || len(rows) != 2 {
		t.Errorf("%d authorities, %v", len(rows), err)
	}
	// Its next certificate brings a successor.
	root.NotAfter = ends.Add(365 * day)
	der, err = x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	must(t, err)
	u, err = NewUpstream([]*x509.Certificate{parse(t, der)}, key, false)
	must(t, err)
	must(t, o.start(s))
	o.clock = o.clock.Add(90 * time.Minute) // past the half of what it is good for
	must(t, s.ca.maintain(t.Context(), noStop))
	if rows, err := o.shared.Authorities(t.Context(), td, store.X509); err != nil || len(rows) != 3 {
		t.Errorf("%d authorities, %v", len(rows), err)
	}
}

// Who trusts the root takes what a revoked authority below it signs. So the bundle
// names the others.
func TestARevokedAuthorityBelowADedicatedRootIsNotTrusted(t *testing.T) {
	f := newFixture(t)
	u, root, _ := upstreamCA(t, f, true, true)
	must(t, f.open(t, func(c *Config) { c.Upstream = u }))
	f.run(t)
	stolen := f.issueOne(t)
	old := f.x509()
	verifies := func(s *SVID) bool {
		var chain []*x509.Certificate
		for _, der := range s.Chain {
			chain = append(chain, parse(t, der))
		}
		_, _, err := x509svid.Verify(chain, f.ca.Bundle(), x509svid.WithTime(f.Now()))
		return err == nil
	}
	_, err := f.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", true)
	must(t, err)
	if !f.ca.Bundle().HasX509Authority(root) || !verifies(stolen) {
		t.Error("a tainted one is out of the bundle before it is revoked")
	}
	after := f.issueOne(t)
	_, err = f.ca.Revoke(t.Context(), store.X509, old.row.ID, "stolen", "uid 0")
	must(t, err)
	if verifies(stolen) || f.ca.Bundle().HasX509Authority(root) {
		t.Error("with today's bundle relying parties accept what the revoked authority signs")
	}
	if !verifies(after) || !verifies(f.issueOne(t)) {
		t.Error("with today's bundle relying parties refuse what the authority in its place signs")
	}
	acceptedBy(t, f, after)
	// For good, and at every server: it is a matter of rows.
	again, err := Open(t.Context(), f.ca.cfg)
	must(t, err)
	if !again.Bundle().Equal(f.ca.Bundle()) {
		t.Error("after a restart the bundle is another one")
	}
}

// One whose life is over by plan leaves the root as it is.
func TestTheDedicatedRootStaysWhenAnAuthorityEndsByPlan(t *testing.T) {
	f := newFixture(t)
	u, root, _ := upstreamCA(t, f, true, true)
	must(t, f.open(t, func(c *Config) { c.Upstream, c.AuthorityTTL = u, 10*day }))
	for range 4 * 25 {
		f.Advance(6 * time.Hour)
		must(t, f.ca.maintain(t.Context(), noStop))
	}
	revoked := 0
	for _, a := range f.ca.Authorities() {
		if a.Use == store.X509 && a.State == store.Revoked {
			revoked++
		}
	}
	if got := f.ca.Bundle().X509Authorities(); revoked == 0 || len(got) != 1 || !got[0].Equal(root) {
		t.Errorf("%d ended by plan; %d anchors", revoked, len(got))
	}
}

// A tainted authority of a server that is gone, when the last that it signed has ended.
func TestATaintedAuthorityCountsAsLongAsItIsInTheBundle(t *testing.T) {
	o := newOffice(t, nil)
	a := o.servers[0]
	must(t, o.start(a))
	b := o.join(true)
	must(t, o.start(b))
	old := a.ca.now.Load().signing[store.X509]
	info, err := a.ca.Prepare(t.Context(), store.X509, "uid 0")
	must(t, err)
	o.clock = o.clock.Add(25 * time.Hour)
	o.turn()
	_, err = a.ca.Activate(t.Context(), store.X509, info.ID, "uid 0")
	must(t, err)
	o.turn()
	_, err = b.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", false)
	must(t, err)
	o.turn()
	old = b.ca.now.Load().find(store.X509, old.row.ID)
	a.ca = nil
	for _, after := range []time.Duration{time.Minute, 2 * time.Hour} {
		o.clock = old.ends().Add(maxBackdate + after)
		must(t, b.ca.maintain(t.Context(), noStop))
		if in, tainted := b.ca.Bundle().HasX509Authority(old.cert), b.ca.TaintedBy(old.cert); in && !tainted || in == (after > time.Hour) {
			t.Errorf("%v after its end: in the bundle %t, tainted %t", after, in, tainted)
		}
	}
}

// Half of a life counts from when it was made: a certificate begins before that.
func TestHalfOfALifeCountsFromWhenItWasMade(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t, func(c *Config) { c.Propagation, c.AuthorityTTL = 20*time.Second, 150*time.Second }))
	if n := len(f.ca.Bundle().X509Authorities()); n != 1 {
		t.Errorf("%d X.509 authorities at once", n)
	}
	if a := f.x509(); !a.half().Equal(a.row.CreatedAt.Add(75*time.Second)) && a.half().Sub(a.row.CreatedAt.Add(75*time.Second)).Abs() > time.Second {
		t.Errorf("its half is %s after it was made", a.half().Sub(a.row.CreatedAt))
	}
	f.Advance(74 * time.Second)
	must(t, f.ca.maintain(t.Context(), noStop))
	if n := len(f.ca.Bundle().X509Authorities()); n != 1 {
		t.Errorf("%d X.509 authorities before the half", n)
	}
	f.Advance(2 * time.Second)
	must(t, f.ca.maintain(t.Context(), noStop))
	if n := len(f.ca.Bundle().X509Authorities()); n != 2 {
		t.Errorf("%d X.509 authorities after the half", n)
	}
}

// Keys that live for minutes, as in a test of a whole system, are in the document.
func TestTheDocumentNamesAKeyThatLivesForMinutes(t *testing.T) {
	o := newOffice(t, func(c *Config) {
		c.Propagation, c.VerifierKeyTTL = 25*time.Second, 150*time.Second
	})
	must(t, o.start(o.servers[0]))
	second := o.join(false)
	must(t, o.start(second))
	o.turn()
	for range 20 {
		o.clock = o.clock.Add(15 * time.Second)
		o.turn()
		for _, a := range o.servers[0].ca.now.Load().all {
			if _, published := a.published(); byDocument(a.row.Use) && a.row.Server == second.name && !published && o.clock.Sub(a.row.CreatedAt) > 30*time.Second {
				t.Fatalf("%s of %s is not published, %s after it was made", a.row.KeyName, a.row.Server, o.clock.Sub(a.row.CreatedAt))
			}
		}
	}
	must(t, second.ca.Ready())
}
