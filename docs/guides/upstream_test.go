package guides

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/prebuilt"
)

// upstream is a server below a CA, and a simulated enclave that it serves.
type upstream struct {
	t                *testing.T
	dir, bin, listen string
	env              []string
	programs         []*exec.Cmd
}

const (
	upstreamDomain = "simulated.attested.example.org"
	upstreamRole   = "arn:aws:iam::123456789012:role/payments"
)

func TestTheUpstreamGuide(t *testing.T) {
	bin := shortTempDir(t)
	if err := prebuilt.Into(bin, "../.."); err != nil {
		t.Fatal(err)
	}
	t.Run("files make intermediates of a dedicated root", func(t *testing.T) { filesMakeIntermediates(newUpstream(t, bin)) })
	t.Run("a request is carried there and back", func(t *testing.T) { aRequestIsCarried(newUpstream(t, bin)) })
}

// newUpstream makes a trust domain in a folder of its own; what follows is the
// guide's.
func newUpstream(t *testing.T, bin string) *upstream {
	t.Helper()
	u := &upstream{t: t, dir: shortTempDir(t), bin: bin, listen: "127.0.0.1:" + freePort(t)}
	u.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	t.Cleanup(u.stop)
	u.sh(`teesim nitro root --authority sim > sim.pem
assayd init --trust-domain ` + upstreamDomain + ` --data-dir d --simulated-root sim.pem
sed -i 's/":8443"/"` + u.listen + `"/; s/127.0.0.1:9464//' d/assayd.yaml`)
	measured := regexp.MustCompile(`pcr[03]: \{eq: "[0-9a-f]{96}"\}`).FindAllString(u.sh("teesim nitro measurements --image payments --role "+upstreamRole), -1)
	u.write("d/policy.yaml", fmt.Sprintf("version: 1\nbundle: first\nrevision: 2\ntrust_domain: %s\nworkloads:\n  - name: payments\n    tee: aws-nitro\n    mode: enforce\n    match:\n      %s\n    issue:\n      - {spiffe_id: \"spiffe://{td}/payments\", x509_ttl: 1h}\n",
		upstreamDomain, strings.Join(measured, "\n      ")))
	return u
}

func (u *upstream) write(name, body string) {
	u.t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, name), []byte(body), 0o600); err != nil {
		u.t.Fatal(err)
	}
}

// sh runs commands in the folder.
func (u *upstream) sh(script string) string {
	u.t.Helper()
	out, err := u.try(script)
	if err != nil {
		u.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

func (u *upstream) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = u.dir, u.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// start starts a program, and waits for its socket.
func (u *upstream) start(socket, name string, args ...string) {
	u.t.Helper()
	cmd := exec.Command(filepath.Join(u.bin, name), args...)
	var log bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = u.dir, u.env, &log, &log
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.programs = append(u.programs, cmd)
	for range 500 {
		if _, err := os.Stat(filepath.Join(u.dir, socket)); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	u.stop()
	u.t.Fatalf("%s did not start:\n%s", name, log.String())
}

// stop stops what was started, the last first.
func (u *upstream) stop() {
	for i := len(u.programs) - 1; i >= 0; i-- {
		_ = u.programs[i].Process.Signal(syscall.SIGTERM)
		_ = u.programs[i].Wait()
	}
	u.programs = nil
}

func (u *upstream) serve() {
	u.t.Helper()
	u.start("d/admin.sock", "assayd", "run", "--data-dir", "d")
}

// certificates reads PEM.
func (u *upstream) certificates(text []byte) (out []*x509.Certificate) {
	u.t.Helper()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			u.t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// earned boots the enclave, and returns the SVID with what came with it, and the
// anchors that are published. OpenSSL verifies the one with the other.
func (u *upstream) earned() (svid, anchors []*x509.Certificate) {
	u.t.Helper()
	u.start("nsm.sock", "teesim", "nitro", "run", "--authority", "sim", "--socket", "nsm.sock", "--image", "payments", "--role", upstreamRole)
	u.sh("assayd bootstrap export --data-dir d > bootstrap.pem; assay-agent init --server " + u.listen + " --bootstrap-root bootstrap.pem --nsm-socket nsm.sock --data-dir a")
	u.start("a/agent.sock", "assay-agent", "run", "--data-dir", "a")
	u.sh("assay-agent fetch --data-dir a --timeout 30s --write out --no-keys; assay bundle export --admin d/admin.sock --format pem --out anchors.pem")
	u.sh("openssl verify -purpose sslclient -CAfile anchors.pem -partial_chain -untrusted out/svid.0.pem out/svid.0.pem")
	u.sh(`assay bundle export --admin d/admin.sock --out bundle.json --verifier-keys keys.cbor
assay svid verify --bundle bundle.json --verifier-root d/verifier-root.pem --verifier-keys keys.cbor --allow-simulated out/svid.0.pem`)
	read := func(name string) []*x509.Certificate {
		b, err := os.ReadFile(filepath.Join(u.dir, name))
		if err != nil {
			u.t.Fatal(err)
		}
		return u.certificates(b)
	}
	return read("out/svid.0.pem"), read("anchors.pem")
}

// blocksOf returns what a guide shows in one language, for the simulated trust
// domain.
func blocksOf(t *testing.T, name, language string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(b, -1) {
		out = append(out, strings.ReplaceAll(string(m[1]), "attested.example.org", upstreamDomain))
	}
	return out
}

func filesMakeIntermediates(u *upstream) {
	t := u.t
	commands, configuration := blocksOf(t, "upstream-ca.md", "sh"), blocksOf(t, "upstream-ca.md", "yaml")
	u.sh("cd d\n" + commands[0])
	u.sh("cat >> d/assayd.yaml <<'EOF'\n" + configuration[0] + "EOF\nassayd check --data-dir d")
	u.serve()
	svid, anchors := u.earned()
	if len(svid) != 2 || !svid[1].IsCA || len(anchors) != 1 || anchors[0].Subject.CommonName != "Root of "+upstreamDomain {
		t.Fatalf("%d certificates come with the SVID, anchors %v", len(svid)-1, anchors)
	}
	if err := svid[1].CheckSignatureFrom(anchors[0]); err != nil {
		t.Errorf("our authority is not below the root: %v", err)
	}
}

func aRequestIsCarried(u *upstream) {
	t := u.t
	commands, configuration, extensions := blocksOf(t, "upstream-ca.md", "sh"), blocksOf(t, "upstream-ca.md", "yaml"), blocksOf(t, "upstream-ca.md", "ini")
	u.sh(commands[0] + "mv upstream/root.pem upstream/ca.pem; mv upstream/root.key upstream/ca.key; mkdir d/upstream; cp upstream/ca.pem d/upstream/")
	u.write("intermediate.cnf", extensions[0])
	u.sh("cat >> d/assayd.yaml <<'EOF'\n" + configuration[1] + "EOF\nassayd check --data-dir d")
	u.serve()

	var waiting struct {
		Authorities []struct{ Use, ID, State string } `json:"authorities"`
	}
	list := u.sh("assay authority list x509 --admin d/admin.sock --output json")
	if err := json.Unmarshal([]byte(list), &waiting); err != nil || len(waiting.Authorities) != 1 || waiting.Authorities[0].State != "requested" {
		t.Fatalf("%v in:\n%s", err, list)
	}
	here := strings.NewReplacer("assay authority csr ", "assay authority csr --admin d/admin.sock ", "assay authority import ", "assay authority import --admin d/admin.sock ")
	script := func(n int) string { return "ID=" + waiting.Authorities[0].ID + "\n" + here.Replace(commands[n]) }
	u.sh(script(1))
	u.sh(script(2))

	// What another CA made of it is refused, and what is wrong has its name.
	u.sh(`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout other.key -subj "/CN=Other" -out other.pem
openssl x509 -req -in request.csr -CA other.pem -CAkey other.key -CAcreateserial -days 365 -extfile intermediate.cnf -extensions intermediate -out wrong.pem`)
	if out, err := u.try("assay authority import --admin d/admin.sock " + waiting.Authorities[0].ID + " wrong.pem"); err == nil || !strings.Contains(out, "upstream_chain") {
		t.Errorf("another CA's: %v\n%s", err, out)
	}

	u.sh(script(3))
	svid, anchors := u.earned()
	if len(svid) != 1 || len(anchors) != 1 || anchors[0].Issuer.CommonName != "Root of "+upstreamDomain || anchors[0].Subject.String() == anchors[0].Issuer.String() {
		t.Errorf("%d certificates come with the SVID, anchors %v: want our intermediate as the anchor", len(svid)-1, anchors)
	}
}
