package ca

import (
	"crypto/ecdsa"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// issueOne attests and issues.
func (f *fixture) issueOne(t *testing.T) *SVID {
	t.Helper()
	out, err := f.ca.Issue(t.Context(), f.record(t, attestedtest.Request{}))
	must(t, err)
	return &out.SVIDs[0]
}

// A tainted authority with a prepared successor: no moment without one that signs,
// and it stays in the bundle until it is revoked.
func TestATaintedAuthorityHandsOverToThePreparedOne(t *testing.T) {
	o := newOffice(t, nil)
	s := o.servers[0]
	must(t, o.start(s))
	var told []Change
	s.ca.OnChange(func(c Change) { told = append(told, c) })
	for _, use := range uses() {
		old := s.ca.now.Load().signing[use]
		info, err := s.ca.Prepare(t.Context(), use, "uid 0")
		must(t, err)
		o.clock = o.clock.Add(day)
		o.turn()
		told = nil
		tainted, err := s.ca.Taint(t.Context(), use, old.row.ID, "a tape was lost", "uid 0", false)
		must(t, err)
		if tainted.State != store.Tainted || tainted.Reason != "a tape was lost" || tainted.Actor != "uid 0" {
			t.Errorf("%s: %+v", use, tainted)
		}
		if got := s.ca.now.Load().signing[use]; got == nil || got.row.ID != info.ID {
			t.Errorf("%s: %v signs, want the prepared one", use, got)
		}
		if !slices.ContainsFunc(told, func(c Change) bool { return slices.Equal(c.Tainted, []store.Use{use}) }) {
			t.Errorf("%s: told %+v", use, told)
		}
		o.issue()
		o.meet(0)
		b := s.ca.Bundle()
		if use == store.X509 && !b.HasX509Authority(old.cert) || use == store.JWT && !b.HasJWTAuthority(old.kid) || byDocument(use) && !s.ca.inDocument(old) {
			t.Errorf("%s: it is out of the bundle before it is revoked", use)
		}
		if _, err := s.ca.Revoke(t.Context(), use, info.ID, "", "uid 0"); !isErr(err, ErrTooEarly) {
			t.Errorf("%s: the active one was revoked: %v", use, err)
		}
		revoked, err := s.ca.Revoke(t.Context(), use, old.row.ID, "all have renewed", "uid 1")
		must(t, err)
		b = s.ca.Bundle()
		if revoked.State != store.Revoked || b.HasX509Authority(old.cert) || b.HasJWTAuthority(old.kid) || byDocument(use) && s.ca.inDocument(old) {
			t.Errorf("%s: %+v is still trusted", use, revoked)
		}
		// After a restart it is as it was.
		must(t, o.start(s))
		s.ca.OnChange(func(c Change) { told = append(told, c) })
		if got := s.ca.now.Load().find(use, old.row.ID); got == nil || got.state() != store.Revoked {
			t.Errorf("%s: after a restart: %v", use, got)
		}
	}
}

// Without a successor it takes force, and then another signs at once.
func TestAForcedTaintSignsWithANewAuthorityAtOnce(t *testing.T) {
	f := start(t)
	before := f.issueOne(t)
	for _, use := range uses() {
		old := f.ca.now.Load().signing[use]
		if _, err := f.ca.Taint(t.Context(), use, old.row.ID, "stolen", "uid 0", false); !isErr(err, ErrTooEarly) {
			t.Errorf("%s: %v, want ErrTooEarly", use, err)
		}
		_, err := f.ca.Taint(t.Context(), use, old.row.ID, "stolen", "uid 0", true)
		must(t, err)
		next := f.ca.now.Load().signing[use]
		if next == nil || next == old || f.ca.signer(f.ca.now.Load(), use, f.Now()) != next {
			t.Fatalf("%s: %v signs", use, next)
		}
		if ch := next.said(store.Active); ch == nil || ch.Reason != "forced: the one before it is tainted" {
			t.Errorf("%s: the record does not say that it was forced: %+v", use, ch)
		}
	}
	must(t, f.ca.Ready())
	after := f.issueOne(t)
	leaf := func(s *SVID) bool { return f.ca.TaintedBy(parse(t, s.Chain[0])) }
	if !leaf(before) || leaf(after) {
		t.Errorf("tainted: the SVID of before %t, the new one %t", leaf(before), leaf(after))
	}
	if s, _, err := f.ca.DenyListSigner(); err != nil || s == nil {
		t.Errorf("no deny-list signer: %v", err)
	}
}

// Only its result's key is tainted: the certificate's signature is good.
func TestAnSVIDIsTaintedByTheKeyOfItsResult(t *testing.T) {
	f := start(t)
	before := parse(t, f.issueOne(t).Chain[0])
	if f.ca.TaintedBy(before) {
		t.Error("tainted, and nothing is")
	}
	_, err := f.ca.Taint(t.Context(), store.Verifier, f.verifier().row.ID, "stolen", "uid 0", true)
	must(t, err)
	if !f.ca.TaintedBy(before) {
		t.Error("an SVID with a result by a tainted key is not tainted")
	}
	if after := parse(t, f.issueOne(t).Chain[0]); f.ca.TaintedBy(after) {
		t.Error("a new SVID is tainted")
	}
}

// Who has stolen a tainted key writes any names into a certificate.
func TestAForgedCertificateOfATaintedKeyIsTaintedWhateverItSays(t *testing.T) {
	f := start(t)
	stolen := f.x509()
	_, err := f.ca.Taint(t.Context(), store.X509, stolen.row.ID, "stolen", "uid 0", true)
	must(t, err)
	s := newSpecimen(t, f)
	forged := *f.x509().cert // names the one that is good
	forged.PublicKey = stolen.public
	s.parent, s.signer = &forged, stolen.signer
	if !f.ca.TaintedBy(parse(t, s.draft(t))) {
		t.Error("a certificate by the stolen key that names another authority is not tainted")
	}
}

// Without the verifier root's key no document can name a new verifier key: there
// is nothing that force could do.
func TestAVerifierKeyIsNotForcedWithoutTheVerifierRoot(t *testing.T) {
	f := start(t)
	back := offline(t, f, verifierRootKey)
	old := f.verifier()
	if _, err := f.ca.Taint(t.Context(), store.Verifier, old.row.ID, "stolen", "uid 0", true); !isErr(err, ErrTooEarly) {
		t.Errorf("%v, want ErrTooEarly", err)
	}
	if f.verifier() != old && f.verifier().row.ID != old.row.ID {
		t.Error("another one signs")
	}
	back()
	_, err := f.ca.Taint(t.Context(), store.Verifier, old.row.ID, "stolen", "uid 0", true)
	must(t, err)
	must(t, f.ca.Ready())
}

// Any server takes the order for any server's authority. The owner obeys when it
// hears of it; with force it makes another by itself.
func TestAServersAuthorityIsTaintedByAnother(t *testing.T) {
	o := newOffice(t, nil)
	main, second := o.servers[0], o.join(true)
	must(t, o.start(main))
	must(t, o.start(second))
	o.clock = o.clock.Add(day)
	o.turn()
	o.turn()
	must(t, second.ca.Ready())
	old := second.ca.now.Load().signing[store.X509]
	if _, err := main.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", false); !isErr(err, ErrTooEarly) {
		t.Errorf("%v, want ErrTooEarly: it has no successor", err)
	}
	_, err := main.ca.Taint(t.Context(), store.X509, old.row.ID, "stolen", "uid 0", true)
	must(t, err)
	must(t, second.ca.Reload(t.Context())) // the database told it
	if err := second.ca.Ready(); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("it signs with a tainted authority: %v", err)
	}
	must(t, second.ca.maintain(t.Context(), noStop))
	must(t, second.ca.Ready())
	if got := second.ca.now.Load().signing[store.X509]; got.row.ID == old.row.ID {
		t.Error("it signs with the tainted one")
	}
	// What only the owner may say, the other cannot.
	if _, err := main.ca.Activate(t.Context(), store.X509, old.row.ID, "uid 0"); !isErr(err, ErrTooEarly) {
		t.Errorf("%v, want ErrTooEarly", err)
	}
}

// The clock goes back by a day, just after an authority has taken over: the one
// before it signs again, which everybody still has, and then hands over again.
func TestAClockThatGoesBackFindsAnAuthorityThatEverybodyHas(t *testing.T) {
	o := newOffice(t, func(c *Config) { c.AuthorityTTL, c.JWTTTL, c.VerifierKeyTTL = 20*day, 20*day, 20*day })
	s := o.servers[0]
	must(t, o.start(s))
	first := s.ca.now.Load().signing
	for range 4 * 14 {
		o.clock = o.clock.Add(6 * hour)
		o.turn()
	}
	later := s.ca.now.Load().signing
	s.skew = -4 * day
	for range 4 * 10 {
		o.turn()
		if o.issue() != 1 {
			t.Fatalf("it does not issue: %v", s.ca.Ready())
		}
		o.meet(day)
		o.clock = o.clock.Add(6 * hour)
	}
	for _, use := range uses() {
		if first[use].row.ID == later[use].row.ID {
			t.Errorf("%s: nothing was activated before the clock went back", use)
		}
	}
	// A clock that was two years ahead for a while, at a restart.
	s.skew = 2 * 365 * day
	must(t, o.start(s))
	o.turn()
	s.skew = -4 * day
	must(t, o.start(s))
	o.turn()
	if o.issue() != 1 {
		t.Errorf("it does not issue: %v", s.ca.Ready())
	}
	o.meet(day)
}

// A key that a document no longer names signs nothing, though its row is active.
func TestAVerifierKeyThatTheDocumentDoesNotNameSignsNothing(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	d := *f.ca.document.Load().keys
	d.Keys = []svid.VerifierKey{{Key: newKey(t).Public().(*ecdsa.PublicKey), NotBefore: f.Now(), NotAfter: f.Now().Add(day)}}
	f.ca.document.Store(&document{signed: []byte("x"), keys: &d})
	if f.ca.signer(f.ca.now.Load(), store.Verifier, f.Now()) != nil {
		t.Error("it signs")
	}
	wantCheck(t, f.ca.Ready(), "authority_not_ready")
}
