package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

var (
	ours   = spiffeid.RequireTrustDomainFromString("a.example.org")
	theirs = spiffeid.RequireTrustDomainFromString("b.example.org")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCheck(t testing.TB, err error, check string) {
	t.Helper()
	if got := attest.CheckOf(err); got != check {
		t.Errorf("failed by check %q (%v), want %q", got, err, check)
	}
}

// authority is a CA: of a trust domain, or of the web.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func certify(t testing.TB, tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = serial, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func newAuthority(t testing.TB, uri string) *authority {
	t.Helper()
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA " + uri}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if uri != "" {
		u, err := url.Parse(uri)
		must(t, err)
		tmpl.URIs = []*url.URL{u}
	}
	key := newKey(t)
	return &authority{certify(t, tmpl, nil, key, key), key}
}

// leaf is a server's certificate: an SVID, or one for 127.0.0.1.
func (a *authority) leaf(t testing.TB, id string) *tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	if id == "" {
		tmpl.IPAddresses = []net.IP{{127, 0, 0, 1}}
	} else {
		u, err := url.Parse(id)
		must(t, err)
		tmpl.URIs = []*url.URL{u}
	}
	key := newKey(t)
	c := certify(t, tmpl, a.cert, key, a.key)
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// bundle is a bundle of b.example.org.
func bundle(sequence uint64, hint time.Duration, authorities ...*authority) *spiffebundle.Bundle {
	b := spiffebundle.New(theirs)
	for _, a := range authorities {
		b.AddX509Authority(a.cert)
	}
	if sequence > 0 {
		b.SetSequenceNumber(sequence)
	}
	if hint > 0 {
		b.SetRefreshHint(hint)
	}
	return b
}

func document(t testing.TB, b *spiffebundle.Bundle) []byte {
	t.Helper()
	doc, err := Encode(b)
	must(t, err)
	return doc
}

// endpoint is a bundle endpoint that does what it is told.
type endpoint struct {
	*httptest.Server
	cert    atomic.Pointer[tls.Certificate]
	handler atomic.Pointer[http.HandlerFunc]
	asked   atomic.Int64
}

func newEndpoint(t testing.TB, cert *tls.Certificate, h http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.cert.Store(cert)
	e.handler.Store(&h)
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked.Add(1)
		(*e.handler.Load())(w, r)
	}))
	// httptest adds a certificate of its own, which is never shown for this reason.
	e.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*e.cert.Load()}}, nil
	}}
	e.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) serve(h http.HandlerFunc) { e.handler.Store(&h) }

func serving(doc []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc)
	}
}

func newStore(t testing.TB) (store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assay.db")
	s, err := store.OpenSQLite(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	must(t, s.InitTrustDomain(t.Context(), store.TrustDomain{Name: ours.Name(), CreatedAt: time.Now()}))
	return s, path
}

// testKey is a server's checkpoint key, by its name.
func testKey(server string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, server)
	return ed25519.NewKeyFromSeed(seed)
}

// sealOf is the seal of one of the servers "main" and "other".
func sealOf(server string) Seal {
	return Seal{Server: server, Key: testKey(server), Member: func(name string) (ed25519.PublicKey, bool) {
		return testKey(name).Public().(ed25519.PublicKey), name == "main" || name == "other"
	}}
}

func open(t testing.TB, s store.FederationStore, change func(*Config)) *Federations {
	t.Helper()
	cfg := Config{TrustDomain: ours, Store: s, Seal: sealOf("main"), Now: time.Now, Log: slog.New(slog.DiscardHandler), Private: loopback()}
	if change != nil {
		change(&cfg)
	}
	f, err := Open(t.Context(), cfg)
	must(t, err)
	return f
}

// loopback is where endpoints of tests are.
func loopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

func run(t testing.TB, f *Federations) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within ten seconds: %s", what)
}

// held is the bundle that is served of a trust domain, or nil.
func held(f *Federations, td spiffeid.TrustDomain) *spiffebundle.Bundle {
	list, _ := f.Bundles()
	for _, b := range list {
		if b.TrustDomain() == td {
			return b
		}
	}
	return nil
}

var _ x509bundle.Source = (*spiffebundle.Bundle)(nil)
