package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
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
//	odd.jwt                                            a token whose header has what a JWT-SVID's must not
//	spaced.jwt                                         a token whose header is not written closely
//	ca-first.pem x509-first.pem trus-first.pem         svid.pem, and another certificate before it
//	many.pem large.pem                                 more than is looked at
//	deny-list.cbor                                     which names svid.pem
//	matrix-….pem matrix-….jwt                          each wrong for one reason, see wrongSVIDs
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
	put("two.pem", append(bytes.Clone(one), two...))
	own := a.Mint(t, "/orders", svidtest.Template(func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }))
	put("ca-first.pem", append(certsPEM(own.Certificates), one...))
	for _, legacy := range []string{"X509 CERTIFICATE", "TRUSTED CERTIFICATE"} {
		block := pem.EncodeToMemory(&pem.Block{Type: legacy, Bytes: bad.Certificates[0].Raw})
		put(strings.ToLower(legacy[:4])+"-first.pem", append(block, one...))
	}
	put("many.pem", bytes.Repeat(one, maxChains+1))
	put("large.pem", bytes.Repeat([]byte("# \n"), maxShown/3+1))
	put("token.jwt", []byte(a.MintJWT(t, "/orders", "vault", svidtest.PCR(0, launched.Image.PCR0), svidtest.Policy("prod@7"))+"\n"))
	_, rest, _ := strings.Cut(a.MintJWT(t, "/orders", "vault"), ".")
	put("odd.jwt", []byte(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"k","jku":"https://evil.example/keys"}`))+"."+rest))
	put("spaced.jwt", []byte(base64.RawURLEncoding.EncodeToString([]byte("\n { \"alg\": \"ES256\", \"kid\": \"k\" }"))+"."+rest))
	past := *a
	past.Now = func() time.Time { return fixtureTime.Add(-2 * time.Hour) }
	put("expired.jwt", []byte(past.MintJWT(t, "/orders", "vault")))
	var serial [svid.SerialSize]byte
	good.Certificates[0].SerialNumber.FillBytes(serial[:])
	put("deny-list.cbor", a.DenyList(t, svid.Denials{Serials: [][svid.SerialSize]byte{serial}}))
	for name, b := range wrongSVIDs(t, a) {
		put("matrix-"+name+".pem", certsPEM(b.Certificates))
	}
	mint("old.pem", a, "/orders", svidtest.Age(3*time.Hour))
	mint("expired.pem", a, "/orders", svidtest.Template(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = fixtureTime.Add(-30*time.Minute), fixtureTime.Add(-time.Minute)
	}))
	authority("other-", "example.test")
	sim := authority("simulated-", "simulated.example.test")
	mint("simulated.pem", sim, "/orders")
	put("matrix-simulated.jwt", []byte(sim.MintJWT(t, "/orders", "vault")))
	put("matrix-debug.jwt", []byte(a.MintJWT(t, "/orders", "vault", svidtest.Debug())))
	put("matrix-tier.jwt", []byte(a.MintJWT(t, "/orders", "vault", svidtest.Grace())))
	put("matrix-stale.jwt", []byte(a.MintJWT(t, "/orders", "vault", svidtest.Age(3*time.Hour))))
	put("matrix-good.jwt", []byte(a.MintJWT(t, "/orders", "vault")))
	put("matrix-spliced.jwt", spliced(a.MintJWT(t, "/orders", "vault"), a.MintJWT(t, "/orders", "vault")))
}

// spliced has the claims of one token and the signature of another.
func spliced(claims, signature string) []byte {
	return []byte(claims[:strings.LastIndexByte(claims, '.')] + signature[strings.LastIndexByte(signature, '.'):])
}

// wrongSVIDs are what an honest issuer does not make, each wrong for one reason.
func wrongSVIDs(t testing.TB, a *svidtest.Authority) map[string]*x509svid.SVID {
	t.Helper()
	return map[string]*x509svid.SVID{
		"good":             a.Mint(t, "/orders"),
		"spliced":          a.Mint(t, "/orders", svidtest.ResultOf(t, a.Mint(t, "/orders"))),
		"stale":            a.Mint(t, "/orders", svidtest.Age(3*time.Hour)),
		"tier":             a.Mint(t, "/orders", svidtest.Grace()),
		"debug":            a.Mint(t, "/orders", svidtest.Debug()),
		"unknown-verifier": a.Mint(t, "/orders", svidtest.VerifierKey(svidtest.NewKey(t))),
		"wrong-key":        wrongKey(t, a),
		"unattested":       a.Mint(t, "/orders", svidtest.Unattested()),
		"two-extensions":   twoExtensions(t, a.Mint(t, "/orders")),
	}
}

// wrongKey is a result that names the verifier key and was signed by another.
func wrongKey(t testing.TB, a *svidtest.Authority) *x509svid.SVID {
	t.Helper()
	leaf := svidtest.NewKey(t)
	u, err := svid.ResultFrom(a.Mint(t, "/orders", svidtest.Key(leaf), svidtest.VerifierKey(svidtest.NewKey(t))).Certificates[0])
	check(t, err)
	named, err := svid.ThumbprintOf(a.VerifierKeys().Keys[0].Key)
	check(t, err)
	cwt := bytes.Replace(u.CWT, u.KeyID[:], named[:], 1)
	if bytes.Equal(cwt, u.CWT) {
		t.Fatal("the result does not name its key")
	}
	return a.Mint(t, "/orders", svidtest.Key(leaf), svidtest.CWT(cwt))
}

// twoExtensions is a certificate with the result in it twice. Its signature is its
// own: it is refused before that could matter.
func twoExtensions(t testing.TB, s *x509svid.SVID) *x509svid.SVID {
	t.Helper()
	one := s.Certificates[0]
	c := &x509.Certificate{SerialNumber: one.SerialNumber, NotBefore: one.NotBefore, NotAfter: one.NotAfter, URIs: one.URIs, KeyUsage: one.KeyUsage}
	for _, e := range one.Extensions {
		if e.Id.Equal(svid.OID()) {
			c.ExtraExtensions = append(c.ExtraExtensions, e, e)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, s.PrivateKey.Public(), s.PrivateKey)
	check(t, err)
	return &x509svid.SVID{ID: s.ID, Certificates: []*x509.Certificate{{Raw: der}}, PrivateKey: s.PrivateKey}
}

func certsPEM(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// liveFixtures starts servers that show an SVID of spiffe://live.example.test/orders,
// and writes live.pem and what verifies it. It returns their addresses by the names
// of the variables that hold them: LIVE asks for a certificate, LIVE12 speaks TLS
// 1.2, and each of wrongSVIDs has one, as in LIVE_WRONG_KEY; LIVE_SIMULATED shows an
// SVID of simulated.live.example.test, which simulated-live-… verify.
func liveFixtures(t testing.TB, dir string) map[string]string {
	t.Helper()
	authority := func(prefix, td string) (*svidtest.Authority, *x509svid.SVID) {
		a := svidtest.New(t, td)
		own := a.Mint(t, "/orders")
		certs, key, err := own.Marshal()
		check(t, err)
		root, err := svid.MarshalVerifierRoot(a.VerifierRoot())
		check(t, err)
		bundle, err := spiffebundle.FromX509Authorities(a.TrustDomain, a.Bundle().X509Authorities()).Marshal()
		check(t, err)
		for name, b := range map[string][]byte{
			".pem": append(key, certs...), "-bundle.json": bundle, "-verifier-keys.cbor": a.Document(t), "-verifier-root.pem": root,
		} {
			check(t, os.WriteFile(filepath.Join(dir, prefix+"live"+name), b, 0o600))
		}
		return a, own
	}
	a, own := authority("", "live.example.test")
	_, simulated := authority("simulated-", "simulated.live.example.test")
	serve := func(own *x509svid.SVID, change func(*tls.Config)) string {
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
	out := map[string]string{
		"LIVE":           serve(own, func(*tls.Config) {}),
		"LIVE_SIMULATED": serve(simulated, func(*tls.Config) {}),
		"LIVE12": serve(own, func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.ClientAuth, c.VerifyConnection = tls.VersionTLS12, tls.VersionTLS12, tls.NoClientCert, nil
		}),
	}
	for name, own := range wrongSVIDs(t, a) {
		out["LIVE_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = serve(own, func(*tls.Config) {})
	}
	return out
}
