package ca

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// bootstrap is a bootstrap root with its key, and a checkpoint key.
type bootstrap struct {
	td         spiffeid.TrustDomain
	root       *x509.Certificate
	key        crypto.Signer
	checkpoint ed25519.PublicKey
	now        time.Time
}

func newBootstrap(t testing.TB) bootstrap {
	t.Helper()
	b := bootstrap{td: spiffeid.RequireTrustDomainFromString(td), key: newKey(t), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	der, err := bootstrapRoot(b.td, b.key, b.now.Add(-24*time.Hour))
	must(t, err)
	b.root, err = x509.ParseCertificate(der)
	must(t, err)
	b.checkpoint, _, err = ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return b
}

func (b bootstrap) endorse(t testing.TB, server string) []byte {
	t.Helper()
	der, err := endorse(b.td, server, b.checkpoint, b.root, b.key, b.now)
	must(t, err)
	return der
}

func TestAnEndorsedServerIsAMemberWithTheKeyThatTheRootNamed(t *testing.T) {
	b := newBootstrap(t)
	der := b.endorse(t, "b")
	for _, at := range []time.Time{b.now, b.now.Add(9 * 365 * day)} {
		m, err := checkEndorsement(der, b.td, "b", b.root, at)
		must(t, err)
		if d := cmp.Diff(Member{Name: "b", Key: b.checkpoint, JoinedAt: b.now.Add(-maxBackdate)}, m); d != "" {
			t.Error(d)
		}
	}
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	if !cert.NotAfter.Equal(b.root.NotAfter) {
		t.Errorf("it ends at %v, the root at %v", cert.NotAfter, b.root.NotAfter)
	}
}

// The same root signs servers' TLS certificates, and agents pin it.
func TestAnEndorsementIsNoTLSCertificateAndNoTLSCertificateAnEndorsement(t *testing.T) {
	b := newBootstrap(t)
	cert, err := x509.ParseCertificate(b.endorse(t, "b"))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(b.root)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: b.now, KeyUsages: []x509.ExtKeyUsage{usage}}); err == nil {
			t.Errorf("an endorsement passes for TLS (%v)", usage)
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: b.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("it does not chain to the root: %v", err)
	}

	f := newFixture(t)
	must(t, f.open(t))
	_, err = checkEndorsement(f.ca.server.Load().Leaf.Raw, f.ca.td, "Assay server", f.ca.bootstrapRoot, f.Now())
	wantCheck(t, err, "endorsement_usage")
}

func TestEachFaultOfAnEndorsementIsRefusedForThatFault(t *testing.T) {
	b := newBootstrap(t)
	foreign := newBootstrap(t)
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTrustAnchorConfigSigning})
	must(t, err)
	both, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTrustAnchorConfigSigning, oidServerAuth})
	must(t, err)
	eku := func(v []byte) []pkix.Extension {
		return []pkix.Extension{{Id: oidExtKeyUsage, Critical: true, Value: v}}
	}
	for _, tt := range []struct {
		name, check string
		change      func(t *x509.Certificate)
		key         crypto.PublicKey  // nil: the checkpoint key
		root        *x509.Certificate // the issuer it claims; nil: the root
		signer      crypto.Signer     // nil: the root's
		at          time.Time         // zero: now
	}{
		{name: "none"},
		{name: "signed by another key under the root's name", check: "endorsement_signature", signer: foreign.key, root: &x509.Certificate{Subject: b.root.Subject, SubjectKeyId: b.root.SubjectKeyId, PublicKey: foreign.key.Public()}},
		{name: "of an issuer with another name", check: "endorsement_signature", root: &x509.Certificate{Subject: pkix.Name{CommonName: "another"}, PublicKey: b.key.Public()}},
		{name: "not begun", check: "endorsement_validity", at: b.now.Add(-time.Hour)},
		{name: "ended", check: "endorsement_validity", change: func(c *x509.Certificate) { c.NotAfter = b.now }},
		{name: "the root has ended", check: "endorsement_validity", change: func(c *x509.Certificate) { c.NotAfter = b.now.Add(30 * 365 * day) }, at: b.root.NotAfter},
		{name: "a CA", check: "endorsement_usage", change: func(c *x509.Certificate) { c.IsCA = true }},
		{name: "a key that signs certificates", check: "endorsement_usage", change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{name: "no usage", check: "endorsement_usage", change: func(c *x509.Certificate) { c.ExtraExtensions = nil }},
		{name: "TLS as well", check: "endorsement_usage", change: func(c *x509.Certificate) { c.ExtraExtensions = eku(both) }},
		{name: "TLS alone", check: "endorsement_usage", change: func(c *x509.Certificate) {
			c.ExtraExtensions, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}},
		{name: "an unknown critical extension", check: "endorsement_usage", change: func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}},
		{name: "another server's", check: "endorsement_name", change: func(c *x509.Certificate) { c.Subject.CommonName = "c" }},
		{name: "another trust domain's name", check: "endorsement_name", change: func(c *x509.Certificate) { c.Subject.Organization = []string{"other.example"} }},
		{name: "another trust domain's ID", check: "endorsement_name", change: func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "other.example", Path: ServerPath}}
		}},
		{name: "a workload's ID", check: "endorsement_name", change: func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: td, Path: "/payments"}}
		}},
		{name: "two IDs", check: "endorsement_name", change: func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }},
		{name: "a key of TLS", check: "endorsement_key", key: newKey(t).Public()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &x509.Certificate{
				SerialNumber: randomSerial(), Subject: pkix.Name{Organization: []string{td}, CommonName: "b"}, NotBefore: b.now.Add(-time.Minute), NotAfter: b.now.Add(time.Hour),
				KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: eku(usage), BasicConstraintsValid: true,
				URIs: []*url.URL{{Scheme: "spiffe", Host: td, Path: ServerPath}},
			}
			if tt.change != nil {
				tt.change(c)
			}
			root, signer, key, at := tt.root, tt.signer, tt.key, tt.at
			if root == nil {
				root = b.root
			}
			if signer == nil {
				signer = b.key
			}
			if key == nil {
				key = b.checkpoint
			}
			if at.IsZero() {
				at = b.now
			}
			der, err := x509.CreateCertificate(rand.Reader, c, root, key, signer)
			must(t, err)
			m, err := checkEndorsement(der, b.td, "b", b.root, at)
			if tt.check == "" {
				must(t, err)
				return
			}
			wantCheck(t, err, tt.check)
			if attest.KindOf(err) != attest.Untrusted || m.Name != "" || m.Key != nil {
				t.Errorf("%v of %+v, want an untrusted endorsement of nobody", err, m)
			}
		})
	}
	for name, der := range map[string][]byte{"nothing": nil, "no certificate": []byte("x"), "one and a half": append(bytes.Clone(b.endorse(t, "b")), 0)} {
		if _, err := checkEndorsement(der, b.td, "b", b.root, b.now); attest.CheckOf(err) != "endorsement_der" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARootEndorsesOnlyWhatItCanVouchFor(t *testing.T) {
	b := newBootstrap(t)
	for _, tt := range []struct {
		name, check, server string
		key                 crypto.PublicKey
		signer              crypto.Signer
	}{
		{"another root's key", "endorsement_root", "b", b.checkpoint, newKey(t)},
		{"a key that signs no checkpoints", "endorsement_key", "b", newKey(t).Public(), b.key},
		{"no name", "server_name", "", b.checkpoint, b.key},
		{"a name with a slash", "server_name", "a/b", b.checkpoint, b.key},
		{"a name that is too long", "server_name", strings.Repeat("a", 64), b.checkpoint, b.key},
	} {
		der, err := endorse(b.td, tt.server, tt.key, b.root, tt.signer, b.now)
		if attest.CheckOf(err) != tt.check || der != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// FuzzEndorsement reads what might stand in a database: no bytes that the root did
// not sign make a member.
func FuzzEndorsement(f *testing.F) {
	b := newBootstrap(f)
	good := b.endorse(f, "b")
	f.Add(good)
	f.Add(b.root.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		m, err := checkEndorsement(der, b.td, "b", b.root, b.now)
		if (err == nil) != (m.Key != nil) {
			t.Fatalf("%+v and %v", m, err)
		}
		// ECDSA signatures can be written in another form; what is signed cannot.
		if err == nil {
			got, perr := x509.ParseCertificate(der)
			want, werr := x509.ParseCertificate(good)
			if perr != nil || werr != nil || !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) {
				t.Fatalf("a member by other bytes than the root's: %x", der)
			}
		}
	})
}
