package issuer_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestEvidenceOfAGrantedEnclaveBecomesAnSVID(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	before := time.Now()
	issued, err := a.run()
	must(t, err)

	if n := len(issued.GetSvids()); n != 1 {
		t.Fatalf("%d SVIDs", n)
	}
	s := issued.GetSvids()[0]
	leaf, err := x509.ParseCertificate(s.GetChain()[0])
	must(t, err)

	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	bundle := x509bundle.New(td)
	for _, der := range issued.GetBundle().GetX509Authorities() {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		bundle.AddX509Authority(c)
	}
	id, _, err := x509svid.Verify([]*x509.Certificate{leaf}, bundle)
	must(t, err)
	if id.String() != paymentsID || s.GetSpiffeId() != paymentsID {
		t.Errorf("certificate for %s, answer for %s", id, s.GetSpiffeId())
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, a.keys[0].spki(t)) {
		t.Error("the certificate is for another key")
	}
	if s.GetNotAfterUnixMs() != leaf.NotAfter.UnixMilli() {
		t.Error("the answer's expiry is not the certificate's")
	}
	// Two identities were granted, and one key was sent.
	if issued.GetMore() != 1 {
		t.Errorf("more = %d, want 1", issued.GetMore())
	}
	life := leaf.NotAfter.Sub(before).Seconds()
	for name, c := range map[string]struct {
		at   int64
		part float64
	}{"renew_after": {issued.GetRenewAfterUnixMs(), 0.45}, "renew_before": {issued.GetRenewBeforeUnixMs(), 0.55}} {
		got := time.UnixMilli(c.at).Sub(before).Seconds() / life
		if got < c.part-0.01 || got > c.part+0.01 {
			t.Errorf("%s is at %.3f of the lifetime, want %.2f", name, got, c.part)
		}
	}
	if issued.GetBundle().GetTrustDomain() != trustDomain || len(issued.GetBundle().GetVerifierKeys()) == 0 {
		t.Error("the bundle is not complete")
	}

	item, err := o.ledger.Get(t.Context(), issued.GetReference())
	must(t, err)
	if item.Entry.Identities[0].SPIFFEID != paymentsID {
		t.Errorf("on record: %+v", item.Entry.Identities)
	}
}

func TestEachKeyIsForItsOwnIdentity(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect(), newKey(t, reportsID), newKey(t, ""))
	issued, err := a.run()
	must(t, err)
	got := map[uint32]string{}
	for _, s := range issued.GetSvids() {
		leaf, err := x509.ParseCertificate(s.GetChain()[0])
		must(t, err)
		got[s.GetKey()] = leaf.URIs[0].String()
		if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, a.keys[s.GetKey()].spki(t)) {
			t.Errorf("SVID %s is for another key", s.GetSpiffeId())
		}
	}
	if d := cmp.Diff(map[uint32]string{0: reportsID, 1: paymentsID}, got); d != "" {
		t.Error(d)
	}
	if issued.GetMore() != 0 {
		t.Errorf("more = %d", issued.GetMore())
	}
}

func TestSeveralAttestationsShareAConnection(t *testing.T) {
	o := open(t)
	conn := o.connect()
	first, second := o.attempt(conn), o.attempt(conn)
	must(t, first.challenge())
	must(t, second.challenge())
	if string(first.nonce) == string(second.nonce) {
		t.Error("two challenges have one nonce")
	}
	second.attest()
	first.attest()
	for _, a := range []*attempt{first, second} {
		if _, err := a.answer(); err != nil {
			t.Error(err)
		}
	}
}

func TestARenewalProvesThePreviousKeyAndGetsANewSVID(t *testing.T) {
	o := open(t)
	conn := o.connect()
	old := o.boot(conn)
	a := o.renewal(conn, old)
	issued, err := a.run()
	must(t, err)
	leaf, err := x509.ParseCertificate(issued.GetSvids()[0].GetChain()[0])
	must(t, err)
	if leaf.SerialNumber.Cmp(old.leaf.SerialNumber) == 0 {
		t.Error("the same serial number")
	}
	item, err := o.ledger.Get(t.Context(), issued.GetReference())
	must(t, err)
	if item.Entry.Purpose != "renew" {
		t.Errorf("on record as %q", item.Entry.Purpose)
	}
}

func TestTheChallengeHoldsTheServersTimeAndASixtySecondDeadline(t *testing.T) {
	o := open(t)
	o.clock.Advance(42 * time.Second)
	a := o.attempt(o.connect())
	must(t, a.challenge())
	if len(a.nonce) != 32 {
		t.Errorf("nonce of %d bytes", len(a.nonce))
	}
	if d := time.Until(a.deadline); d < 95*time.Second || d > 103*time.Second {
		t.Errorf("deadline in %s of our time, want 102 s", d)
	}
}
