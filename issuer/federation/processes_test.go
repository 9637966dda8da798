package federation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	gofederation "github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/internal/fleet"
)

// side is one of two trust domains, with its server and an agent.
type side struct {
	*fleet.Office
	t       *testing.T
	b       fleet.Binaries
	td      spiffeid.TrustDomain
	web     string // address of the https_web endpoint
	spiffe  string // of the https_spiffe endpoint
	webRoot string // PEM file
	roots   *x509.CertPool
	agent   *fleet.Agent
	server  *fleet.Process
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSide(t *testing.T, b fleet.Binaries, name string) *side {
	t.Helper()
	s := &side{Office: fleet.NewOfficeOf(t, name, b, b), t: t, b: b, td: spiffeid.RequireTrustDomainFromString(name)}
	s.web, s.spiffe = fleet.FreePort(t), fleet.FreePort(t)
	s.webRoot = s.Path("web.pem")
	s.certificate()
	s.Append(fmt.Sprintf(`
web:
  listen: %s
  certificate: %s
  key: %s
federation:
  private_endpoints: [127.0.0.0/8]
  spiffe_listen: %s
  poll: 1s
authorities:
  refresh_hint: 1s
`, s.web, s.webRoot, s.Path("web-key.pem"), s.spiffe))
	s.server = s.Start(b)
	s.agent = s.StartAgent(b, "one")
	s.agent.Await()
	return s
}

// certificate makes one of the web's PKI, which is a CA of its own.
func (s *side) certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(s.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: s.Domain}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(s.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(s.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(s.t, os.WriteFile(s.webRoot, text, 0o600))
	must(s.t, os.WriteFile(s.Path("web-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(text)
}

// assay runs the operator's command at this side's server.
func (s *side) assay(args ...string) string {
	s.t.Helper()
	return s.Must(s.b, "assay", append(args, "--admin", filepath.Join(s.Data, "admin.sock"))...)
}

// exported is the bundle as the operator exports it.
func (s *side) exported() (string, *spiffebundle.Bundle) {
	s.t.Helper()
	file := s.Path("bundle.json")
	s.assay("bundle", "export", "--out", file)
	b, err := spiffebundle.Load(s.td, file)
	must(s.t, err)
	return file, b
}

// knows waits until workloads of this side hold so many authorities of the other.
func (s *side) knows(other *side, authorities int) {
	s.t.Helper()
	got := -1
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		x, err := workloadapi.FetchX509Context(s.t.Context(), workloadapi.WithAddr(s.agent.Socket()))
		if err != nil {
			continue
		}
		got = 0
		if b, err := x.Bundles.GetX509BundleForTrustDomain(other.td); err == nil {
			got = len(b.X509Authorities())
		}
		if got == authorities {
			return
		}
	}
	s.t.Fatalf("workloads of %s hold %d authorities of %s, want %d\n%s", s.td, got, other.td, authorities, s.assay("federation", "list"))
}

// meet is one mutually authenticated connection: a workload of this side calls one
// of the other, with go-spiffe over both Workload APIs.
func (s *side) meet(other *side) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	source := func(x *side) (*workloadapi.X509Source, error) {
		return workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(x.agent.Socket())))
	}
	near, err := source(s)
	if err != nil {
		return err
	}
	defer func() { _ = near.Close() }()
	far, err := source(other)
	if err != nil {
		return err
	}
	defer func() { _ = far.Close() }()
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(far, far, tlsconfig.AuthorizeMemberOf(s.td)))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	answered := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			answered <- err
			return
		}
		_, err = io.WriteString(c, "hello")
		_ = c.Close()
		answered <- err
	}()
	c, err := (&tls.Dialer{Config: tlsconfig.MTLSClientConfig(near, near, tlsconfig.AuthorizeMemberOf(other.td))}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	heard, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if string(heard) != "hello" {
		return fmt.Errorf("heard %q", heard)
	}
	return <-answered
}

// Two trust domains of real processes federate, one by each profile: their workloads
// meet, authorities that are prepared travel before they sign, an absent server
// costs nothing, and the end of the federation ends the trust.
func TestTwoTrustDomainsFederateAndTheirWorkloadsMeet(t *testing.T) {
	b := fleet.Build(t, filepath.Join("..", ".."))
	a, z := newSide(t, b, "simulated.a.example.org"), newSide(t, b, "simulated.b.example.org")

	// go-spiffe's client reads our endpoints, by both profiles.
	file, exported := a.exported()
	for name, o := range map[string]struct {
		address string
		option  gofederation.FetchOption
	}{
		"https_web":    {a.web, gofederation.WithWebPKIRoots(a.roots)},
		"https_spiffe": {a.spiffe, gofederation.WithSPIFFEAuth(exported, spiffeid.RequireFromSegments(a.td, "assay", "bundle"))},
	} {
		got, err := gofederation.FetchBundle(t.Context(), a.td, "https://"+o.address+"/bundle", o.option)
		must(t, err)
		if !got.Equal(exported) {
			t.Errorf("%s serves another bundle than the operator exports", name)
		}
		hint, ok := got.RefreshHint()
		if sequence, counted := got.SequenceNumber(); !ok || hint <= 0 || !counted || sequence == 0 {
			t.Errorf("%s: refresh hint %s, sequence %d", name, hint, sequence)
		}
		if len(got.JWTAuthorities()) == 0 {
			t.Errorf("%s serves no JWT authority", name)
		}
	}
	// Who has it already is told so, and nothing else is there.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.roots, MinVersion: tls.VersionTLS12}}}
	ask := func(path, tag string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+a.web+path, http.NoBody)
		must(t, err)
		req.Header.Set("If-None-Match", tag)
		r, err := client.Do(req)
		must(t, err)
		_ = r.Body.Close()
		return r
	}
	if r := ask("/bundle", ask("/bundle", "").Header.Get("ETag")); r.StatusCode != http.StatusNotModified {
		t.Errorf("the same bundle again: %s", r.Status)
	}
	for path, want := range map[string]int{"/verifier-keys": 200, "/": 404, "/metrics": 404, "/bundle/": 404} {
		if r := ask(path, ""); r.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, r.Status, want)
		}
	}

	if a.meet(z) == nil {
		t.Fatal("workloads of strange trust domains meet")
	}
	a.assay("federation", "add", z.Domain, "--url", "https://"+z.web+"/bundle", "--web-roots", z.webRoot)
	a.knows(z, 1)
	if a.meet(z) == nil {
		t.Fatal("a federation in one direction works in both")
	}
	z.assay("federation", "add", a.Domain, "--url", "https://"+a.spiffe+"/bundle", "--endpoint-id", "spiffe://"+a.Domain+"/assay/bundle", "--bundle", file)
	z.knows(a, 1)
	must(t, a.meet(z))
	must(t, z.meet(a))

	// What A prepares, B knows long before it signs.
	a.assay("authority", "prepare", "x509")
	z.knows(a, 2)
	a.knows(z, 1)
	must(t, a.meet(z))

	// A's server is gone: B trusts on, over a restart of its own too.
	a.server.Kill()
	z.server.Stop()
	z.server = z.Start(b)
	z.knows(a, 2)
	must(t, z.meet(a))

	// The end.
	z.assay("federation", "remove", a.Domain)
	z.knows(a, 0)
	if z.meet(a) == nil {
		t.Error("the trust outlives the federation")
	}
}
