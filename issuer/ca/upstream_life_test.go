package ca

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/store"
)

// upstreamCA is a CA above ours.
func upstreamCA(t *testing.T, f *fixture, online, dedicated bool) (*Upstream, *x509.Certificate, func(*x509.CertificateRequest) []byte) {
	t.Helper()
	key := newKey(t)
	root := &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{CommonName: "Corporate root"}, NotBefore: f.Now().Add(-time.Hour), NotAfter: f.Now().Add(10 * 365 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: -1,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	must(t, err)
	cert := parse(t, der)
	var u *Upstream
	if online {
		u, err = NewUpstream([]*x509.Certificate{cert}, key, dedicated)
	} else {
		u, err = NewUpstream([]*x509.Certificate{cert}, nil, dedicated)
	}
	must(t, err)
	return u, cert, func(csr *x509.CertificateRequest) []byte {
		tmpl := authorityTemplate(f.ca.td, "ours", f.Now(), 365*day)
		tmpl.URIs = []*url.URL{csr.URIs[0]}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, cert, csr.PublicKey, key)
		must(t, err)
		return der
	}
}

// acceptedBy has go-spiffe check an SVID as it is handed out with the bundle as it is
// published.
func acceptedBy(t *testing.T, f *fixture, s *SVID) {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range s.Chain {
		chain = append(chain, parse(t, der))
	}
	if _, _, err := x509svid.Verify(chain, f.ca.Bundle(), x509svid.WithTime(f.Now())); err != nil {
		t.Errorf("go-spiffe: %v", err)
	}
	// What comes back to the server is one certificate, and is known by our own.
	if _, _, err := x509svid.Verify(chain[:1], f.ca.Issuers(), x509svid.WithTime(f.Now())); err != nil {
		t.Errorf("go-spiffe, by the authorities themselves: %v", err)
	}
}

func TestADedicatedUpstreamsRootIsTheAnchorAndAnyOtherIsNot(t *testing.T) {
	for _, dedicated := range []bool{true, false} {
		f := newFixture(t)
		u, root, _ := upstreamCA(t, f, true, dedicated)
		var err error
		must(t, f.open(t, func(c *Config) { c.Upstream = u }))
		f.run(t)
		s := f.issueOne(t)
		acceptedBy(t, f, s)
		anchors, want := f.ca.Bundle().X509Authorities(), f.x509().cert
		chain := 1
		if dedicated {
			want, chain = root, 2
		}
		if len(anchors) != 1 || !anchors[0].Equal(want) || len(s.Chain) != chain {
			t.Errorf("dedicated %t: anchors %v, %d certificates are handed out", dedicated, anchors[0].Subject, len(s.Chain))
		}
		// What is an anchor does not change with the configuration.
		changed := f.ca.cfg
		changed.Upstream, err = NewUpstream([]*x509.Certificate{root}, nil, !dedicated)
		must(t, err)
		again, err := Open(t.Context(), changed)
		must(t, err)
		if got := again.Bundle().X509Authorities(); !got[0].Equal(want) {
			t.Errorf("dedicated %t: after a change of the configuration the anchor is %v", dedicated, got[0].Subject)
		}
	}
}

// The CA is elsewhere: nothing is signed until its certificate has been brought;
// the first then signs at once, every other after the propagation time.
func TestAnAuthorityWaitsForTheUpstreamCA(t *testing.T) {
	f := newFixture(t)
	u, _, ca := upstreamCA(t, f, false, false)
	short := func(c *Config) { c.Upstream, c.AuthorityTTL = u, 40*day }
	must(t, f.open(t, short))
	wantCheck(t, f.ca.Ready(), "authority_not_ready")
	if !f.warned("assay authority csr") {
		t.Errorf("warnings %q", f.ca.Status().Warnings)
	}
	bring := func() {
		t.Helper()
		var id string
		for _, a := range f.ca.Authorities() {
			if a.State == store.Requested {
				id = a.ID
			}
		}
		der, err := f.ca.CSR(t.Context(), id)
		must(t, err)
		csr, err := x509.ParseCertificateRequest(der)
		must(t, err)
		must(t, csr.CheckSignature())
		if _, err := f.ca.Import(t.Context(), id, [][]byte{f.ca.bootstrapRoot.Raw}, ""); attest.KindOf(err) != attest.Untrusted {
			t.Errorf("another certificate: %v", err)
		}
		_, err = f.ca.Import(t.Context(), id, [][]byte{ca(csr)}, "uid 0")
		must(t, err)
		if _, err := f.ca.Import(t.Context(), id, [][]byte{ca(csr)}, "uid 0"); !isErr(err, ErrTooEarly) {
			t.Errorf("again: %v, want ErrTooEarly", err)
		}
	}
	bring()
	must(t, f.ca.Ready())
	f.run(t)
	acceptedBy(t, f, f.issueOne(t))
	first := f.x509().row.ID
	again, err := Open(t.Context(), f.ca.cfg) // as after a restart
	must(t, err)
	f.ca = again
	f.Advance(190 * day) // half of the year that the CA gave it
	must(t, f.ca.maintain(context.Background(), noStop))
	bring()
	if f.x509().row.ID != first {
		t.Error("the second signs at once")
	}
	f.Advance(day)
	must(t, f.ca.maintain(context.Background(), noStop))
	if f.x509().row.ID == first {
		t.Errorf("the second does not sign: %v", f.ca.Status().Warnings)
	}
	if n := len(f.ca.Bundle().X509Authorities()); n != 2 {
		t.Errorf("%d anchors", n)
	}
}

func TestNameConstraintsAreThereWhenTheyAreAskedFor(t *testing.T) {
	for _, asked := range []bool{false, true} {
		f := start(t, func(c *Config) { c.NameConstraints = asked })
		cert := f.x509().cert
		if got := len(cert.PermittedURIDomains) == 1 && cert.PermittedURIDomains[0] == td && cert.PermittedDNSDomainsCritical; got != asked {
			t.Errorf("asked %t: permitted %q, critical %t", asked, cert.PermittedURIDomains, cert.PermittedDNSDomainsCritical)
		}
		acceptedBy(t, f, f.issueOne(t))
	}
}

// The bundle endpoint's certificate is renewed in time, and by whoever signs.
func TestTheBundleEndpointHasAnSVIDOfItsOwn(t *testing.T) {
	f := start(t)
	get := func() *tls.Certificate {
		t.Helper()
		c, err := f.ca.EndpointCertificate(nil)
		must(t, err)
		id, _, err := x509svid.Verify([]*x509.Certificate{c.Leaf}, f.ca.Bundle(), x509svid.WithTime(f.Now()))
		must(t, err)
		if id.String() != "spiffe://"+td+"/assay/bundle" {
			t.Errorf("it is %s", id)
		}
		return c
	}
	first := get()
	must(t, f.ca.maintain(t.Context(), noStop))
	if !get().Leaf.Equal(first.Leaf) {
		t.Error("renewed before half of its life")
	}
	f.Advance(13 * time.Hour)
	must(t, f.ca.maintain(t.Context(), noStop))
	second := get()
	if second.Leaf.Equal(first.Leaf) {
		t.Error("not renewed after half of its life")
	}
	f.Advance(25 * time.Hour)
	_, err := f.ca.EndpointCertificate(nil)
	wantCheck(t, err, "endpoint_certificate")
}

// A peer by https_spiffe knows the endpoint by the bundle of before: after a forced
// change, too, it must be able to fetch the next one.
func TestTheBundleEndpointIsKnownByTheBundleOfBeforeUntilTheNextHasSpread(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		f := start(t)
		f.Advance(13 * time.Hour)
		must(t, f.ca.maintain(t.Context(), noStop))
		held, before := f.ca.Bundle(), f.x509()
		known := func() bool {
			t.Helper()
			must(t, f.ca.maintain(t.Context(), noStop))
			c, err := f.ca.EndpointCertificate(nil)
			must(t, err)
			_, _, err = x509svid.Verify([]*x509.Certificate{c.Leaf}, held, x509svid.WithTime(f.Now()))
			return err == nil
		}
		_, err := f.ca.Taint(t.Context(), store.X509, before.row.ID, "stolen", "", true)
		must(t, err)
		if f.x509().row.ID == before.row.ID || !known() {
			t.Fatal("peers that have the bundle of before can never fetch another")
		}
		if revoked {
			_, err := f.ca.Revoke(t.Context(), store.X509, before.row.ID, "stolen", "")
			must(t, err)
			if known() {
				t.Error("a revoked authority vouches for the endpoint")
			}
			continue
		}
		from, _ := f.ca.usable(f.x509())
		end, err := f.ca.EndpointCertificate(nil)
		must(t, err)
		if until := end.Leaf.NotAfter.Add(-2 * interval); until.Before(from) {
			from = until
		}
		f.Advance(from.Sub(f.Now()) - time.Second)
		if !known() {
			t.Error("it changed before others can know the authority that signs now")
		}
		f.Advance(time.Second)
		if known() {
			t.Error("it is by the tainted authority, although the next one has spread, or it is about to end")
		}
	}
}

// Run does every step when it is due, by its own timers.
func TestRunTakesEachStepWhenItIsDue(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		_, err := Init(t.Context(), InitConfig{DataDir: dir + "/data", TrustDomain: td, Simulated: true, Now: time.Now})
		must(t, err)
		f := &fixture{World: attestedtest.New(t), dir: dir + "/data"}
		must(t, f.open(t, func(c *Config) { c.Now, c.AuthorityTTL, c.Propagation = time.Now, 10*time.Hour, time.Hour }))
		defer f.close(t)
		first := f.x509().row.ID
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.ca.Run(ctx) }()
		started := time.Now()
		for _, step := range []struct {
			at          time.Duration
			authorities int
			same        bool
		}{{5*time.Hour - time.Second, 1, true}, {5*time.Hour + time.Second, 2, true}, {6*time.Hour - time.Second, 2, true}, {6*time.Hour + 2*time.Second, 2, false}} {
			time.Sleep(step.at - time.Since(started))
			synctest.Wait()
			if n := len(f.ca.Bundle().X509Authorities()); n != step.authorities || f.x509().row.ID == first != step.same {
				t.Errorf("after %v: %d authorities, the first signs: %t", step.at, n, f.x509().row.ID == first)
			}
		}
		cancel()
		must(t, <-done)
	})
}
