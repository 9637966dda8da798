package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/prebuilt"
)

// binaries are assayd and what its tests need, built from the module that this
// one belongs to.
var binaries = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "assay-signer-test"); err != nil {
		return "", err
	}
	built = dir
	return dir, prebuilt.Into(dir, "../..")
})

// built is their directory, once there is one; TestMain removes it.
var built string

// issuer is an assayd whose authorities' keys are in the office's signer, and a
// simulated enclave that it serves.
type issuer struct {
	*office
	bin, listen string
	agents      int
}

// newIssuer makes a trust domain, its policy and its enclave.
func newIssuer(o *office) *issuer {
	o.t.Helper()
	bin, err := binaries()
	must(o.t, err)
	i := &issuer{office: o, bin: bin, listen: freeAddress(o.t)}
	o.write("root.pem", i.tool("teesim", "nitro", "root", "--authority", o.path("sim")))
	i.tool("assayd", "init", "--trust-domain", "simulated.example.org", "--data-dir", o.path("d"), "--simulated-root", o.path("root.pem"))
	i.edit("d/assayd.yaml", `":8443"`, `"`+i.listen+`"`, "127.0.0.1:9464", "", "data_dir:", "keys:\n  location: signer://"+o.socket()+"\n\ndata_dir:")
	measured := i.tool("teesim", "nitro", "measurements", "--image", "orders", "--role", role)
	lines := regexp.MustCompile(`(?m)^ *(pcr[03]: \{eq: "[0-9a-f]{96}"\})`).FindAllStringSubmatch(measured, -1)
	if len(lines) != 2 {
		o.t.Fatalf("teesim measured\n%s", measured)
	}
	o.write("d/policy.yaml", fmt.Sprintf(`version: 1
bundle: first
revision: 2
trust_domain: simulated.example.org
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      %s
      %s
    issue:
      - spiffe_id: "spiffe://{td}/orders"
        x509_ttl: 1h
`, lines[0][1], lines[1][1]))
	i.start("nsm.sock", nil, "teesim", "nitro", "run", "--authority", o.path("sim"), "--socket", o.path("nsm.sock"), "--image", "orders", "--role", role)
	return i
}

const role = "arn:aws:iam::123456789012:role/orders"

// edit replaces words in a file, each of which must be there: old, new, old, new …
func (i *issuer) edit(name string, words ...string) {
	i.t.Helper()
	b, err := os.ReadFile(i.path(name))
	must(i.t, err)
	for n := 0; n < len(words); n += 2 {
		if !bytes.Contains(b, []byte(words[n])) {
			i.t.Fatalf("%s does not hold %q", name, words[n])
		}
		b = bytes.ReplaceAll(b, []byte(words[n]), []byte(words[n+1]))
	}
	must(i.t, os.WriteFile(i.path(name), b, 0o600))
}

// tool runs one of the binaries to its end.
func (i *issuer) tool(name string, args ...string) string {
	i.t.Helper()
	code, out, errs := i.try(name, args...)
	if code != 0 {
		i.t.Fatalf("%s %v: exit code %d\n%s", name, args, code, errs)
	}
	return out
}

// try runs one of the binaries, which may fail.
func (i *issuer) try(name string, args ...string) (code int, stdout, stderr string) {
	i.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(i.bin, name), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	must(i.t, cmd.Start())
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		i.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// start starts one of the binaries and waits until somebody listens on its socket,
// or, with a say, until it has logged that.
func (i *issuer) start(socket string, say []byte, name string, args ...string) *signer {
	i.t.Helper()
	p := &signer{cmd: exec.Command(filepath.Join(i.bin, name), args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	must(i.t, p.cmd.Start())
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	i.t.Cleanup(func() { p.stop(syscall.SIGKILL) })
	i.eventually(name+" starts", func() bool {
		select {
		case <-p.done:
			i.t.Fatalf("%s ended:\n%s", name, p.said())
		default:
		}
		if say != nil {
			return strings.Contains(p.said(), string(say))
		}
		c, err := net.Dial("unix", i.path(socket))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return p
}

func (i *issuer) eventually(what string, ok func() bool) {
	i.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	i.t.Fatalf("not within 30 seconds: %s", what)
}

// serve starts assayd.
func (i *issuer) serve() *signer {
	i.t.Helper()
	return i.start("", []byte("msg=serving"), "assayd", "run", "--data-dir", i.path("d"))
}

// enclave boots an agent in the simulated enclave. It attests at once.
func (i *issuer) enclave() (dir string, agent *signer) {
	i.t.Helper()
	i.agents++
	dir = fmt.Sprintf("g%d", i.agents)
	i.write("bootstrap.pem", i.tool("assayd", "bootstrap", "export", "--data-dir", i.path("d")))
	i.tool("assay-agent", "init", "--server", i.listen, "--bootstrap-root", i.path("bootstrap.pem"), "--nsm-socket", i.path("nsm.sock"), "--data-dir", i.path(dir))
	return dir, i.start(dir+"/agent.sock", nil, "assay-agent", "run", "--data-dir", i.path(dir))
}

// fetch writes the agent's SVID, and returns it.
func (i *issuer) fetch(dir string) *x509.Certificate {
	i.t.Helper()
	i.tool("assay-agent", "fetch", "--data-dir", i.path(dir), "--timeout", "30s", "--write", i.path(dir+"/out"), "--no-keys")
	b, err := os.ReadFile(i.path(dir + "/out/svid.0.pem"))
	must(i.t, err)
	block, _ := pem.Decode(b)
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(i.t, err)
	return leaf
}

// svid boots an enclave, and returns what it earned.
func (i *issuer) svid() *x509.Certificate {
	i.t.Helper()
	dir, agent := i.enclave()
	leaf := i.fetch(dir)
	agent.stop(syscall.SIGTERM)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://simulated.example.org/orders" {
		i.t.Errorf("it is %v", leaf.URIs)
	}
	return leaf
}

// verify has `assay svid verify` check an SVID with what the server publishes.
func (i *issuer) verify(dir string) {
	i.t.Helper()
	i.tool("assay", "bundle", "export", "--admin", i.path("d/admin.sock"), "--out", i.path("bundle.json"), "--verifier-keys", i.path("keys.cbor"))
	if out := i.tool("assay", "svid", "verify", "--bundle", i.path("bundle.json"), "--verifier-root", i.path("d/verifier-root.pem"), "--verifier-keys", i.path("keys.cbor"),
		"--allow-simulated", i.path(dir+"/out/svid.0.pem")); !strings.Contains(out, "VERIFIED: spiffe://simulated.example.org/orders") {
		i.t.Errorf("assay svid verify said:\n%s", out)
	}
}

// held lists the signer's keys by name.
func (o *office) held() map[string]crypto.PublicKey {
	o.t.Helper()
	var list []struct {
		Name   string `json:"name"`
		Public string `json:"public_key"`
	}
	must(o.t, json.Unmarshal([]byte(o.must("keys", "list", "--output", "json")), &list))
	out := map[string]crypto.PublicKey{}
	for _, k := range list {
		block, _ := pem.Decode([]byte(k.Public))
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		must(o.t, err)
		out[k.Name] = pub
	}
	return out
}

// signedBy names the held key that signed a certificate.
func signedBy(leaf *x509.Certificate, held map[string]crypto.PublicKey) string {
	for name, pub := range held {
		if pub, ok := pub.(*ecdsa.PublicKey); ok {
			issuer := &x509.Certificate{PublicKey: pub, PublicKeyAlgorithm: x509.ECDSA}
			if issuer.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
				return name
			}
		}
	}
	return ""
}

// authorities makes a key for each use of an issuer, in a store, and enters them.
func (o *office) authorities(store, stores string, more ...string) {
	o.t.Helper()
	clients := fmt.Sprintf("  - uid: %d\n    purposes: [x509-authority, jwt, verifier, deny-list]\n", os.Geteuid())
	o.configureFor(clients, stores)
	var entries []string
	for _, purpose := range append([]string{"x509-authority", "jwt", "verifier", "deny-list"}, more...) {
		entries = append(entries, o.must("keys", "create", "--store", store, "--purpose", purpose))
	}
	o.configureFor(clients, stores, entries...)
}

// noKeyFiles fails when the data directory has the private key of an authority.
func (i *issuer) noKeyFiles() {
	i.t.Helper()
	files, err := filepath.Glob(i.path("d/keys/*.key"))
	must(i.t, err)
	for _, f := range files {
		switch filepath.Base(f) {
		case "bootstrap-root.key", "verifier-root.key", "checkpoint.key":
		default:
			i.t.Errorf("the data directory has a key of an authority: %s", f)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
