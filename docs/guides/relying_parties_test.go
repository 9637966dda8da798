package guides

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/assay-project/assay/internal/prebuilt"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// The commands of the guide are run as they stand, in the folder of a module of
// their own, and its code is vetted and tested there, as the guide's last commands
// do. Three things are other than the guide says: the server of the trust domain
// and that of orders are this test's, and `go get` takes this source.
func TestTheGuideForRelyingPartiesWorks(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test runs the guide's commands: %v", err)
		}
	}
	dir := shortTempDir(t)
	bin, src := filepath.Join(dir, "bin"), filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := prebuilt.Into(bin, "../..", "assay"); err != nil {
		t.Fatal(err)
	}
	authority := svidtest.New(t, "attested.example.org")
	root, err := svid.MarshalVerifierRoot(authority.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(src, "verifier-root.pem"), root)
	published, orders := publish(t, authority), showOrders(t, authority)

	page, err := os.ReadFile("relying-parties.md")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, m := range regexp.MustCompile("(?s)```go\n// (\\w+\\.go)\n(.*?)```").FindAllSubmatch(page, -1) {
		write(t, filepath.Join(src, string(m[1])), m[2])
		files++
	}
	if all := bytes.Count(page, []byte("```go\n")); files != all || files < 6 {
		t.Fatalf("%d of %d blocks of Go name their file", files, all)
	}
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	changes := strings.NewReplacer(
		"https://assay.example.org/", published+"/",
		"orders.example.org:8443", orders,
		// What `go get` would write, from this source and without the network.
		"go get github.com/assay-project/assay\n", `sed -e 's#^module .*#module example.org/inventory#' `+repository+`/go.mod > go.mod
cp `+repository+`/go.sum go.sum
go mod edit -require=github.com/assay-project/assay@v0.0.0 -replace=github.com/assay-project/assay=`+repository+"\n",
	)
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) < 5 {
		t.Fatalf("only %d blocks of commands found", len(blocks))
	}
	for _, b := range blocks {
		script.WriteString(changes.Replace(string(b[1])))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GOFLAGS=-mod=mod", "GOPROXY=off", "GONOSUMDB=*", "GOWORK=off")
	cmd.Stdin = strings.NewReader(script.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"NOT VERIFIED: ", "VERIFIED: spiffe://attested.example.org/orders was attested at ", "ok  \texample.org/inventory"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the guide's commands never printed %q:\n%s", want, out)
		}
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// publish serves what the world may read of a trust domain.
func publish(t *testing.T, a *svidtest.Authority) string {
	t.Helper()
	bundle, err := spiffebundle.FromX509Authorities(a.TrustDomain, a.Bundle().X509Authorities()).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, b := range map[string][]byte{"GET /bundle": bundle, "GET /verifier-keys": a.Document(t), "GET /deny-list": a.DenyList(t, svid.Denials{})} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) })
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// showOrders is a TLS server with the SVID of orders.
func showOrders(t *testing.T, a *svidtest.Authority) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", svid.ServerTLS(a.Mint(t, "/orders"), a.Source()))
	if err != nil {
		t.Fatal(err)
	}
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
