package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
)

// party is a CA of a public key infrastructure that is not ours.
type party struct {
	template *x509.Certificate
	cert     *x509.Certificate
	key      crypto.Signer
}

// pki is an upstream CA under its root, and what it makes of our request.
type pki struct {
	now                 time.Time
	td                  spiffeid.TrustDomain
	root, upstream, own *party
	dedicated           bool
}

func caTemplate(name string, now time.Time, ttl time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{Organization: []string{"Example Corp"}, CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(ttl),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
	}
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	trust := spiffeid.RequireTrustDomainFromString(td)
	return &pki{
		now: now, td: trust, dedicated: true,
		root:     &party{template: caTemplate("Root", now, 10*365*day), key: newKey(t)},
		upstream: &party{template: caTemplate("Issuing CA", now, 5*365*day), key: newKey(t)},
		own:      &party{template: authorityTemplate(trust, "Assay X.509 authority", now, 365*day), key: newKey(t)},
	}
}

func (p *party) signedBy(t testing.TB, issuer *party) {
	t.Helper()
	parent := issuer.cert
	if p == issuer {
		parent = p.template
	}
	der, err := x509.CreateCertificate(rand.Reader, p.template, parent, p.key.Public(), issuer.key)
	must(t, err)
	p.cert, err = x509.ParseCertificate(der)
	must(t, err)
}

// sign makes all certificates, from the root down.
func (p *pki) sign(t testing.TB) {
	t.Helper()
	p.root.signedBy(t, p.root)
	p.upstream.signedBy(t, p.root)
	p.own.signedBy(t, p.upstream)
}

func (p *pki) configured(t testing.TB) *Upstream {
	t.Helper()
	u, err := NewUpstream([]*x509.Certificate{p.upstream.cert, p.root.cert}, nil, p.dedicated)
	must(t, err)
	return u
}

// verifies has crypto/x509 and go-spiffe verify an SVID below the chain, each
// with no more than the anchor.
func verifies(t testing.TB, u *Upstream, chain []*x509.Certificate, key crypto.Signer, trust spiffeid.TrustDomain, now time.Time) error {
	t.Helper()
	id := spiffeid.RequireFromPath(trust, "/payments")
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{Organization: []string{trust.Name()}}, NotBefore: now.Add(-time.Second), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, URIs: []*url.URL{id.URL()},
	}, chain[0], newKey(t).Public(), key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	presented := []*x509.Certificate{leaf}
	between, anchors := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range u.below(chain) {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		presented = append(presented, c)
		between.AddCert(c)
	}
	anchors.AddCert(u.anchor(chain))
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: anchors, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return err
		}
	}
	bundle := x509bundle.FromX509Authorities(trust, []*x509.Certificate{u.anchor(chain)})
	got, _, err := x509svid.Verify(presented, bundle, x509svid.WithTime(now))
	if err == nil && got != id {
		t.Errorf("it verifies as %s", got)
	}
	return err
}

func TestSVIDsBelowAnUpstreamVerifyWithTheAnchorThatIsPublished(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, change := range map[string]func(p *pki){
		"plain":                         func(*pki) {},
		"RSA above":                     func(p *pki) { p.root.key, p.upstream.key = rsaKey, rsaKey },
		"P-384 above":                   func(p *pki) { p.upstream.key = p384 },
		"Ed25519 above":                 func(p *pki) { p.root.key = ed },
		"paths exactly long enough":     func(p *pki) { p.root.template.MaxPathLen, p.upstream.template.MaxPathLen = 2, 1 },
		"usages of TLS":                 func(p *pki) { p.upstream.template.ExtKeyUsage = tlsUsages; p.own.template.ExtKeyUsage = tlsUsages },
		"any usage":                     func(p *pki) { p.upstream.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"the trust domain permitted":    func(p *pki) { permit(p.own, td) },
		"its names permitted above":     func(p *pki) { permit(p.upstream, "."+strings.SplitN(td, ".", 2)[1]) },
		"others excluded":               func(p *pki) { exclude(p.upstream, "other.example") },
		"other kinds of names excluded": func(p *pki) { p.upstream.template.ExcludedDNSDomains = []string{"example.org"}; p.critical() },
		"all end together":              func(p *pki) { p.own.template.NotAfter = p.upstream.template.NotAfter },
	} {
		for _, dedicated := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				p := newPKI(t)
				p.dedicated = dedicated
				change(p)
				p.sign(t)
				u := p.configured(t)
				chain, err := u.accept([]*x509.Certificate{p.own.cert}, p.own.key.Public(), p.td, p.now)
				must(t, err)
				if len(chain) != 3 || chain[0] != p.own.cert || chain[2] != p.root.cert {
					t.Errorf("chain of %d", len(chain))
				}
				if want := map[bool]*x509.Certificate{true: p.root.cert, false: p.own.cert}[dedicated]; u.anchor(chain) != want || len(u.below(chain)) != map[bool]int{true: 2}[dedicated] {
					t.Errorf("dedicated %t: anchor %q, %d below it", dedicated, u.anchor(chain).Subject, len(u.below(chain)))
				}
				if err := verifies(t, u, chain, p.own.key, p.td, p.now); err != nil {
					t.Errorf("an SVID does not verify: %v", err)
				}
			})
		}
	}
}

var tlsUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

func (p *pki) critical() { p.upstream.template.PermittedDNSDomainsCritical = true }
func permit(p *party, uris ...string) {
	p.template.PermittedURIDomains, p.template.PermittedDNSDomainsCritical = uris, true
}
func exclude(p *party, uris ...string) {
	p.template.ExcludedURIDomains, p.template.PermittedDNSDomainsCritical = uris, true
}

// without leaves an extension out of a certificate, or changes it, which
// crypto/x509 would not write, and signs it again.
func without(t testing.TB, c *x509.Certificate, id asn1.ObjectIdentifier, replace *pkix.Extension, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	var extensions []pkix.Extension
	for _, e := range c.Extensions {
		if !e.Id.Equal(id) {
			extensions = append(extensions, e)
		} else if replace != nil {
			extensions = append(extensions, *replace)
		}
	}
	tbs, err := asn1.Marshal(tbsCertificate{
		Version: 2, SerialNumber: c.SerialNumber, SignatureAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}, Issuer: asn1.RawValue{FullBytes: c.RawIssuer},
		Validity: validity{c.NotBefore, c.NotAfter}, Subject: asn1.RawValue{FullBytes: c.RawSubject}, PublicKey: asn1.RawValue{FullBytes: c.RawSubjectPublicKeyInfo}, Extensions: extensions,
	})
	must(t, err)
	digest := sha256.Sum256(tbs)
	sig, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}})
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

func TestEachFaultOfAnIntermediateIsRefusedForThatFault(t *testing.T) {
	uri := func(s string) *url.URL { u, err := url.Parse(s); must(t, err); return u }
	for _, tt := range []struct {
		name, check string
		before      func(p *pki)             // changes templates
		after       func(p *pki) *pki        // changes certificates; nil is none
		at          func(p *pki) time.Time   // nil: now
		pub         crypto.PublicKey         // nil: ours
		breaks      bool                     // crypto/x509 or go-spiffe refuse SVIDs below it too
		parent      func(p *pki) (by *party) // who signs ours; nil: the upstream
	}{
		{name: "another key", check: "upstream_key", pub: newKey(t).Public()},
		{name: "another CA's", check: "upstream_chain", parent: func(p *pki) *party {
			other := &party{template: caTemplate("Another CA", p.now, 5*365*day), key: newKey(t)}
			other.signedBy(t, other)
			return other
		}},
		{name: "another CA's under the same name", check: "upstream_chain", parent: func(p *pki) *party {
			other := &party{template: caTemplate("Issuing CA", p.now, 5*365*day), key: newKey(t)}
			other.signedBy(t, other)
			return other
		}},
		{name: "self-signed", check: "upstream_chain", parent: func(p *pki) *party { return p.own }},
		{name: "the root's, and not the CA's that is configured", check: "upstream_chain", parent: func(p *pki) *party { return p.root }, after: func(p *pki) *pki {
			other := *p
			other.root = &party{template: caTemplate("Another Root", p.now, 5*365*day), key: newKey(t)}
			other.root.signedBy(t, other.root)
			other.upstream = &party{template: caTemplate("Another CA", p.now, 5*365*day), key: newKey(t)}
			other.upstream.signedBy(t, other.root)
			return &other
		}},
		{name: "no subject", check: "upstream_subject", before: func(p *pki) { p.own.template.Subject = pkix.Name{} }},
		{name: "no key identifier", check: "upstream_subject", after: func(p *pki) *pki {
			p.own.cert = without(t, p.own.cert, oidSubjectKeyID, nil, p.upstream.key)
			return p
		}},
		{name: "no CA", check: "upstream_ca", before: func(p *pki) {
			p.own.template.IsCA, p.own.template.MaxPathLen, p.own.template.MaxPathLenZero = false, -1, false
			p.own.template.SubjectKeyId = []byte{1}
		}, breaks: true},
		{name: "a CA above that is none", check: "upstream_ca", before: func(p *pki) { p.upstream.template.IsCA = false }, breaks: true},
		{name: "an unknown critical extension", check: "upstream_ca", before: func(p *pki) {
			p.own.template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, breaks: true},
		{name: "a key that signs no certificates", check: "upstream_key_usage", before: func(p *pki) { p.own.template.KeyUsage = x509.KeyUsageDigitalSignature }, breaks: true},
		{name: "no key usage", check: "upstream_key_usage", before: func(p *pki) { p.own.template.KeyUsage = 0 }},
		{name: "a key above that signs no certificates", check: "upstream_key_usage", before: func(p *pki) { p.upstream.template.KeyUsage = x509.KeyUsageDigitalSignature }, breaks: true},
		{name: "for servers alone", check: "upstream_ext_key_usage", before: func(p *pki) { p.own.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, breaks: true},
		{name: "a CA for code above", check: "upstream_ext_key_usage", before: func(p *pki) { p.upstream.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }, breaks: true},
		{name: "a CA for something unknown above", check: "upstream_ext_key_usage", before: func(p *pki) { p.upstream.template.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }, breaks: true},
		{name: "no CA below the upstream", check: "upstream_path_length", before: func(p *pki) { p.upstream.template.MaxPathLen, p.upstream.template.MaxPathLenZero = 0, true }, breaks: true},
		{name: "one CA below the root", check: "upstream_path_length", before: func(p *pki) { p.root.template.MaxPathLen = 1 }, breaks: true},
		{name: "no URI", check: "upstream_uri", before: func(p *pki) { p.own.template.URIs = nil }},
		{name: "another trust domain", check: "upstream_uri", before: func(p *pki) { p.own.template.URIs = []*url.URL{uri("spiffe://other.example")} }},
		{name: "a workload", check: "upstream_uri", before: func(p *pki) { p.own.template.URIs = []*url.URL{uri("spiffe://" + td + "/payments")} }},
		{name: "two trust domains", check: "upstream_uri", before: func(p *pki) { p.own.template.URIs = []*url.URL{uri("spiffe://" + td), uri("spiffe://other.example")} }},
		{name: "only another domain permitted", check: "upstream_constraints", before: func(p *pki) { permit(p.upstream, "other.example") }, breaks: true},
		{name: "only another domain permitted by ours", check: "upstream_constraints", before: func(p *pki) { permit(p.own, "other.example") }, breaks: true},
		{name: "the domain above permitted, without its names", check: "upstream_constraints", before: func(p *pki) { permit(p.upstream, strings.SplitN(td, ".", 2)[1]) }},
		{name: "the trust domain excluded", check: "upstream_constraints", before: func(p *pki) { exclude(p.root, td) }, breaks: true},
		{name: "the names above excluded", check: "upstream_constraints", before: func(p *pki) { exclude(p.upstream, "."+strings.SplitN(td, ".", 2)[1]) }, breaks: true},
		{name: "the domain above excluded", check: "upstream_constraints", before: func(p *pki) { exclude(p.upstream, strings.SplitN(td, ".", 2)[1]) }, breaks: true},
		{name: "constraints that are not critical", check: "upstream_constraints", before: func(p *pki) { p.own.template.PermittedURIDomains = []string{td} }},
		{name: "not begun", check: "upstream_validity", before: func(p *pki) { p.own.template.NotBefore = p.now.Add(time.Minute) }, breaks: true},
		{name: "ended", check: "upstream_validity", before: func(p *pki) { p.own.template.NotAfter = p.now }},
		{name: "the root has ended", check: "upstream_validity", at: func(p *pki) time.Time { return p.now.Add(365*day + time.Minute) }, before: func(p *pki) {
			p.root.template.NotAfter = p.now.Add(365 * day)
			p.own.template.NotAfter = p.now.Add(364 * day)
		}, breaks: true},
		{name: "it outlives the CA above", check: "upstream_validity", before: func(p *pki) { p.own.template.NotAfter = p.upstream.template.NotAfter.Add(time.Second) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPKI(t)
			if tt.before != nil {
				tt.before(p)
			}
			p.sign(t)
			if tt.parent != nil {
				p.own.signedBy(t, tt.parent(p))
			}
			if tt.after != nil {
				p = tt.after(p)
			}
			pub, at := tt.pub, p.now
			if pub == nil {
				pub = p.own.key.Public()
			}
			if tt.at != nil {
				at = tt.at(p)
			}
			u := p.configured(t)
			chain, err := u.accept([]*x509.Certificate{p.own.cert}, pub, p.td, at)
			if chain != nil || attest.CheckOf(err) != tt.check || attest.KindOf(err) != attest.Untrusted {
				t.Errorf("%v, want an untrusted %s", err, tt.check)
			}
			if !tt.breaks {
				return
			}
			if err := verifies(t, u, []*x509.Certificate{p.own.cert, p.upstream.cert, p.root.cert}, p.own.key, p.td, at); err == nil {
				t.Error("relying parties do not mind: the check, or this test, is wrong")
			}
		})
	}
}

func TestCertificatesBetweenAreTakenFromTheImport(t *testing.T) {
	p := newPKI(t)
	p.sign(t)
	middle := &party{template: caTemplate("In between", p.now, 3*365*day), key: newKey(t)}
	middle.signedBy(t, p.upstream)
	p.own.signedBy(t, middle)
	u := p.configured(t)
	chain, err := u.accept([]*x509.Certificate{p.own.cert, p.root.cert, middle.cert}, p.own.key.Public(), p.td, p.now)
	must(t, err)
	if len(chain) != 4 || chain[1] != middle.cert || chain[3] != p.root.cert {
		t.Errorf("a chain of %d", len(chain))
	}
	if err := verifies(t, u, chain, p.own.key, p.td, p.now); err != nil {
		t.Error(err)
	}
	if _, err := u.accept([]*x509.Certificate{p.own.cert}, p.own.key.Public(), p.td, p.now); attest.CheckOf(err) != "upstream_chain" {
		t.Errorf("without it: %v", err)
	}
	// A loop, and a way that is too long, end.
	var long []*x509.Certificate
	above := p.upstream
	for range 6 {
		next := &party{template: caTemplate("Deep", p.now, 2*365*day), key: newKey(t)}
		next.signedBy(t, above)
		long, above = append(long, next.cert), next
	}
	p.own.signedBy(t, above)
	if _, err := u.accept(append([]*x509.Certificate{p.own.cert}, long...), p.own.key.Public(), p.td, p.now); attest.CheckOf(err) != "upstream_chain" {
		t.Errorf("a way that is too long: %v", err)
	}
	var none *Upstream
	if _, err := none.accept([]*x509.Certificate{p.own.cert}, p.own.key.Public(), p.td, p.now); attest.CheckOf(err) != "upstream_chain" {
		t.Errorf("without an upstream: %v", err)
	}
	if _, err := u.accept(nil, p.own.key.Public(), p.td, p.now); attest.CheckOf(err) != "upstream_chain" {
		t.Errorf("nothing: %v", err)
	}
}

func TestAnUpstreamWithItsKeyMakesIntermediatesThatEndWithinIt(t *testing.T) {
	p := newPKI(t)
	p.upstream.template.NotAfter = p.now.Add(30 * day)
	p.upstream.template.NotBefore = p.now.Add(-time.Second)
	p.sign(t)
	u, err := NewUpstream([]*x509.Certificate{p.upstream.cert, p.root.cert}, p.upstream.key, true)
	must(t, err)
	key := newKey(t)
	chain, err := u.issue(authorityTemplate(p.td, "Assay X.509 authority", p.now, 365*day), key.Public(), p.td, p.now)
	must(t, err)
	if own := chain[0]; !own.NotAfter.Equal(p.upstream.cert.NotAfter) || own.NotBefore.Before(p.upstream.cert.NotBefore) || len(chain) != 3 || !own.MaxPathLenZero {
		t.Errorf("valid from %v until %v, %d certificates", own.NotBefore, own.NotAfter, len(chain))
	}
	if err := verifies(t, u, chain, key, p.td, p.now); err != nil {
		t.Error(err)
	}
	// What the upstream's own constraints keep out is not made.
	p = newPKI(t)
	exclude(p.upstream, td)
	p.sign(t)
	u, err = NewUpstream([]*x509.Certificate{p.upstream.cert, p.root.cert}, p.upstream.key, true)
	must(t, err)
	if _, err := u.issue(authorityTemplate(p.td, "x", p.now, day), key.Public(), p.td, p.now); attest.CheckOf(err) != "upstream_constraints" {
		t.Errorf("%v", err)
	}
	u = p.configured(t)
	if u.Signs() {
		t.Error("it says that it has a key")
	}
	if _, err := u.issue(authorityTemplate(p.td, "x", p.now, day), key.Public(), p.td, p.now); attest.CheckOf(err) != "upstream_key" {
		t.Errorf("without its key: %v", err)
	}
}

func TestARequestAsksForWhatTheAuthorityMustBe(t *testing.T) {
	p := newPKI(t)
	p.sign(t)
	template := authorityTemplate(p.td, "Assay X.509 authority", p.now, 365*day)
	template.PermittedURIDomains, template.PermittedDNSDomainsCritical = []string{td}, true
	der, err := authorityRequest(template, p.own.key)
	must(t, err)
	csr, err := x509.ParseCertificateRequest(der)
	must(t, err)
	must(t, csr.CheckSignature())
	if !samePublic(csr.PublicKey, p.own.key.Public()) || csr.Subject.CommonName != "Assay X.509 authority" || len(csr.URIs) != 1 || csr.URIs[0].String() != "spiffe://"+td {
		t.Errorf("%v %v", csr.Subject, csr.URIs)
	}
	// A CA that copies the extensions of a request makes an authority that is accepted.
	made := &x509.Certificate{SerialNumber: randomSerial(), RawSubject: csr.RawSubject, NotBefore: p.now, NotAfter: p.now.Add(day), ExtraExtensions: csr.Extensions}
	made.SubjectKeyId = []byte{1, 2, 3}
	der, err = x509.CreateCertificate(rand.Reader, made, p.upstream.cert, csr.PublicKey, p.upstream.key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	chain, err := p.configured(t).accept([]*x509.Certificate{cert}, p.own.key.Public(), p.td, p.now)
	must(t, err)
	if !slices.Equal(cert.PermittedURIDomains, []string{td}) || !cert.MaxPathLenZero {
		t.Errorf("constraints %v, path length %d", cert.PermittedURIDomains, cert.MaxPathLen)
	}
	if err := verifies(t, p.configured(t), chain, p.own.key, p.td, p.now); err != nil {
		t.Error(err)
	}
}

func TestAnUpstreamIsConfiguredWholeOrNotAtAll(t *testing.T) {
	p := newPKI(t)
	p.sign(t)
	other := newPKI(t)
	other.sign(t)
	up, root := p.upstream.cert, p.root.cert
	for _, tt := range []struct {
		name, check string
		chain       []*x509.Certificate
		key         crypto.Signer
		dedicated   bool
	}{
		{"whole", "", []*x509.Certificate{up, root}, p.upstream.key, true},
		{"the root alone", "", []*x509.Certificate{root}, p.root.key, true},
		{"without its root, where nobody trusts that", "", []*x509.Certificate{up}, nil, false},
		{"nothing", "upstream_chain", nil, nil, false},
		{"too much", "upstream_chain", []*x509.Certificate{up, root, root, root, root, root}, nil, false},
		{"in another order", "upstream_chain", []*x509.Certificate{root, up}, nil, true},
		{"another's root of the same name", "upstream_chain", []*x509.Certificate{up, other.root.cert}, nil, true},
		{"dedicated without its root", "upstream_root", []*x509.Certificate{up}, nil, true},
		{"another's key", "upstream_key", []*x509.Certificate{up, root}, other.upstream.key, true},
		{"the root's key", "upstream_key", []*x509.Certificate{up, root}, p.root.key, true},
	} {
		u, err := NewUpstream(tt.chain, tt.key, tt.dedicated)
		if attest.CheckOf(err) != tt.check || (u == nil) != (tt.check != "") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.check)
		}
	}
}

func pemOf(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}

func TestAFileOfCertificatesHoldsNothingElse(t *testing.T) {
	p := newPKI(t)
	p.sign(t)
	got, err := ParseChain(append([]byte("\n"), pemOf(p.upstream.cert, p.root.cert)...))
	if err != nil || len(got) != 2 || !got[0].Equal(p.upstream.cert) {
		t.Errorf("%d, %v", len(got), err)
	}
	for name, text := range map[string]string{
		"nothing":         "",
		"no PEM":          "certificate",
		"text before":     "subject: x\n" + string(pemOf(p.root.cert)) + "x",
		"a private key":   string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})),
		"no certificate":  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})),
		"headers":         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: p.root.cert.Raw})),
		"too many":        strings.Repeat(string(pemOf(p.root.cert)), maxUpstreamChain+1),
		"one, and a half": string(pemOf(p.root.cert)) + "-----BEGIN CERTIFICATE-----\n",
	} {
		if got, err := ParseChain([]byte(text)); err == nil || got != nil {
			t.Errorf("%s: %d certificates, %v", name, len(got), err)
		}
	}
}

func FuzzParseChain(f *testing.F) {
	p := newPKI(f)
	p.sign(f)
	f.Add(pemOf(p.own.cert, p.upstream.cert, p.root.cert))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	u := p.configured(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		chain, err := ParseChain(text)
		if (err == nil) == (len(chain) == 0) || len(chain) > maxUpstreamChain {
			t.Fatalf("%d certificates and %v", len(chain), err)
		}
		if err != nil {
			return
		}
		full, err := u.accept(chain, p.own.key.Public(), p.td, p.now)
		if (err == nil) == (full == nil) {
			t.Fatalf("%d certificates and %v", len(full), err)
		}
		if err == nil && !bytes.Equal(full[0].RawTBSCertificate, p.own.cert.RawTBSCertificate) {
			t.Fatal("an intermediate that the upstream did not sign")
		}
	})
}
