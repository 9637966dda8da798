package svidtest_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// handler is a user's own code under test: it answers attested peers only.
func handler(src svid.Source) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		peer, err := svid.FromConnectionState(*req.TLS, src, time.Now(), svid.PCR(0, svidtest.Digest("release 41")))
		if err != nil {
			http.Error(w, attest.CheckOf(err), http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, peer.ID.Path())
	})
}

func TestAUsersHandlerAdmitsTheReleaseAndNothingElse(t *testing.T) {
	a := svidtest.New(t, "example.test")
	orders := a.Mint(t, "/orders")
	server := httptest.NewUnstartedServer(handler(a.Source()))
	server.TLS = svid.ServerTLS(orders, a.Source())
	// httptest adds a certificate of its own unless there is one.
	server.TLS.Certificates = []tls.Certificate{{Certificate: [][]byte{orders.Certificates[0].Raw}, PrivateKey: orders.PrivateKey}}
	server.StartTLS()
	defer server.Close()

	get := func(options ...svidtest.Option) (int, string) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: svid.ClientTLS(a.Mint(t, "/inventory", options...), a.Source(), svid.ID(orders.ID)),
		}}
		defer client.CloseIdleConnections()
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := get(svidtest.PCR(0, svidtest.Digest("release 41"))); code != http.StatusOK || body != "/inventory" {
		t.Errorf("%d %q", code, body)
	}
	if code, body := get(svidtest.PCR(0, svidtest.Digest("release 40"))); code != http.StatusForbidden || body != "pcr0\n" {
		t.Errorf("%d %q", code, body)
	}
}

func TestTheDocumentReadsBackUnderTheRoot(t *testing.T) {
	a := svidtest.New(t, "example.test")
	k, err := svid.ParseVerifierKeys(a.Document(t), a.VerifierRoot(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svid.Verify(a.Mint(t, "/orders").Certificates, svid.NewSource(a.Bundle(), k), time.Now()); err != nil {
		t.Error(err)
	}
	old := a.VerifierKeys()
	old.NextUpdate = time.Now().Add(-time.Minute)
	if _, err := svid.ParseVerifierKeys(a.Document(t, old), a.VerifierRoot(), time.Now()); attest.CheckOf(err) != "verifier_keys_expired" {
		t.Error(err)
	}
}

// A program that is no test, and hands over a testing.TB of its own making.
func TestOutsideOfATestNothingIsMinted(t *testing.T) {
	dir := t.TempDir()
	program := `package main

import (
	"fmt"
	"testing"

	"github.com/assay-project/assay/svid/svidtest"
)

type tb struct{ testing.TB }

func (tb) Helper() {}

func main() {
	defer func() { fmt.Println(recover()) }()
	fmt.Println(svidtest.New(tb{}, "example.test").Mint(tb{}, "/orders").ID)
}
`
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "run", file).CombinedOutput()
	if err != nil || string(out) != "svidtest: an authority in memory is for tests alone\n" {
		t.Errorf("%s %v", out, err)
	}
}
