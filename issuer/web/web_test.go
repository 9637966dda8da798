package web_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/web"
)

func keys(context.Context) (web.Content, error) {
	return web.Content{Type: "application/json", Body: []byte(`{"keys":[]}`), MaxAge: 5 * time.Minute}, nil
}

func handler() http.Handler {
	return web.Handler(map[string]http.Handler{
		"/keys": web.Document(keys),
		"/fresh": web.Document(func(context.Context) (web.Content, error) {
			return web.Content{Type: "text/plain", Body: []byte("x")}, nil
		}),
		"/broken": web.Document(func(context.Context) (web.Content, error) { return web.Content{}, errors.New("the secret reason") }),
	})
}

func ask(method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, http.NoBody)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestADocumentIsServedWithItsTagAndForHowLongItMayBeKept(t *testing.T) {
	r := ask("GET", "/keys")
	if got := body(t, r); r.StatusCode != 200 || got != `{"keys":[]}` {
		t.Fatalf("%d %q", r.StatusCode, got)
	}
	tag := r.Header.Get("ETag")
	want := http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {"11"}, "Cache-Control": {"public, max-age=300"},
		"Etag": {tag}, "X-Content-Type-Options": {"nosniff"},
	}
	if d := cmp.Diff(want, r.Header); d != "" || len(tag) < 20 {
		t.Errorf("headers (-want +got):\n%s", d)
	}
	if again := ask("GET", "/keys").Header.Get("ETag"); again != tag {
		t.Errorf("the tag of the same document is %s, then %s", tag, again)
	}
	if got := ask("GET", "/fresh").Header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("without an age: %q", got)
	}
	head := ask("HEAD", "/keys")
	if got := body(t, head); head.StatusCode != 200 || got != "" || head.Header.Get("Content-Length") != "11" || head.Header.Get("ETag") != tag {
		t.Errorf("HEAD: %d %q %v", head.StatusCode, got, head.Header)
	}
}

func TestWhoHasTheDocumentIsToldSo(t *testing.T) {
	tag := ask("GET", "/keys").Header.Get("ETag")
	for _, has := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
		r := ask("GET", "/keys", "If-None-Match", has)
		if got := body(t, r); r.StatusCode != http.StatusNotModified || got != "" || r.Header.Get("ETag") != tag || r.Header.Get("Cache-Control") == "" {
			t.Errorf("%s: %d %q %v", has, r.StatusCode, got, r.Header)
		}
	}
	for _, has := range []string{`"other"`, strings.Trim(tag, `"`), "", strings.Repeat(`"x",`, 40) + tag} {
		if r := ask("GET", "/keys", "If-None-Match", has); r.StatusCode != 200 {
			t.Errorf("%.20s: %d", has, r.StatusCode)
		}
	}
}

func TestNothingElseIsAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		r    *http.Response
		code int
	}{
		"another path":       {ask("GET", "/"), 404},
		"a path below":       {ask("GET", "/keys/"), 404},
		"a path with dots":   {ask("GET", "/x/../keys"), 404},
		"an escaped path":    {ask("GET", "/key%73%2f"), 404},
		"another spelling":   {ask("GET", "/%6beys%2F..%2Fkeys"), 404},
		"a POST":             {ask("POST", "/keys"), 405},
		"a PUT":              {ask("PUT", "/nothing"), 405},
		"an OPTIONS":         {ask("OPTIONS", "/keys"), 405},
		"an unknown method":  {ask("BREW", "/keys"), 405},
		"a broken document":  {ask("GET", "/broken"), 503},
		"a broken one, HEAD": {ask("HEAD", "/broken"), 503},
	} {
		got := body(t, c.r)
		if c.r.StatusCode != c.code || strings.Contains(got, "secret") || len(got) > 40 || c.r.Header.Get("ETag") != "" {
			t.Errorf("%s: %d %q, want %d", name, c.r.StatusCode, got, c.code)
		}
	}
	r := httptest.NewRequest("GET", "/keys", strings.NewReader("a body"))
	w := httptest.NewRecorder()
	handler().ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge || w.Header().Get("Connection") != "close" {
		t.Errorf("a GET with a body: %d", w.Code)
	}
}

// pair writes a self-signed certificate and its key.
func pair(t *testing.T, dir, name string, end time.Time) (certFile, keyFile string, cert *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: end.Add(-48 * time.Hour), NotAfter: end, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	cert, err = x509.ParseCertificate(der)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certFile, keyFile = filepath.Join(dir, "web.pem"), filepath.Join(dir, "web-key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return certFile, keyFile, cert
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, s web.Server) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	})
	return l.Addr()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestTheServerSpeaksHTTPSAndOneRequestAfterAnother(t *testing.T) {
	certFile, keyFile, cert := pair(t, t.TempDir(), "one", time.Now().Add(time.Hour))
	c, err := web.OpenCertificate(certFile, keyFile, time.Now, quiet())
	must(t, err)
	addr := serve(t, web.Server{Handler: handler(), Certificate: c.Get, Log: quiet()})
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	closed := 0
	for i := range 110 {
		r, err := client.Get("https://" + addr.String() + "/keys")
		must(t, err)
		if got := body(t, r); got != `{"keys":[]}` || r.ProtoMajor != 1 || r.Header.Get("Server") != "" {
			t.Fatalf("request %d: %s %q %v", i, r.Proto, got, r.Header)
		}
		_ = r.Body.Close()
		if r.Close {
			closed++
		}
	}
	if closed != 1 {
		t.Errorf("of 110 requests %d ended their connection, want 1", closed)
	}
	old, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		_ = old.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

func TestACertificateThatChangesIsReadAgainAndABrokenOneIsNot(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	certFile, keyFile, first := pair(t, dir, "first", now.Add(24*time.Hour))
	c, err := web.OpenCertificate(certFile, keyFile, func() time.Time { return now }, quiet())
	must(t, err)
	served := func() string {
		t.Helper()
		now = now.Add(10 * time.Second)
		cert, err := c.Get(nil)
		must(t, err)
		return cert.Leaf.Subject.CommonName
	}
	key, err := os.ReadFile(keyFile)
	must(t, err)
	if got := served(); got != "first" {
		t.Fatalf("serves %s", got)
	}
	pair(t, dir, "second", now.Add(25*time.Hour))
	secondKey, err := os.ReadFile(keyFile)
	must(t, err)
	must(t, os.WriteFile(keyFile, key, 0o600)) // half of the change
	if got := served(); got != "first" {
		t.Errorf("with the new certificate and the old key: %s", got)
	}
	must(t, os.WriteFile(keyFile, secondKey, 0o600))
	if got := served(); got != "second" {
		t.Errorf("after the change: %s", got)
	}
	for what, spoil := range map[string]func(){
		"garbage":          func() { must(t, os.WriteFile(certFile, []byte("garbage"), 0o600)) },
		"no file":          func() { must(t, os.Remove(certFile)) },
		"one that is over": func() { pair(t, dir, "over", first.NotBefore) },
		"a large one":      func() { must(t, os.WriteFile(certFile, make([]byte, 1<<20), 0o600)) },
		"an open key":      func() { pair(t, dir, "third", now.Add(time.Hour)); must(t, os.Chmod(keyFile, 0o604)) },
	} {
		spoil()
		if got := served(); got != "second" {
			t.Errorf("%s: serves %s", what, got)
		}
		must(t, os.Chmod(keyFile, 0o600))
	}
}

func TestACertificateThatCannotBeUsedIsRefusedAtStart(t *testing.T) {
	now := time.Now
	for name, c := range map[string]struct {
		spoil func(cert, key string)
		check string
	}{
		"open key": {func(cert, key string) { must(t, os.Chmod(key, 0o644)) }, "web_key"},
		"no key":   {func(cert, key string) { must(t, os.Remove(key)) }, "web_certificate"},
		"not a pair": {func(cert, key string) {
			must(t, os.Rename(cert, key))
			must(t, os.WriteFile(cert, []byte("x"), 0o600))
			must(t, os.Chmod(key, 0o600))
		}, "web_certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			certFile, keyFile, _ := pair(t, t.TempDir(), "x", now().Add(time.Hour))
			if _, err := web.OpenCertificate(certFile, keyFile, now, quiet()); err != nil {
				t.Fatalf("before: %v", err)
			}
			c.spoil(certFile, keyFile)
			if _, err := web.OpenCertificate(certFile, keyFile, now, quiet()); attest.CheckOf(err) != c.check {
				t.Errorf("%v, want check %s", err, c.check)
			}
		})
	}
}

// Attestation does not wait for whoever renews a certificate for the web.
func TestACertificateThatHasEndedIsServedUntilThereIsAnother(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	certFile, keyFile, _ := pair(t, dir, "over", now.Add(-time.Minute))
	c, err := web.OpenCertificate(certFile, keyFile, func() time.Time { return now }, quiet())
	must(t, err)
	served := func() string {
		t.Helper()
		now = now.Add(10 * time.Second)
		cert, err := c.Get(nil)
		must(t, err)
		return cert.Leaf.Subject.CommonName
	}
	if err := c.Ended(); served() != "over" || attest.CheckOf(err) != "web_certificate" {
		t.Errorf("ended: %v", err)
	}
	pair(t, dir, "renewed", now.Add(time.Hour))
	if got, err := served(), c.Ended(); got != "renewed" || err != nil {
		t.Errorf("serves %s: %v", got, err)
	}
}

func TestPlainHTTPIsServedOnLoopbackAndPrivateAddressesAlone(t *testing.T) {
	addr := serve(t, web.Server{Handler: handler(), Log: quiet()})
	r, err := http.Get("http://" + addr.String() + "/keys")
	must(t, err)
	_ = r.Body.Close()
	if r.StatusCode != 200 {
		t.Errorf("plain HTTP: %d", r.StatusCode)
	}
	for ip, ok := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.1.2.3": true, "192.168.0.1": true, "fd00::1": true, "::ffff:10.0.0.1": true,
		"0.0.0.0": false, "::": false, "8.8.8.8": false, "169.254.1.1": false, "2001:db8::1": false, "172.32.0.1": false,
	} {
		if err := web.CheckPlain(&net.TCPAddr{IP: net.ParseIP(ip), Port: 80}); (err == nil) != ok {
			t.Errorf("%s: %v", ip, err)
		}
	}
	if web.CheckPlain(&net.UnixAddr{Name: "127.0.0.1:80", Net: "unix"}) == nil {
		t.Error("a unix socket passed")
	}
}

func TestASlowOrTalkativeClientIsCutOff(t *testing.T) {
	addr := serve(t, web.Server{Handler: handler(), Log: quiet()})
	c, err := net.Dial("tcp", addr.String())
	must(t, err)
	defer func() { _ = c.Close() }()
	_, err = fmt.Fprintf(c, "GET /keys HTTP/1.1\r\nHost: x\r\n")
	must(t, err)
	for i := range 4000 {
		if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("a", 100)); err != nil {
			break
		}
	}
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	if r, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
		_ = r.Body.Close()
		if r.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a header without end: %d", r.StatusCode)
		}
	}
	if testing.Short() {
		return
	}
	slow, err := net.Dial("tcp", addr.String())
	must(t, err)
	defer func() { _ = slow.Close() }()
	_, err = fmt.Fprint(slow, "GET /ke")
	must(t, err)
	began := time.Now()
	must(t, slow.SetReadDeadline(began.Add(20*time.Second)))
	if _, err := io.ReadAll(slow); err != nil {
		t.Errorf("the server still waits after %s: %v", time.Since(began), err)
	}
}
