package svid_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

func TestARememberedChainExcusesNothingElse(t *testing.T) {
	a, other := authority(t), authority(t)
	chain := a.Mint(t, "/orders", svidtest.Template(func(c *x509.Certificate) { c.NotAfter = now.Add(30 * time.Minute) })).Certificates
	bundle := a.Bundle()
	src := svid.NewSource(bundle, a.VerifierKeys())
	good := func() {
		t.Helper()
		for range 2 { // the second from memory
			if _, err := svid.Verify(chain, src, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := func(at time.Time, kind attest.Kind, check string) {
		t.Helper()
		_, err := svid.Verify(chain, src, at)
		wantError(t, err, kind, check)
	}
	good()
	refused(now.Add(30*time.Minute+time.Second), attest.Stale, "chain_validity")
	refused(now.Add(-11*time.Second), attest.Stale, "chain_validity")
	good()

	// The same bundle in memory, with other content.
	ours := bundle.X509Authorities()
	bundle.SetX509Authorities(other.Bundle().X509Authorities())
	refused(now, attest.Untrusted, "chain")
	bundle.SetX509Authorities(append(other.Bundle().X509Authorities(), ours...))
	good()
	bundle.SetX509Authorities(nil)
	refused(now, attest.Untrusted, "chain")
	bundle.SetX509Authorities(ours)
	good()

	// What is appended to the chain is another chain, which is verified.
	longer := append(chain[:1:1], ours...)
	if _, err := svid.Verify(longer, src, now); err != nil {
		t.Error(err)
	}
	// The peer cannot bring its authority along.
	foreign := other.Mint(t, "/orders").Certificates
	for range 2 {
		_, err := svid.Verify(append(foreign, other.Bundle().X509Authorities()...), src, now)
		wantError(t, err, attest.Untrusted, "chain")
	}
}

// An authority that expires before the leaf ends the memory of the chain.
func TestARememberedChainEndsWithItsShortestCertificate(t *testing.T) {
	a := authority(t)
	chain := a.Mint(t, "/orders", svidtest.TTL(366*24*time.Hour), svidtest.Template(func(c *x509.Certificate) { c.NotAfter = now.AddDate(1, 0, 0) })).Certificates
	keys := a.VerifierKeys()
	keys.NextUpdate = now.AddDate(2, 0, 0)
	src := svid.NewSource(x509bundle.NewSet(a.Bundle()), keys)
	for range 2 {
		if _, err := svid.Verify(chain, src, now); err != nil {
			t.Fatal(err)
		}
	}
	end := a.Bundle().X509Authorities()[0].NotAfter // an hour before the leaf's
	if _, err := svid.Verify(chain, src, end); err != nil {
		t.Fatal(err)
	}
	_, err := svid.Verify(chain, src, end.Add(time.Second))
	wantError(t, err, attest.Stale, "chain_validity")
}
