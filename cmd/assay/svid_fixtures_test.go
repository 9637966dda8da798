package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// svidFixtures writes attested SVIDs, and what verifies them, into a directory:
//
//	svid.pem plain.pem debug.pem old.pem simulated.pem   SVIDs of spiffe://example.test/orders
//	bundle.json bundle.pem verifier-keys.cbor verifier-root.pem
//	simulated-…                                        the same of simulated.example.test
//	other-…                                            the same of an authority that issued none of them
func svidFixtures(t testing.TB, dir string) {
	t.Helper()
	now := func() time.Time { return fixtureTime }
	put := func(name string, b []byte) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	authority := func(prefix, td string) *svidtest.Authority {
		t.Helper()
		a := svidtest.NewAt(t, td, now)
		b, err := spiffebundle.FromX509Authorities(a.TrustDomain, a.Bundle().X509Authorities()).Marshal()
		check(t, err)
		put(prefix+"bundle.json", b)
		var text []byte
		for _, c := range a.Bundle().X509Authorities() {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		put(prefix+"bundle.pem", text)
		put(prefix+"verifier-keys.cbor", a.Document(t))
		root, err := svid.MarshalVerifierRoot(a.VerifierRoot())
		check(t, err)
		put(prefix+"verifier-root.pem", root)
		return a
	}
	mint := func(name string, a *svidtest.Authority, path string, options ...svidtest.Option) {
		t.Helper()
		s := a.Mint(t, path, options...)
		certs, key, err := s.Marshal()
		check(t, err)
		put(name, append(key, certs...)) // the key in front: it has to be left alone
	}
	a := authority("", "example.test")
	mint("svid.pem", a, "/orders", svidtest.PCR(0, launched.Image.PCR0), svidtest.Policy("prod@7"), svidtest.Attribute("team", "a\x1b[31mb"))
	mint("plain.pem", a, "/orders", svidtest.Unattested())
	mint("debug.pem", a, "/orders", svidtest.Debug())
	mint("old.pem", a, "/orders", svidtest.Age(3*time.Hour))
	mint("expired.pem", a, "/orders", svidtest.Template(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = fixtureTime.Add(-30*time.Minute), fixtureTime.Add(-time.Minute)
	}))
	authority("other-", "example.test")
	sim := authority("simulated-", "simulated.example.test")
	mint("simulated.pem", sim, "/orders")
}
