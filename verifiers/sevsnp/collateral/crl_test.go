package collateral_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// arkKey is the well-known simulated ARK's key: what AMD alone could do, such as
// sign a CRL of any date, is done with it.
func arkKey(t testing.TB, line string) *rsa.PrivateKey {
	t.Helper()
	b := read(t, filepath.Join("..", "..", "..", "simulators", "sevsnp", "testdata", "authority", line+"-ark.key"))
	p, _ := pem.Decode(b)
	if p == nil {
		t.Fatal("no PEM")
		return nil
	}
	k, err := x509.ParsePKCS8PrivateKey(p.Bytes)
	check(t, err)
	return k.(*rsa.PrivateKey)
}

// crl is a CRL of Milan's ARK.
func (w *world) crl(t testing.TB, number int64, from, until time.Time) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		SignatureAlgorithm: x509.SHA384WithRSAPSS, Number: big.NewInt(number), ThisUpdate: from, NextUpdate: until,
	}, w.authority.Chain(simsnp.Milan).ARK, arkKey(t, "milan"))
	check(t, err)
	return der
}

func TestACRLIsReplacedByANewerOneOnly(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := t.TempDir()
	c := w.cache(t, dir)
	now := time.Now()
	day := 24 * time.Hour
	for _, s := range []struct {
		name        string
		number      int64
		from, until time.Time
		stored      bool
	}{
		{"the first", 5, now.Add(-10 * day), now.Add(10 * day), true},
		{"the same number and date", 5, now.Add(-10 * day), now.Add(20 * day), false},
		{"a lower number with a later date", 4, now.Add(-1 * day), now.Add(30 * day), false},
		{"a higher number", 6, now.Add(-9 * day), now.Add(10 * day), true},
		{"the same number, later", 6, now.Add(-8 * day), now.Add(10 * day), true},
		{"a newer one that has expired: it may revoke more", 7, now.Add(-7 * day), now.Add(-1 * day), true},
		{"an older one that has not", 6, now.Add(-8 * day), now.Add(10 * day), false},
	} {
		_, stored, err := c.PutCRL("milan", "vcek", w.crl(t, s.number, s.from, s.until))
		if err != nil || stored != s.stored {
			t.Errorf("%s: stored %t, %v; want %t", s.name, stored, err, s.stored)
		}
	}
	if _, _, err := c.PutCRL("milan", "vcek", w.crl(t, 8, now.Add(time.Minute), now.Add(day))); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("one from the future: %v, want a refusal", err)
	}
	if _, _, err := c.PutCRL("genoa", "vcek", w.crl(t, 9, now.Add(-day), now.Add(day))); err == nil {
		t.Error("a CRL of Milan was stored for Genoa")
	}
	if _, _, err := c.PutCRL("milan", "other", w.crl(t, 9, now.Add(-day), now.Add(day))); err == nil {
		t.Error("a CRL was stored for a signing key that there is not")
	}
	// Another process sees the newest.
	got, err := w.offline(t, dir).CRL(t.Context(), "milan", "vcek")
	check(t, err)
	l, err := x509.ParseRevocationList(got)
	check(t, err)
	if l.Number.Int64() != 7 {
		t.Errorf("the CRL on disk is number %d, want 7", l.Number)
	}
}

func TestTheNewestCRLIsServedWithItsDatesAndTheVerifierDecides(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	dir := t.TempDir()
	s := w.source(t, dir, nil)
	w.fault(t, "expired-crl")
	if err := s.Refresh(t.Context(), "milan", "vcek"); attest.KindOf(err) != attest.Stale {
		t.Errorf("fetching an expired CRL: %v, want kind stale", err)
	}
	g, err := w.chips[simsnp.Milan].Launch(simsnp.Launch{})
	check(t, err)
	r, err := g.Report([64]byte{})
	check(t, err)
	for _, c := range []struct {
		policy sevsnp.RevocationPolicy
		want   string
	}{
		{sevsnp.RevocationPolicy{}, sevsnp.RevocationNotChecked},
		{sevsnp.RevocationPolicy{Require: true}, sevsnp.CheckCRLValidity},
		{sevsnp.RevocationPolicy{Require: true, Grace: time.Hour}, sevsnp.RevocationGrace},
		{sevsnp.RevocationPolicy{Require: true, Grace: time.Second}, sevsnp.CheckCRLValidity},
	} {
		got, err := authenticate(w.verifier(t, w.offline(t, dir), sevsnp.WithRevocation(c.policy)), r, g.Endorsements()...)
		switch {
		case err != nil && attest.CheckOf(err) != c.want, err == nil && got.SNP.Revocation != c.want:
			t.Errorf("%+v: %v, %v; want %s", c.policy, got, err, c.want)
		}
	}
}

func TestACRLThatIsNotRightIsNotStored(t *testing.T) {
	for _, name := range []string{"broken-crl", "foreign", "future-crl", "oversized", "truncated", "html", "error", "dead", "limited"} {
		w := newWorld(t, simsnp.KDSOptions{Burst: -1})
		dir := t.TempDir()
		s := w.source(t, dir, nil)
		w.fault(t, name)
		if err := s.Refresh(t.Context(), "genoa", "vcek"); err == nil {
			t.Errorf("%s: no error", name)
		}
		if f := files(t, dir); len(f) != 0 {
			t.Errorf("%s: stored %q", name, f)
		}
		if _, err := s.CRL(t.Context(), "genoa", "vcek"); attest.KindOf(err) != attest.Unavailable {
			t.Errorf("%s: %v, want kind unavailable", name, err)
		}
		// What is there already stays.
		w.fault(t, "")
		s = w.source(t, dir, nil)
		check(t, s.Refresh(t.Context(), "genoa", "vcek"))
		before := read(t, only(t, dir, "crl.*"))
		w.fault(t, name)
		if err := s.Refresh(t.Context(), "genoa", "vcek"); err == nil {
			t.Errorf("%s: no error the second time", name)
		}
		if !bytes.Equal(before, read(t, only(t, dir, "crl.*"))) {
			t.Errorf("%s: the good CRL was replaced", name)
		}
	}
}

func TestARevokedChainIsRefusedOnceTheCRLHasArrived(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	for name, want := range map[string]string{"revoked-ask": sevsnp.CheckCRLRevokedASK, "revoked-vcek": sevsnp.CheckCRLRevokedEndorsement} {
		w.fault(t, name)
		s := w.source(t, t.TempDir(), nil)
		check(t, s.Refresh(t.Context(), "milan", "vcek"))
		if _, err := authenticate(w.verifier(t, s), report(t, w.chips[simsnp.Milan], simsnp.Launch{})); attest.CheckOf(err) != want {
			t.Errorf("%s: %v, want a refusal by %s", name, err, want)
		}
	}
}

func TestNoCRLIsEverFetchedByARequest(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	s := w.source(t, t.TempDir(), nil)
	g, err := w.chips[simsnp.Milan].Launch(simsnp.Launch{})
	check(t, err)
	r, err := g.Report([64]byte{})
	check(t, err)
	v := w.verifier(t, s, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	if _, err := authenticate(v, r, g.Endorsements()...); attest.CheckOf(err) != sevsnp.CheckCRLUnavailable {
		t.Errorf("%v, want a refusal by %s", err, sevsnp.CheckCRLUnavailable)
	}
	if n := w.kds.RequestCount(); n != 0 {
		t.Errorf("%d requests", n)
	}
	v = w.verifier(t, w.offline(t, t.TempDir()), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	if _, err := authenticate(v, r, g.Endorsements()...); attest.CheckOf(err) != sevsnp.CheckCRLMissing {
		t.Errorf("without a KDS: %v, want a refusal by %s", err, sevsnp.CheckCRLMissing)
	}
}

func TestANewASKIsKeptOnlyIfThePinnedARKSignedIt(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	chain := w.authority.Chain(simsnp.Milan)
	key := arkKey(t, "genoa") // any other key
	forged := *chain.ARK
	forged.PublicKey = key.Public()
	ask := func(parent *x509.Certificate, signer *rsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(77), RawSubject: chain.ASK.RawSubject, Subject: pkix.Name{CommonName: "SEV-Milan"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: x509.SHA384WithRSAPSS,
			BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		}, parent, key.Public(), signer)
		check(t, err)
		return der
	}
	dir := t.TempDir()
	c := w.cache(t, dir)
	good := ask(chain.ARK, arkKey(t, "milan"))
	if _, _, err := c.PutCertificate(ask(&forged, key)); err == nil {
		t.Error("an ASK that the ARK did not sign was kept")
	}
	for _, stored := range []bool{true, false} {
		if _, s, err := c.PutCertificate(good); err != nil || s != stored {
			t.Errorf("stored %t, %v; want %t", s, err, stored)
		}
	}
	s := w.offline(t, dir) // as after a restart
	if got := s.Issuers(t.Context(), "milan", "vcek"); len(got) != 1 || !bytes.Equal(got[0], good) {
		t.Errorf("%d issuers after a restart, want the new one", len(got))
	}
	// The verifier asks for it, when a VCEK is under it.
	old, err := w.chips[simsnp.Milan].VCEK(simsnp.Milan.DefaultTCB())
	check(t, err)
	o, err := x509.ParseCertificate(old)
	check(t, err)
	parent, err := x509.ParseCertificate(good)
	check(t, err)
	renewed, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: o.SerialNumber, RawSubject: o.RawSubject, NotBefore: o.NotBefore, NotAfter: o.NotAfter,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, ExtraExtensions: o.Extensions,
	}, parent, o.PublicKey, key)
	check(t, err)
	r := report(t, w.chips[simsnp.Milan], simsnp.Launch{})
	if _, err := authenticate(w.verifier(t, s), r, renewed); err != nil {
		t.Errorf("a VCEK under the new ASK: %v", err)
	}
	if _, err := authenticate(w.verifier(t, w.offline(t, t.TempDir())), r, renewed); attest.CheckOf(err) != sevsnp.CheckChainSignature {
		t.Errorf("without the new ASK: %v, want a refusal by %s", err, sevsnp.CheckChainSignature)
	}
	if got := s.Issuers(t.Context(), "milan", "vlek"); len(got) != 0 {
		t.Errorf("%d ASVKs, want none", len(got))
	}
}

func TestCRLsAreFetchedByHalfOfTheirLife(t *testing.T) {
	const life = 10 * 24 * time.Hour
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		a, err := simsnp.NewAuthority(simsnp.Options{})
		check(t, err)
		kds := a.KDS(simsnp.KDSOptions{Burst: -1, CRLLifetime: life})
		s := w.source(t, t.TempDir(), func(c *collateral.Config, k *collateral.KDSConfig) {
			k.Transport, c.Refresh = direct{kds}, 365*24*time.Hour
		})
		done := make(chan error, 1)
		ctx, cancel := contextOf(t)
		go func() { done <- s.Run(ctx) }()
		first, last := s.Stats().CRLs["milan vcek"], time.Now()
		for range 100 { // 25 days
			time.Sleep(6 * time.Hour)
			c := s.Stats().CRLs["milan vcek"]
			if c.ThisUpdate.IsZero() {
				t.Fatal("no CRL")
			}
			if c.ThisUpdate != first.ThisUpdate {
				first, last = c, time.Now()
			}
			if half := c.ThisUpdate.Add(life / 2); time.Now().After(half.Add(6*time.Hour + time.Minute)) {
				t.Fatalf("at %s the CRL of %s is beyond half of its life (%s); last change %s", time.Now(), c.ThisUpdate, half, last)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		if n := kds.Requests()["/vcek/v1/Milan/crl"]; n < 4 || n > 40 {
			t.Errorf("the CRL was fetched %d times in 25 days, want a few times", n)
		}
	})
}

func TestADeadKDSIsAskedLessAndLessAndARevivedOneIsNoticed(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		s := w.source(t, t.TempDir(), nil)
		w.fault(t, "error")
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Hour)
		early := w.kds.RequestCount()
		time.Sleep(23 * time.Hour)
		day := w.kds.RequestCount() - early
		// Twelve things, each at least every hour and at most every half an hour,
		// and the pauses that they share.
		if early > 12*7 || day < 12*20 || day > 12*2*23 {
			t.Errorf("%d requests in the first hour, %d in the rest of the day", early, day)
		}
		w.fault(t, "")
		time.Sleep(2 * time.Hour)
		st := s.Stats()
		if len(st.CRLs) != 6 || st.Refreshed != 12 || st.Pause != 0 {
			t.Errorf("two hours after it came back: %d CRLs, %d of 12 things refreshed, pause %s", len(st.CRLs), st.Refreshed, st.Pause)
		}
		cancel()
		<-done
	})
}

func TestARestartDoesNotFetchEveryCRLAnew(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for i := range 3 {
			s := w.source(t, dir, nil)
			ctx, cancel := contextOf(t)
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			time.Sleep(time.Hour)
			cancel()
			<-done
			if n := w.kds.Requests()["/vlek/v1/Turin/crl"]; n != 1 {
				t.Errorf("start %d: the CRL was fetched %d times, want 1", i+1, n)
			}
		}
		time.Sleep(25 * time.Hour)
		s := w.source(t, dir, nil)
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		<-done
		if n := w.kds.Requests()["/vlek/v1/Turin/crl"]; n != 2 {
			t.Errorf("a day later: fetched %d times, want 2", n)
		}
	})
}

func TestTheScheduleNeverExceedsTheRateAndLeavesRoomForARequest(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{}) // which answers 429 when it is asked too much
	synctest.Test(t, func(t *testing.T) {
		a, err := simsnp.NewAuthority(simsnp.Options{})
		check(t, err)
		chip, err := a.Chip(simsnp.Milan, "host-1")
		check(t, err)
		kds := a.KDS(simsnp.KDSOptions{Chips: []*simsnp.Chip{chip}})
		s := w.source(t, t.TempDir(), func(_ *collateral.Config, k *collateral.KDSConfig) {
			k.Transport, k.Burst, k.Interval = direct{kds}, 0, 0
		})
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Milan])); err != nil {
			t.Errorf("a request while the schedule begins: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if st := s.Stats(); st.Failures != 0 || st.Refreshed != 12 {
			t.Errorf("%d failures, %d refreshed; want 0 and 12", st.Failures, st.Refreshed)
		}
		cancel()
		<-done
	})
}

func TestRunNoticesWhatWasImported(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := t.TempDir()
	der, err := w.chips[simsnp.Genoa].VCEK(simsnp.Genoa.DefaultTCB())
	check(t, err)
	other := w.cache(t, dir)
	synctest.Test(t, func(t *testing.T) {
		s := w.offline(t, dir)
		ctx, cancel := contextOf(t)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if _, _, err := other.PutCertificate(der); err != nil {
			t.Fatal(err)
		}
		future := time.Now().Add(time.Hour) // the file system's clock is not the bubble's
		check(t, os.Chtimes(dir, future, future))
		time.Sleep(20 * time.Second)
		if n := s.Stats().Endorsements; n != 1 {
			t.Errorf("%d endorsements are known, want 1", n)
		}
		cancel()
		<-done
	})
}
