package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// svidFixtures writes attested SVIDs, and what verifies them, into a directory:
//
//	svid.pem plain.pem debug.pem old.pem simulated.pem   SVIDs of spiffe://example.test/orders
//	two.pem                                            svid.pem, and debug.pem after it
//	token.jwt expired.jwt                              JWT-SVIDs of the same, for "vault"
//	deny-list.cbor                                     which names svid.pem
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
		bundle := spiffebundle.FromX509Authorities(a.TrustDomain, a.Bundle().X509Authorities())
		bundle.SetJWTAuthorities(a.JWTBundle(t).JWTAuthorities())
		b, err := bundle.Marshal()
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
	mint := func(name string, a *svidtest.Authority, path string, options ...svidtest.Option) *x509svid.SVID {
		t.Helper()
		s := a.Mint(t, path, options...)
		certs, key, err := s.Marshal()
		check(t, err)
		put(name, append(key, certs...)) // the key in front: it has to be left alone
		return s
	}
	a := authority("", "example.test")
	good := mint("svid.pem", a, "/orders", svidtest.PCR(0, launched.Image.PCR0), svidtest.Policy("prod@7"), svidtest.Attribute("team", "a\x1b[31mb"))
	mint("plain.pem", a, "/orders", svidtest.Unattested())
	bad := mint("debug.pem", a, "/orders", svidtest.Debug())
	one, _, err := good.Marshal()
	check(t, err)
	two, _, err := bad.Marshal()
	check(t, err)
	put("two.pem", append(one, two...))
	put("token.jwt", []byte(a.MintJWT(t, "/orders", "vault", svidtest.PCR(0, launched.Image.PCR0), svidtest.Policy("prod@7"))+"\n"))
	past := *a
	past.Now = func() time.Time { return fixtureTime.Add(-2 * time.Hour) }
	put("expired.jwt", []byte(past.MintJWT(t, "/orders", "vault")))
	var serial [svid.SerialSize]byte
	good.Certificates[0].SerialNumber.FillBytes(serial[:])
	put("deny-list.cbor", a.DenyList(t, svid.Denials{Serials: [][svid.SerialSize]byte{serial}}))
	mint("old.pem", a, "/orders", svidtest.Age(3*time.Hour))
	mint("expired.pem", a, "/orders", svidtest.Template(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = fixtureTime.Add(-30*time.Minute), fixtureTime.Add(-time.Minute)
	}))
	authority("other-", "example.test")
	sim := authority("simulated-", "simulated.example.test")
	mint("simulated.pem", sim, "/orders")
}

// liveFixtures starts two servers that show an SVID of spiffe://live.example.test/orders
// and ask for a certificate, one of TLS 1.3 and one of TLS 1.2, and writes
// live.pem and what verifies it.
func liveFixtures(t testing.TB, dir string) (address, old string) {
	t.Helper()
	a := svidtest.New(t, "live.example.test")
	own := a.Mint(t, "/orders")
	certs, key, err := own.Marshal()
	check(t, err)
	root, err := svid.MarshalVerifierRoot(a.VerifierRoot())
	check(t, err)
	bundle, err := spiffebundle.FromX509Authorities(a.TrustDomain, a.Bundle().X509Authorities()).Marshal()
	check(t, err)
	for name, b := range map[string][]byte{
		"live.pem": append(key, certs...), "live-bundle.json": bundle, "live-verifier-keys.cbor": a.Document(t), "live-verifier-root.pem": root,
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	serve := func(change func(*tls.Config)) string {
		cfg := svid.ServerTLS(own, a.Source())
		change(cfg)
		l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
		check(t, err)
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = c.Read(make([]byte, 1)); _ = c.Close() }()
			}
		}()
		return l.Addr().String()
	}
	return serve(func(*tls.Config) {}), serve(func(c *tls.Config) {
		c.MinVersion, c.MaxVersion, c.ClientAuth, c.VerifyConnection = tls.VersionTLS12, tls.VersionTLS12, tls.NoClientCert, nil
	})
}
