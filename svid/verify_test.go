package svid_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

func authority(t testing.TB) *svidtest.Authority {
	t.Helper()
	return svidtest.NewAt(t, "example.test", clock)
}

func wantError(t testing.TB, err error, kind attest.Kind, check string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s %s", kind, check)
	}
	if attest.KindOf(err) != kind || attest.CheckOf(err) != check {
		t.Fatalf("got %s %s (%v), want %s %s", attest.KindOf(err), attest.CheckOf(err), err, kind, check)
	}
}

func TestAnAttestedSVIDHolds(t *testing.T) {
	a := authority(t)
	s := a.Mint(t, "/orders", svidtest.Attribute("tier", "gold"), svidtest.Policy("prod@7"), svidtest.Age(time.Minute))
	got, err := svid.Verify(s.Certificates, a.Source(), now,
		svid.ID(s.ID), svid.MemberOf(a.TrustDomain), svid.Tee(attest.AMDSEVSNP, attest.AWSNitro),
		svid.PCR(0, svidtest.Digest("another"), svidtest.Digest("image")), svid.Measurement("pcr8", svidtest.Digest("signer")),
		svid.MinTier(svid.Affirming), svid.Owned(), svid.MinAspect(svid.Executables, svid.Affirming),
		svid.MaxAge(time.Minute), svid.Policy("prod"), svid.Policy("prod@7"), svid.Attribute("tier", "gold"),
		svid.Require("own", func(*svid.Attested, time.Time) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != s.ID || got.Certificate != s.Certificates[0] || got.Result.Status != svid.Affirming {
		t.Errorf("got %+v", got)
	}
}

func TestEveryKindOfSVIDKeyCanBeAttested(t *testing.T) {
	a := authority(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, option := range map[string]svidtest.Option{
		"P-384": svidtest.Key(p384), "Ed25519": svidtest.Key(ed), "RSA-2048": svidtest.Key(rsa2048),
	} {
		if _, err := svid.Verify(a.Mint(t, "/orders", option).Certificates, a.Source(), now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAttestedSVIDIsAnOrdinarySVIDToOthers(t *testing.T) {
	a := authority(t)
	cert := a.Mint(t, "/orders").Certificates[0]
	id, _, err := x509svid.ParseAndVerify([][]byte{cert.Raw}, a.Bundle(), x509svid.WithTime(now))
	if err != nil || id.String() != "spiffe://example.test/orders" {
		t.Errorf("go-spiffe: %v, %v", id, err)
	}
	roots := x509.NewCertPool()
	for _, c := range a.Bundle().X509Authorities() {
		roots.AddCert(c)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("crypto/x509: %v", err)
	}
}

// refusal is one way in which an SVID does not hold.
type refusal struct {
	name    string
	kind    attest.Kind
	check   string
	mint    []svidtest.Option
	at      time.Time // zero is now
	require []svid.Requirement
}

func TestAnSVIDThatDoesNotHoldIsRefused(t *testing.T) {
	a := authority(t)
	other := a.Mint(t, "/orders")
	result := svidtest.Result
	later := func(d time.Duration) time.Time { return now.Add(d) }
	for _, tc := range []refusal{
		{name: "without a URI SAN", kind: attest.Untrusted, check: "leaf_id", mint: template(func(c *x509.Certificate) { c.URIs = nil })},
		{name: "with two URI SANs", kind: attest.Untrusted, check: "leaf_id", mint: template(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })},
		{name: "with another kind of URI", kind: attest.Untrusted, check: "leaf_id", mint: template(func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "https", Host: "example.test", Path: "/orders"}}
		})},
		{name: "with the trust domain's own ID", kind: attest.Untrusted, check: "leaf_id", mint: template(func(c *x509.Certificate) { c.URIs = []*url.URL{a.TrustDomain.ID().URL()} })},
		{name: "with a name of the service", kind: attest.Untrusted, check: "leaf_id", mint: template(func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: a.TrustDomain.Name(), Path: "/assay/server"}}
		})},
		{name: "that is a CA", kind: attest.Untrusted, check: "leaf_ca", mint: template(func(c *x509.Certificate) { c.IsCA = true })},
		{name: "that may sign certificates", kind: attest.Untrusted, check: "leaf_ca", mint: template(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
		{name: "that may sign CRLs", kind: attest.Untrusted, check: "leaf_ca", mint: template(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })},
		{name: "that may not sign", kind: attest.Untrusted, check: "leaf_key_usage", mint: template(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })},
		{name: "for servers alone", kind: attest.Untrusted, check: "leaf_key_usage", mint: template(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
		{name: "for signing code", kind: attest.Untrusted, check: "leaf_key_usage", mint: template(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })},
		{name: "for something unknown", kind: attest.Untrusted, check: "leaf_key_usage", mint: template(func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		})},
		{name: "that is not valid yet", kind: attest.Stale, check: "chain_validity", at: later(-time.Minute)},
		{name: "that has expired", kind: attest.Stale, check: "chain_validity", at: later(time.Hour + time.Second)},
		{name: "without a result", kind: attest.Untrusted, check: "result_missing", mint: []svidtest.Option{svidtest.Unattested()}},
		{name: "with the result of another key", kind: attest.Untrusted, check: "result_key", mint: []svidtest.Option{svidtest.ResultOf(t, other)}},
		{name: "with a result about another ID", kind: attest.Untrusted, check: "result_subject", mint: []svidtest.Option{result(func(r *svid.Result) { r.Subject = "spiffe://example.test/payments" })}},
		{name: "with a result of another trust domain", kind: attest.Untrusted, check: "result_issuer", mint: []svidtest.Option{result(func(r *svid.Result) {
			r.Issuer, r.Subject = "spiffe://other.test", "spiffe://other.test/orders"
		})}},
		{name: "that outlives its result", kind: attest.Untrusted, check: "result_validity", mint: []svidtest.Option{result(func(r *svid.Result) { r.Expiry = r.Expiry.Add(-time.Second) })}},
		{name: "with a result from the future", kind: attest.Stale, check: "result_future", mint: []svidtest.Option{result(func(r *svid.Result) { r.IssuedAt = r.IssuedAt.Add(svid.MaxClockSkew + time.Second) })}},
		{name: "with a result that has just expired", kind: attest.Stale, check: "result_expired", at: later(time.Hour)},
		{name: "under an unknown verifier key", kind: attest.Untrusted, check: "verifier_key", mint: []svidtest.Option{svidtest.VerifierKey(svidtest.NewKey(t))}},
		{name: "with a simulated result in a hardware trust domain", kind: attest.Untrusted, check: "simulated_domain", mint: []svidtest.Option{result(func(r *svid.Result) { r.Simulated = true })}, require: []svid.Requirement{svid.Simulated()}},
		{name: "in debug mode", kind: attest.Denied, check: "tier", mint: []svidtest.Option{svidtest.Debug()}},
		{name: "of a lower tier than required", kind: attest.Denied, check: "tier", mint: []svidtest.Option{svidtest.Grace()}, require: []svid.Requirement{svid.MinTier(svid.Affirming)}},
		{name: "that nobody owns", kind: attest.Denied, check: "instance-identity", mint: []svidtest.Option{svidtest.Unowned()}, require: []svid.Requirement{svid.Owned()}},
		{name: "of another ID than required", kind: attest.Denied, check: "id", require: []svid.Requirement{svid.ID(spiffeid.RequireFromString("spiffe://example.test/payments"))}},
		{name: "of another trust domain than required", kind: attest.Denied, check: "member_of", require: []svid.Requirement{svid.MemberOf(spiffeid.RequireTrustDomainFromString("other.test"))}},
		{name: "of another platform", kind: attest.Denied, check: "tee", require: []svid.Requirement{svid.Tee(attest.AMDSEVSNP, attest.TPM2)}},
		{name: "of another image", kind: attest.Denied, check: "pcr0", require: []svid.Requirement{svid.PCR(0, svidtest.Digest("release 41"))}},
		{name: "with half of the right digest", kind: attest.Denied, check: "pcr0", require: []svid.Requirement{svid.PCR(0, svidtest.Digest("image")[:24])}},
		{name: "without the measurement", kind: attest.Denied, check: "pcr7", require: []svid.Requirement{svid.PCR(7, svidtest.Digest("image"))}},
		{name: "for which no value would do", kind: attest.Denied, check: "pcr0", require: []svid.Requirement{svid.PCR(0, [][]byte{}...)}},
		{name: "of which a zero register is required", kind: attest.Denied, check: "pcr5", require: []svid.Requirement{svid.PCR(5, make([]byte, 48))}},
		{name: "that is too old", kind: attest.Stale, check: "max_age", mint: []svidtest.Option{svidtest.Age(time.Minute)}, require: []svid.Requirement{svid.MaxAge(59 * time.Second)}},
		{name: "under another policy", kind: attest.Denied, check: "policy", require: []svid.Requirement{svid.Policy("prod", "")}},
		{name: "under another revision", kind: attest.Denied, check: "policy", require: []svid.Requirement{svid.Policy("test@2")}},
		{name: "without the attribute", kind: attest.Denied, check: "attribute", require: []svid.Requirement{svid.Attribute("tier", "gold")}},
		{name: "with another attribute", kind: attest.Denied, check: "attribute", mint: []svidtest.Option{svidtest.Attribute("tier", "tin")}, require: []svid.Requirement{svid.Attribute("tier", "gold")}},
		{name: "that the caller's own check refuses", kind: attest.Denied, check: "own", require: []svid.Requirement{svid.Require("own", func(*svid.Attested, time.Time) error { return errors.New("no") })}},
		{name: "against an empty requirement", kind: attest.Internal, check: "requirement", require: []svid.Requirement{{}}},
		{name: "against a check that is missing", kind: attest.Internal, check: "requirement", require: []svid.Requirement{svid.Require("own", nil)}},
		{name: "against an aspect that does not exist", kind: attest.Internal, check: "requirement", require: []svid.Requirement{svid.MinAspect(8, svid.None)}},
		{name: "against a tier that does not exist", kind: attest.Denied, check: "tier", require: []svid.Requirement{svid.MinTier(svid.Tier(1))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := tc.at
			if at.IsZero() {
				at = now
			}
			got, err := svid.Verify(a.Mint(t, "/orders", tc.mint...).Certificates, a.Source(), at, tc.require...)
			wantError(t, err, tc.kind, tc.check)
			if got != nil {
				t.Error("a result beside an error")
			}
		})
	}
}

func template(change func(*x509.Certificate)) []svidtest.Option {
	return []svidtest.Option{svidtest.Template(change)}
}

func TestADebugResultIsAcceptedOnlyByName(t *testing.T) {
	a := authority(t)
	chain := a.Mint(t, "/orders", svidtest.Debug()).Certificates
	if _, err := svid.Verify(chain, a.Source(), now, svid.MinTier(svid.Contraindicated)); err != nil {
		t.Error(err)
	}
	_, err := svid.Verify(chain, a.Source(), now, svid.Simulated())
	wantError(t, err, attest.Denied, "tier")
}

func TestASimulatedResultIsAcceptedOnlyByName(t *testing.T) {
	a := svidtest.NewAt(t, "simulated.example.test", clock)
	chain := a.Mint(t, "/orders").Certificates
	_, err := svid.Verify(chain, a.Source(), now)
	wantError(t, err, attest.Denied, "simulated")
	_, err = svid.Verify(chain, a.Source(), now, svid.MinTier(svid.Contraindicated))
	wantError(t, err, attest.Denied, "simulated")
	got, err := svid.Verify(chain, a.Source(), now, svid.Simulated())
	if err != nil {
		t.Fatal(err)
	}
	if got.Result.Status != svid.Warning {
		t.Errorf("status %s, want warning", got.Result.Status)
	}
	_, err = svid.Verify(chain, a.Source(), now, svid.Simulated(), svid.MinTier(svid.Affirming))
	wantError(t, err, attest.Denied, "tier")
	_, err = svid.Verify(a.Mint(t, "/orders", svidtest.Result(func(r *svid.Result) { r.Simulated = false })).Certificates, a.Source(), now)
	wantError(t, err, attest.Untrusted, "simulated_domain")
}

func TestAChainOfTheWrongSizeIsRefused(t *testing.T) {
	a := authority(t)
	cert := a.Mint(t, "/orders").Certificates[0]
	for name, chain := range map[string][]*x509.Certificate{
		"empty": nil, "a hole": {nil}, "a hole behind": {cert, nil},
		"too long": {cert, cert, cert, cert, cert, cert, cert, cert, cert},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := svid.Verify(chain, a.Source(), now)
			wantError(t, err, attest.Malformed, "chain_size")
		})
	}
}

func TestVerifyNeedsASourceAndATime(t *testing.T) {
	a := authority(t)
	chain := a.Mint(t, "/orders").Certificates
	_, err := svid.Verify(chain, nil, now)
	wantError(t, err, attest.Internal, "verify")
	_, err = svid.Verify(chain, a.Source(), time.Time{})
	wantError(t, err, attest.Internal, "verify")
	_, err = svid.Verify(chain, svid.NewSource(nil, a.VerifierKeys()), now)
	wantError(t, err, attest.Untrusted, "bundle")
	_, err = svid.Verify(chain, svid.NewLiveSource(a.Bundle(), nil), now)
	wantError(t, err, attest.Untrusted, "verifier_keys")
}

func TestAnotherAuthorityIsRefused(t *testing.T) {
	a, stranger := authority(t), authority(t)
	chain := stranger.Mint(t, "/orders").Certificates
	_, err := svid.Verify(chain, a.Source(), now)
	wantError(t, err, attest.Untrusted, "chain")

	// A stolen CA key is not enough: the verifier key is another one.
	_, err = svid.Verify(chain, svid.NewSource(stranger.Bundle(), a.VerifierKeys()), now)
	wantError(t, err, attest.Untrusted, "verifier_key")
	// Nor is a stolen verifier key.
	_, err = svid.Verify(chain, svid.NewSource(a.Bundle(), stranger.VerifierKeys()), now)
	wantError(t, err, attest.Untrusted, "chain")

	elsewhere := svidtest.NewAt(t, "other.test", clock)
	_, err = svid.Verify(elsewhere.Mint(t, "/orders").Certificates, svid.NewSource(a.Bundle(), a.VerifierKeys(), elsewhere.VerifierKeys()), now)
	wantError(t, err, attest.Untrusted, "bundle")
	bundles := x509bundle.NewSet(elsewhere.Bundle(), a.Bundle())
	_, err = svid.Verify(elsewhere.Mint(t, "/orders").Certificates, svid.NewSource(bundles, a.VerifierKeys()), now)
	wantError(t, err, attest.Untrusted, "verifier_keys")
}

func TestVerifierKeysMustBeCurrent(t *testing.T) {
	a := authority(t)
	chain := a.Mint(t, "/orders").Certificates
	for _, tc := range []struct {
		name   string
		change func(*svid.VerifierKeys)
		kind   attest.Kind
		check  string
	}{
		{"expired", func(k *svid.VerifierKeys) { k.NextUpdate = now }, attest.Stale, "verifier_keys_expired"},
		{"from the future", func(k *svid.VerifierKeys) { k.IssuedAt = now.Add(svid.MaxClockSkew + time.Second) }, attest.Stale, "verifier_keys_future"},
		{"of a key not yet in use", func(k *svid.VerifierKeys) { k.Keys[0].NotBefore = now.Add(time.Second) }, attest.Untrusted, "verifier_key_window"},
		{"of a key no longer in use", func(k *svid.VerifierKeys) { k.Keys[0].NotAfter = now }, attest.Untrusted, "verifier_key_window"},
		{"withdrawn", func(k *svid.VerifierKeys) { k.Keys = nil }, attest.Untrusted, "verifier_key"},
		{"of another trust domain", func(k *svid.VerifierKeys) { k.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test") }, attest.Untrusted, "verifier_keys"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := a.VerifierKeys()
			tc.change(k)
			_, err := svid.Verify(chain, svid.NewSource(a.Bundle(), k), now)
			wantError(t, err, tc.kind, tc.check)
		})
	}
	k := a.VerifierKeys()
	k.Keys[0].NotAfter = now.Add(time.Second)
	if _, err := svid.Verify(chain, svid.NewSource(a.Bundle(), k), now.Add(time.Minute)); err != nil {
		t.Errorf("a result outlives the use of its key: %v", err)
	}
}

// mislabelled answers for every trust domain with the keys of one.
type mislabelled struct {
	svid.Source
	keys *svid.VerifierKeys
}

func (m mislabelled) VerifierKeys(spiffeid.TrustDomain) (*svid.VerifierKeys, error) {
	return m.keys, nil
}

func TestKeysThatASourceMislabelsAreRefused(t *testing.T) {
	a := authority(t)
	chain := a.Mint(t, "/orders").Certificates
	keys := a.VerifierKeys()
	keys.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test")
	_, err := svid.Verify(chain, mislabelled{a.Source(), keys}, now)
	wantError(t, err, attest.Untrusted, "verifier_keys")
	_, err = svid.Verify(chain, mislabelled{a.Source(), nil}, now)
	wantError(t, err, attest.Untrusted, "verifier_keys")
}

func TestTwoResultsInOneCertificateAreRefused(t *testing.T) {
	a := authority(t)
	cert := a.Mint(t, "/orders").Certificates[0]
	// crypto/x509 does not parse such a certificate; a verifier that gets its
	// certificates elsewhere must not depend on that.
	twice := *cert
	for _, e := range cert.Extensions {
		if e.Id.Equal(svid.OID()) {
			twice.Extensions = append(twice.Extensions, e)
		}
	}
	_, err := svid.Verify([]*x509.Certificate{&twice}, a.Source(), now)
	wantError(t, err, attest.Malformed, "result_duplicate")
}

func TestCryptoX509ParsesNoCertificateWithTwoResults(t *testing.T) {
	a := authority(t)
	one := a.Mint(t, "/orders").Certificates[0]
	template := &x509.Certificate{SerialNumber: one.SerialNumber, NotBefore: one.NotBefore, NotAfter: one.NotAfter, URIs: one.URIs}
	for _, e := range one.Extensions {
		if e.Id.Equal(svid.OID()) {
			template.ExtraExtensions = append(template.ExtraExtensions, e, e)
		}
	}
	key := svidtest.NewKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		t.Error("it does: what refuses such a certificate now is result_duplicate alone")
	}
}

func TestASignatureThatDoesNotVerifyIsRefused(t *testing.T) {
	a := authority(t)
	key := svidtest.NewKey(t)
	u, err := svid.ResultFrom(a.Mint(t, "/orders", svidtest.Key(key)).Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(u.CWT)
	forged[len(forged)-1] ^= 1
	chain := a.Mint(t, "/orders", svidtest.Key(key), svidtest.CWT(forged)).Certificates
	src := a.Source()
	for range 2 { // a bad signature is not remembered as anything
		_, err = svid.Verify(chain, src, now)
		wantError(t, err, attest.Untrusted, "result_signature")
	}
	good := a.Mint(t, "/orders", svidtest.Key(key), svidtest.CWT(u.CWT)).Certificates
	if _, err := svid.Verify(good, src, now); err != nil {
		t.Errorf("the same without the flipped bit: %v", err)
	}
}

func TestAnAttestedPeerIsReadableJSON(t *testing.T) {
	a := authority(t)
	got, err := svid.Verify(a.Mint(t, "/orders").Certificates, a.Source(), now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if m["id"] != "spiffe://example.test/orders" || len(m) != 4 {
		t.Errorf("%s", b)
	}
}

func TestNoBitOfTheResultCanBeFlipped(t *testing.T) {
	a := authority(t)
	cert := a.Mint(t, "/orders").Certificates[0]
	src := a.Source()
	if _, err := svid.Verify([]*x509.Certificate{cert}, src, now); err != nil {
		t.Fatal(err)
	}
	flips := 0
	for i, e := range cert.Extensions {
		if !e.Id.Equal(svid.OID()) {
			continue
		}
		for bit := range 8 * len(e.Value) {
			flipped := *cert
			flipped.Extensions = bytesOf(cert, i, bit)
			if _, err := svid.Verify([]*x509.Certificate{&flipped}, src, now); err == nil {
				t.Errorf("bit %d flipped, and the SVID holds", bit)
			}
			flips++
		}
	}
	if flips < 5000 {
		t.Fatalf("%d bits flipped: no result was found", flips)
	}
	t.Logf("%d bits", flips)
}

// bytesOf is the certificate's extensions with one bit of one flipped.
func bytesOf(cert *x509.Certificate, ext, bit int) []pkix.Extension {
	out := append([]pkix.Extension(nil), cert.Extensions...)
	out[ext].Value = bytes.Clone(out[ext].Value)
	out[ext].Value[bit/8] ^= 1 << (bit % 8)
	return out
}

func TestARememberedSignatureExcusesNothingElse(t *testing.T) {
	a := authority(t)
	chain := a.Mint(t, "/orders").Certificates
	src := a.Source()
	for range 2 {
		if _, err := svid.Verify(chain, src, now, svid.MaxAge(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := svid.Verify(chain, src, now.Add(2*time.Minute), svid.MaxAge(time.Minute))
	wantError(t, err, attest.Stale, "max_age")
	_, err = svid.Verify(chain, src, now.Add(2*time.Hour))
	wantError(t, err, attest.Stale, "chain_validity")
	_, err = svid.Verify(chain, src, now, svid.PCR(0, svidtest.Digest("another")))
	wantError(t, err, attest.Denied, "pcr0")
}

func TestCheckNoticesWhatTimeChanges(t *testing.T) {
	a := authority(t)
	got, err := svid.Verify(a.Mint(t, "/orders").Certificates, a.Source(), now)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(now.Add(time.Minute), svid.MaxAge(time.Minute)); err != nil {
		t.Error(err)
	}
	wantError(t, got.Check(now.Add(61*time.Second), svid.MaxAge(time.Minute)), attest.Stale, "max_age")
	wantError(t, got.Check(now.Add(time.Hour)), attest.Stale, "result_expired")
	wantError(t, got.Check(now.Add(61*time.Minute)), attest.Stale, "chain_validity")
	wantError(t, got.Check(now, svid.Policy("prod")), attest.Denied, "policy")
	wantError(t, (*svid.Attested)(nil).Check(now), attest.Internal, "verify")
	wantError(t, (&svid.Attested{}).Check(now), attest.Internal, "verify")
}
