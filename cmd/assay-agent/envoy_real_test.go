package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3" // what typed_config names
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/assay-project/assay/internal/fleet"
)

// realEnvoy is the Envoy of this machine.
func realEnvoy(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ASSAY_ENVOY"); path != "" {
		return path
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("NOT TESTED: a REAL ENVOY. There is none in PATH; ASSAY_ENVOY names one elsewhere. Its streams are tested, and its configurations by its own definitions.")
	}
	return path
}

// documented is a configuration of ours with what is somebody's own replaced. What is
// to be replaced must be there.
func documented(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the configuration has no %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	var tree any
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	conf := &bootstrap.Bootstrap{}
	if err := protojson.Unmarshal(b, conf); err != nil {
		t.Fatal(err)
	}
	if err := conf.ValidateAll(); err != nil { // Envoy's own rules
		t.Fatal(err)
	}
	return text
}

// guideConfiguration is that of docs/guides/envoy.md.
func guideConfiguration(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "guides", "envoy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```yaml\n")
	block, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatal("the guide has no configuration")
	}
	return block
}

// port is one of the loopback that nobody listens on.
func port(t *testing.T) string {
	t.Helper()
	_, p, err := net.SplitHostPort(fleet.FreePort(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// envoy runs one with a configuration.
func (s *site) envoy(binary, name, conf string) {
	s.t.Helper()
	s.write(name+".yaml", conf)
	s.start(name, exec.Command(binary, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "-c", s.path(name+".yaml")))
}

// behind is a program behind an Envoy: it answers with the headers that it got.
func behind(t *testing.T) (port string) {
	t.Helper()
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = r.Header.Write(w) }))
	t.Cleanup(p.Close)
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// get is one request on a connection of its own.
func get(url string, conf *tls.Config) (status int, body string, shown string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", "", err
	}
	out, err := (&http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = out.Body.Close() }()
	text, err := io.ReadAll(out.Body)
	if out.TLS != nil {
		shown = out.TLS.PeerCertificates[0].SerialNumber.String()
	}
	return out.StatusCode, string(text), shown, err
}

// strangers are clients whom no Envoy lets in: one without a certificate, and one who
// made its own with the right name.
func strangers(t *testing.T, id string) map[string]*tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	// Whom they meet is no concern of theirs.
	return map[string]*tls.Config{
		"without a certificate":    {InsecureSkipVerify: true},
		"with one of their own":    {InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		"of a TLS that is too old": {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
	}
}

// member is a client with the SVID that the site's agent has now. The tests look at who
// answers by the program behind it.
func (s *site) member() *tls.Config {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+s.path("agent/agent.sock")))
	if err != nil {
		s.t.Fatal(err)
	}
	c := tls.Certificate{PrivateKey: v.PrivateKey}
	for _, x := range v.Certificates {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{c}}
}

const siteName = "spiffe://simulated.example.org/orders"

// Two real Envoys with the guide's configuration: a program reaches another through
// both by mutual TLS; each shows a renewed SVID without a restart, and no call fails
// meanwhile; strangers get nowhere.
func TestARealEnvoyDoesWhatTheGuideSays(t *testing.T) {
	in, out, farIn, farOut := port(t), port(t), port(t), port(t)
	program := behind(t)
	configuration := func(socket, in, out, next string) string {
		return documented(t, guideConfiguration(t),
			"spiffe://attested.example.org/web", siteName, "spiffe://attested.example.org/inventory", siteName,
			"address: 0.0.0.0, port_value: 8443", "address: 127.0.0.1, port_value: "+in,
			"port_value: 9000", "port_value: "+out,
			"port_value: 8080", "port_value: "+program,
			"address: inventory.internal, port_value: 8443", "address: 127.0.0.1, port_value: "+next,
			"/run/assay/agent.sock", socket)
	}
	_ = configuration("/run/a.sock", in, out, farIn) // it is one, Envoy or not
	binary := realEnvoy(t)

	s := newSite(t)
	s.startAgent()
	s.envoy(binary, "near", configuration(s.path("agent/agent.sock"), in, out, farIn))
	s.envoy(binary, "far", configuration(s.path("agent/agent.sock"), farIn, farOut, in))
	through := "http://127.0.0.1:" + out + "/"
	s.until("a call through both", func() bool { code, _, _, err := get(through, nil); return err == nil && code == http.StatusOK })
	if _, body, _, err := get(through, nil); err != nil || !strings.Contains(body, "URI="+siteName) {
		t.Errorf("the program does not hear who calls: %v\n%s", err, body)
	}
	for who, conf := range strangers(t, siteName) {
		if code, body, _, err := get("https://127.0.0.1:"+farIn+"/", conf); err == nil {
			t.Errorf("a stranger %s gets %d, %s", who, code, body)
		}
	}

	stop := make(chan struct{})
	var calling sync.WaitGroup
	calls := 0
	calling.Go(func() {
		for ; ; calls++ {
			select {
			case <-stop:
				return
			default:
			}
			if code, _, _, err := get(through, nil); err != nil || code != http.StatusOK {
				t.Errorf("call %d: %d %v", calls, code, err)
				return
			}
		}
	})
	for revision := 2; revision <= 4; revision++ {
		before := map[string]string{}
		for _, p := range []string{in, farIn} {
			_, _, shown, err := get("https://127.0.0.1:"+p+"/", s.member())
			if err != nil {
				t.Fatal(err)
			}
			before[p] = shown
		}
		s.revise(revision)
		for p, serial := range before {
			s.until("the renewal at "+p, func() bool {
				_, _, shown, err := get("https://127.0.0.1:"+p+"/", s.member())
				return t.Failed() || err == nil && shown != serial
			})
		}
	}
	close(stop)
	calling.Wait()
	t.Logf("%d calls", calls)
	if strings.Contains(s.log["agent"].String(), "Envoy does not accept") {
		t.Error("Envoy does not like what the agent sends")
	}
}

// A real Envoy asks examples/extauthz for every request: a peer whose SVID holds
// passes, with what it is told to the program in headers that no client can set; what
// demands more refuses it.
func TestARealEnvoyAsksWhatAPeerIs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "extauthz", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	in, program := port(t), behind(t)
	configuration := func(socket, authorizer string) string {
		return documented(t, string(text),
			"address: 0.0.0.0, port_value: 8443", "address: 127.0.0.1, port_value: "+in, "port_value: 8080", "port_value: "+program,
			"/run/assay/agent.sock", socket, "/run/extauthz/extauthz.sock", authorizer)
	}
	_ = configuration("/run/a.sock", "/run/b.sock")
	binary := realEnvoy(t)

	s := newSite(t)
	s.startAgent()
	const module = "github.com/assay-project/assay/"
	if out, err := exec.Command("go", "build", "-o", s.dir, module+"cmd/assay", module+"examples/extauthz").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if out, err := exec.Command(s.path("assay"), "bundle", "export", "--admin", s.path("server/admin.sock"), "--verifier-keys", s.path("keys")).CombinedOutput(); err != nil {
		t.Fatalf("assay bundle export: %v\n%s", err, out)
	}
	authorizer := exec.Command(s.path("extauthz"), "--socket", s.path("authz.sock"), "--domain", "simulated.example.org", "--verifier-root", s.path("server/verifier-root.pem"), "--verifier-keys", s.path("keys"), "--accept-simulated")
	authorizer.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+s.path("agent/agent.sock"))
	s.start("extauthz", authorizer)
	s.until("extauthz", func() bool { _, err := os.Lstat(s.path("authz.sock")); return err == nil })
	s.envoy(binary, "envoy", configuration(s.path("agent/agent.sock"), s.path("authz.sock")))

	at := "https://127.0.0.1:" + in
	s.until("a call", func() bool { code, _, _, err := get(at+"/", s.member()); return err == nil && code == http.StatusOK })
	if _, body, _, err := get(at+"/", s.member()); err != nil || !strings.Contains(strings.ToLower(body), "x-assay-") {
		t.Errorf("the program does not hear what its peer is: %v\n%s", err, body)
	}
	if code, body, _, err := get(at+"/admin", s.member()); err != nil || code != http.StatusForbidden {
		t.Errorf("what demands an attribute lets in who has none: %d %v\n%s", code, err, body)
	}
	for who, conf := range strangers(t, siteName) {
		if code, body, _, err := get(at+"/", conf); err == nil {
			t.Errorf("a stranger %s gets %d, %s", who, code, body)
		}
	}
	// Without who answers, nobody passes.
	if err := authorizer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.until("a refusal", func() bool {
		code, _, _, err := get(at+"/", s.member())
		return err == nil && code == http.StatusForbidden
	})
}
