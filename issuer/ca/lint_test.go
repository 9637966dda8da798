package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/svid"
)

// specimen is a certificate that passes the lint, taken apart.
type specimen struct {
	f        *fixture
	want     *profile
	template *x509.Certificate
	parent   *x509.Certificate
	key      crypto.PublicKey
	signer   crypto.Signer
	ext      pkix.Extension
	// parsed changes what was parsed, for what crypto/x509 cannot be made to write.
	parsed func(*x509.Certificate)
}

func newSpecimen(t *testing.T, f *fixture) *specimen { t.Helper(); return specimenOf(t, f) }

func specimenOf(t testing.TB, f *fixture) *specimen {
	t.Helper()
	rec := f.record(t, attestedtest.Request{})
	is := rec.Issuances()[0]
	with, err := f.ca.signsWith()
	must(t, err)
	p, err := f.ca.profile(rec, is, with)
	must(t, err)
	cwt, err := f.ca.appraise(rec, is, p)
	must(t, err)
	ext, err := svid.Extension(cwt)
	must(t, err)
	template, err := p.template(ext)
	must(t, err)
	throwaway := newKey(t)
	parent := *f.x509().cert
	parent.PublicKey = throwaway.Public()
	return &specimen{f: f, want: p, template: template, parent: &parent, key: p.key, signer: throwaway, ext: ext}
}

// template is the certificate as crypto/x509 is told of it: the X509-SVID profile (SPIFFE X509-SVID,
// sections 2, 3.2, 4 and appendix A), and the attestation result in a
// non-critical extension.
func (p *profile) template(result pkix.Extension) (*x509.Certificate, error) {
	ski, err := keyID(p.spki)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(p.serial[:]),
		// A subject that names nobody: relying parties read the URI.
		Subject:               pkix.Name{Organization: []string{p.id.TrustDomain().Name()}},
		NotBefore:             p.notBefore,
		NotAfter:              p.notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          ski,
		URIs:                  []*url.URL{p.id.URL()},
		ExtraExtensions:       []pkix.Extension{result},
	}, nil
}

// draft is the specimen as crypto/x509 writes it, signed by a key that is
// nobody's.
func (s *specimen) draft(t testing.TB) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, s.template, s.parent, s.key, s.signer)
	must(t, err)
	return der
}

func (s *specimen) lint(t *testing.T) error {
	t.Helper()
	der := s.draft(t)
	if s.parsed == nil {
		_, err := s.f.ca.lint(der, s.want)
		return err
	}
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	s.parsed(cert)
	return s.f.ca.check(cert, s.want)
}

// result replaces the attestation result by one that differs.
func (s *specimen) result(t *testing.T, key crypto.Signer, change func(*svid.Result)) {
	t.Helper()
	u, err := svid.ResultFrom(&x509.Certificate{Extensions: s.template.ExtraExtensions})
	must(t, err)
	r := u.Result
	change(&r)
	cwt, err := r.Sign(key)
	must(t, err)
	ext, err := svid.Extension(cwt)
	must(t, err)
	s.template.ExtraExtensions = []pkix.Extension{ext}
}

func (s *specimen) rename(t *testing.T, id string) {
	t.Helper()
	var err error
	s.want.id, err = spiffeid.FromString(id)
	must(t, err)
	s.template.URIs = []*url.URL{s.want.id.URL()}
}

func sanOf(t *testing.T, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(names)
	must(t, err)
	return pkix.Extension{Id: oidSAN, Value: der}
}

func TestEveryLintRuleStopsASignature(t *testing.T) {
	f := start(t)
	other := newKey(t)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	spki := func(key crypto.PublicKey) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		must(t, err)
		return der
	}
	uri := func(s *specimen) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s.want.id.String())}
	}
	tests := []struct {
		rule, name string
		spoil      func(t *testing.T, s *specimen)
	}{
		{"", "nothing", func(*testing.T, *specimen) {}},
		{"lint_version", "version 1", func(_ *testing.T, s *specimen) { s.parsed = func(c *x509.Certificate) { c.Version = 1 } }},
		{"lint_serial", "another serial", func(_ *testing.T, s *specimen) { s.template.SerialNumber.Add(s.template.SerialNumber, big.NewInt(1)) }},
		{"lint_serial", "a short serial", func(_ *testing.T, s *specimen) { s.template.SerialNumber = big.NewInt(7) }},
		{"lint_serial", "a negative serial", func(_ *testing.T, s *specimen) {
			s.parsed = func(c *x509.Certificate) { c.SerialNumber.Neg(c.SerialNumber) }
		}},
		{"lint_signature_algorithm", "SHA-384", func(_ *testing.T, s *specimen) { s.template.SignatureAlgorithm = x509.ECDSAWithSHA384 }},
		{"lint_issuer", "another issuer", func(_ *testing.T, s *specimen) {
			s.parent.RawSubject = nil
			s.parent.Subject = pkix.Name{CommonName: "another"}
		}},
		{"lint_subject", "a common name", func(_ *testing.T, s *specimen) { s.template.Subject.CommonName = "api.example.org" }},
		{"lint_subject", "another organization", func(_ *testing.T, s *specimen) { s.template.Subject.Organization = []string{"x"} }},
		{"lint_key", "another key", func(_ *testing.T, s *specimen) { s.key = other.Public() }},
		{"lint_key_type", "a P-521 key", func(_ *testing.T, s *specimen) { s.key, s.want.spki = p521.Public(), spki(p521.Public()) }},
		{"lint_not_before", "in the future", func(_ *testing.T, s *specimen) { s.template.NotBefore = s.want.issuedAt.Add(2 * time.Second) }},
		{"lint_not_before", "long ago", func(_ *testing.T, s *specimen) { s.template.NotBefore = s.want.issuedAt.Add(-6 * time.Minute) }},
		{"lint_not_after", "later than granted", func(_ *testing.T, s *specimen) { s.template.NotAfter = s.want.notAfter.Add(time.Second) }},
		{"lint_not_after", "over at once", func(_ *testing.T, s *specimen) { s.template.NotAfter = s.want.issuedAt }},
		{"lint_authority_validity", "longer than the authority", func(_ *testing.T, s *specimen) {
			s.want.notAfter = f.x509().cert.NotAfter.Add(time.Hour)
			s.template.NotAfter = s.want.notAfter
		}},
		{"lint_extensions", "an unknown extension", func(_ *testing.T, s *specimen) {
			s.template.ExtraExtensions = append(s.template.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})
		}},
		{"lint_extensions", "a critical result", func(_ *testing.T, s *specimen) { s.template.ExtraExtensions[0].Critical = true }},
		{"lint_extensions", "no result", func(_ *testing.T, s *specimen) { s.template.ExtraExtensions = nil }},
		{"lint_extensions", "a critical SAN", func(t *testing.T, s *specimen) {
			e := sanOf(t, uri(s))
			e.Critical = true
			s.template.ExtraExtensions = append(s.template.ExtraExtensions, e)
		}},
		{"lint_extensions", "an extension twice", func(_ *testing.T, s *specimen) {
			s.parsed = func(c *x509.Certificate) { c.Extensions = append(c.Extensions, c.Extensions[0]) }
		}},
		{"lint_parse", "two results", func(_ *testing.T, s *specimen) { // crypto/x509 refuses to read it
			s.template.ExtraExtensions = append(s.template.ExtraExtensions, s.template.ExtraExtensions[0])
		}},
		{"lint_san", "two URIs", func(_ *testing.T, s *specimen) { s.template.URIs = append(s.template.URIs, s.template.URIs[0]) }},
		{"lint_san", "a DNS name", func(_ *testing.T, s *specimen) { s.template.DNSNames = []string{"api.example.org"} }},
		{"lint_san", "an address", func(_ *testing.T, s *specimen) { s.template.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }},
		{"lint_san", "an e-mail address", func(_ *testing.T, s *specimen) { s.template.EmailAddresses = []string{"a@example.org"} }},
		{"lint_san", "a name that crypto/x509 hides", func(t *testing.T, s *specimen) {
			registered := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 3}}
			s.template.ExtraExtensions = append(s.template.ExtraExtensions, sanOf(t, uri(s), registered))
		}},
		{"lint_id", "another name", func(_ *testing.T, s *specimen) {
			s.template.URIs = []*url.URL{spiffeid.RequireFromPath(f.ca.td, "/another").URL()}
		}},
		{"lint_trust_domain", "another trust domain", func(t *testing.T, s *specimen) { s.rename(t, "spiffe://example.com/orders") }},
		{"lint_id_path", "no path", func(t *testing.T, s *specimen) { s.rename(t, "spiffe://"+td) }},
		{"lint_id_length", "128 bytes", func(t *testing.T, s *specimen) {
			s.rename(t, "spiffe://"+td+"/"+strings.Repeat("a", MaxSPIFFEID-len("spiffe://"+td+"/")+1))
		}},
		{"lint_id_reserved", "the server's name", func(t *testing.T, s *specimen) { s.rename(t, "spiffe://"+td+ServerPath) }},
		{"lint_id_reserved", "the reserved path itself", func(t *testing.T, s *specimen) { s.rename(t, "spiffe://"+td+"/assay") }},
		{"lint_basic_constraints", "a CA", func(_ *testing.T, s *specimen) { s.template.IsCA = true }},
		{"lint_key_usage", "key encipherment", func(_ *testing.T, s *specimen) { s.template.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{"lint_key_usage", "certificate signing", func(_ *testing.T, s *specimen) {
			s.template.KeyUsage = x509.KeyUsageCertSign
		}},
		{"lint_ext_key_usage", "servers only", func(_ *testing.T, s *specimen) { s.template.ExtKeyUsage = s.template.ExtKeyUsage[:1] }},
		{"lint_ext_key_usage", "code signing too", func(_ *testing.T, s *specimen) {
			s.template.ExtKeyUsage = append(s.template.ExtKeyUsage, x509.ExtKeyUsageCodeSigning)
		}},
		{"lint_subject_key_id", "of another key", func(_ *testing.T, s *specimen) { s.template.SubjectKeyId = []byte{1, 2, 3} }},
		{"lint_authority_key_id", "of another authority", func(_ *testing.T, s *specimen) { s.parent.SubjectKeyId = []byte{1, 2, 3} }},
		{"lint_result", "of another key", func(t *testing.T, s *specimen) {
			s.result(t, f.verifier().signer, func(r *svid.Result) { r.KeyThumbprint[0] ^= 1 })
		}},
		{"lint_result", "of another name", func(t *testing.T, s *specimen) {
			s.result(t, f.verifier().signer, func(r *svid.Result) { r.Subject = "spiffe://" + td + "/another" })
		}},
		{"lint_result", "that ends earlier", func(t *testing.T, s *specimen) {
			s.result(t, f.verifier().signer, func(r *svid.Result) { r.Expiry = r.Expiry.Add(-time.Second) })
		}},
		{"lint_result", "by another verifier key", func(t *testing.T, s *specimen) { s.result(t, other, func(*svid.Result) {}) }},
		{"lint_result", "that is not one", func(_ *testing.T, s *specimen) { s.template.ExtraExtensions[0].Value = []byte{4, 1, 0} }},
	}
	var covered []string
	for _, tt := range tests {
		covered = append(covered, tt.rule)
		t.Run(tt.rule+" "+tt.name, func(t *testing.T) {
			s := newSpecimen(t, f)
			must(t, s.lint(t)) // it passes before
			tt.spoil(t, s)
			err := s.lint(t)
			if tt.rule == "" {
				must(t, err)
				return
			}
			wantCheck(t, err, tt.rule)
			if attest.KindOf(err) != attest.Internal {
				t.Errorf("kind %v, want internal", attest.KindOf(err))
			}
		})
	}
	for _, r := range rules {
		if !slices.Contains(covered, r.name) {
			t.Errorf("rule %s has no negative test", r.name)
		}
	}
}

func TestWeakRSAKeysAreRefused(t *testing.T) {
	n := func(bits uint) *big.Int { return new(big.Int).SetBit(big.NewInt(1), int(bits-1), 1) }
	for name, tt := range map[string]struct {
		key  *rsa.PublicKey
		good bool
	}{
		"2047 bits":       {&rsa.PublicKey{N: n(2047), E: 65537}, false},
		"2048 bits":       {&rsa.PublicKey{N: n(2048), E: 65537}, true},
		"4096 bits":       {&rsa.PublicKey{N: n(4096), E: 65537}, true},
		"4097 bits":       {&rsa.PublicKey{N: n(4097), E: 65537}, false},
		"exponent 3":      {&rsa.PublicKey{N: n(2048), E: 3}, false},
		"exponent 1":      {&rsa.PublicKey{N: n(2048), E: 1}, false},
		"an even one":     {&rsa.PublicKey{N: n(2048), E: 65538}, false},
		"a larger prime":  {&rsa.PublicKey{N: n(2048), E: 1<<31 - 1}, true},
		"exponent 65536":  {&rsa.PublicKey{N: n(2048), E: 65536}, false},
		"a negative one":  {&rsa.PublicKey{N: n(2048), E: -3}, false},
		"exponent 2^16-1": {&rsa.PublicKey{N: n(2048), E: 65535}, false},
	} {
		if err := checkKeyType(tt.key); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkKeyType("not a key"); err == nil {
		t.Error("a string passed as a key")
	}
}

func TestWhatIsSignedIsWhatWasLinted(t *testing.T) {
	f := start(t)
	s := newSpecimen(t, f)
	draft, err := s.want.draft(s.ext, f.x509().cert)
	must(t, err)
	cert, err := x509.ParseCertificate(draft)
	must(t, err)
	if err := cert.CheckSignatureFrom(f.x509().cert); err == nil {
		t.Error("the draft verifies under the authority: it would be an SVID")
	}
	leaf, err := f.ca.sign(draft, s.want)
	must(t, err)
	if err := leaf.CheckSignatureFrom(f.x509().cert); err != nil {
		t.Errorf("the authority did not sign it: %v", err)
	}
	if !bytes.Equal(leaf.RawTBSCertificate, cert.RawTBSCertificate) {
		t.Error("what was signed is not the draft")
	}
}

// TestTheDraftIsWhatCryptoX509Writes: the encoding is ours, and this is what
// says that it is right, for every type of key and on both sides of 2050, where
// the form of times changes (RFC 5280, section 4.1.2.5).
func TestTheDraftIsWhatCryptoX509Writes(t *testing.T) {
	f := start(t)
	s := newSpecimen(t, f)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for name, key := range map[string]crypto.Signer{"P-256": newKey(t), "P-384": p384, "Ed25519": ed, "RSA": r} {
		for _, end := range []time.Time{s.want.notAfter, time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)} {
			p := *s.want
			p.key, p.notAfter = key.Public(), end
			p.spki, err = x509.MarshalPKIXPublicKey(p.key)
			must(t, err)
			for _, serial := range [][16]byte{newSerial(0x40), newSerial(0x7f)} {
				p.serial = serial
				s.template, err = p.template(s.ext)
				must(t, err)
				s.key = p.key
				want, err := x509.ParseCertificate(s.draft(t))
				must(t, err)
				der, err := p.draft(s.ext, f.x509().cert)
				must(t, err)
				got, err := x509.ParseCertificate(der)
				must(t, err)
				if !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) {
					t.Errorf("%s until %s:\n got %x\nwant %x", name, end, got.RawTBSCertificate, want.RawTBSCertificate)
				}
				if len(got.Signature) != 0 {
					t.Errorf("%s: the draft has a signature", name)
				}
			}
		}
	}
}

func newSerial(first byte) (s [16]byte) {
	_, _ = rand.Read(s[:])
	s[0] = first
	return s
}

func TestASignerThatErrsIsNoticed(t *testing.T) {
	f := start(t)
	s := newSpecimen(t, f)
	draft := s.draft(t)
	good := f.x509().signer
	f.x509().signer = newKey(t) // as a token that holds another key would
	_, err := f.ca.sign(draft, s.want)
	wantCheck(t, err, "issue_signature")
	f.x509().signer = good
	_, err = f.ca.sign(draft, s.want)
	must(t, err)
}
