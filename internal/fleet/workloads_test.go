package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/internal/fleet"
)

const program = "github.com/assay-project/assay/internal/fleet/plainspiffe"

// built is where the tests of this package have their binaries.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	if path := os.Getenv(callerEnv); path != "" {
		beCaller(path)
	}
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// binaries are those of the product, and the program that knows go-spiffe alone.
func binaries(t *testing.T) (b fleet.Binaries, plain string) {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "fleet"); built.err != nil {
			return
		}
		if _, built.err = fleet.BuildInto(filepath.Join("..", ".."), built.dir); built.err != nil {
			return
		}
		c := exec.Command("go", "build", "-o", built.dir, program)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return fleet.Binaries(built.dir), filepath.Join(built.dir, "plainspiffe")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a trust domain with an enclave in it.
type site struct {
	*fleet.Office
	t     *testing.T
	b     fleet.Binaries
	agent *fleet.Agent
	web   string // address of its bundle endpoint
}

// identities are those of the image; each revision changes them.
func identities(revision int) string {
	return fmt.Sprintf(`
      - spiffe_id: "spiffe://{td}/orders"
        attributes: {revision: "r%d"}
        jwt: {ttl: 1m, audiences: [reports]}
`, revision)
}

func newSite(t *testing.T, b fleet.Binaries, domain string) *site {
	t.Helper()
	s := &site{Office: fleet.NewOfficeOf(t, domain, b, b), t: t, b: b, web: fleet.FreePort(t)}
	s.certificate()
	s.Append(fmt.Sprintf("\nweb: {listen: %s, certificate: %s, key: %s}\nfederation: {private_endpoints: [127.0.0.0/8], poll: 1s}\n", s.web, s.Path("web.pem"), s.Path("web-key.pem")))
	s.PolicyIssuing(1, identities(1))
	s.Start(b)
	s.agent = s.StartAgent(b, "one")
	return s
}

// certificate makes one of the web's PKI, which is a CA of its own.
func (s *site) certificate() {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(s.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: s.Domain}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(s.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(s.t, err)
	must(s.t, os.WriteFile(s.Path("web.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(s.t, os.WriteFile(s.Path("web-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

// assay runs the operator's command at this site's server.
func (s *site) assay(args ...string) string {
	s.t.Helper()
	return s.Must(s.b, "assay", append(args, "--admin", filepath.Join(s.Data, "admin.sock"))...)
}

// name is the identity of the site's workloads.
func (s *site) name() string { return "spiffe://" + s.Domain + "/orders" }

// endpoint is the one line that a SPIFFE program needs in its environment.
func (s *site) endpoint() []string { return []string{"SPIFFE_ENDPOINT_SOCKET=" + s.agent.Socket()} }

// trusts has the site's server fetch the other's bundle, and waits until workloads
// have it.
func (s *site) trusts(other *site) {
	s.t.Helper()
	s.assay("federation", "add", other.Domain, "--url", "https://"+other.web+"/bundle", "--web-roots", other.Path("web.pem"))
	td := spiffeid.RequireTrustDomainFromString(other.Domain)
	s.agent.Until("the bundle of "+other.Domain, func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		defer cancel()
		set, err := workloadapi.FetchX509Bundles(ctx, workloadapi.WithAddr(s.agent.Socket()))
		return err == nil && set.Has(td)
	})
}

// once runs the program to its end.
func (s *site) once(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env = append(os.Environ(), s.endpoint()...)
	out, err := c.CombinedOutput()
	return string(out), err
}

// report is what a caller says at its end.
type report struct {
	Calls      int
	Failed     []string
	Own, Peers int
}

func reportOf(t *testing.T, p *fleet.Process) (r report) {
	t.Helper()
	p.Stop()
	_, text, ok := strings.Cut(p.Log(), "report ")
	if !ok {
		t.Fatalf("no report:\n%s", p.Log())
	}
	must(t, json.Unmarshal([]byte(text), &r))
	return r
}

func TestThePlainProgramKnowsNothingOfOurs(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", program).Output()
	must(t, err)
	ours, spiffe := 0, false
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		spiffe = spiffe || strings.HasPrefix(path, "github.com/spiffe/go-spiffe/")
		if strings.HasPrefix(path, "github.com/assay-project/") {
			ours++
			if path != program {
				t.Errorf("it imports %s", path)
			}
		}
	}
	if ours != 1 || !spiffe {
		t.Errorf("%d packages of ours, go-spiffe: %t", ours, spiffe)
	}
}

// A program that was written for any SPIFFE implementation runs unchanged beside the
// real processes: one of its own trust domain and one of another call it without a
// pause, by mutual TLS and with tokens, while all three enclaves renew three times,
// and no call fails.
func TestPlainSPIFFEProgramsCallEachOtherThroughRenewalsAndAcrossTrustDomains(t *testing.T) {
	b, plain := binaries(t)
	a, z := newSite(t, b, "simulated.a.example.org"), newSite(t, b, "simulated.b.example.org")
	a.agent.Await()
	z.agent.Await()
	for _, s := range []*site{a, z} {
		if out, err := s.once(plain, "fetch"); err != nil || out != s.name()+"\n" {
			t.Fatalf("fetch: %v\n%s", err, out)
		}
	}
	server := fleet.Run(t, a.endpoint(), plain, "serve", a.name(), z.name())
	var address string
	server.Until("its address", func() bool {
		_, rest, _ := strings.Cut(server.Log(), "serving ")
		var whole bool
		address, _, whole = strings.Cut(rest, "\n")
		return whole
	})

	// Strangers, in one direction and then in neither.
	if out, err := z.once(plain, "once", address, a.name()); err == nil || !strings.Contains(out, "no X.509 bundle") {
		t.Fatalf("before there is a federation: %v\n%s", err, out)
	}
	z.trusts(a)
	if out, err := z.once(plain, "once", address, a.name()); err == nil {
		t.Fatalf("a federation of one direction lets callers in:\n%s", out)
	}
	a.trusts(z)
	if out, err := z.once(plain, "once", address, a.name()); err != nil {
		t.Fatalf("a federated peer: %v\n%s", err, out)
	}
	if out, err := z.once(plain, "once", address, z.name()); err == nil || !strings.Contains(out, "unexpected ID") {
		t.Errorf("a server of another name than the caller wants: %v\n%s", err, out)
	}

	callers := map[string]*fleet.Process{
		"of the same trust domain": fleet.Run(t, a.endpoint(), plain, "call", address, a.name()),
		"of another trust domain":  fleet.Run(t, z.endpoint(), plain, "call", address, a.name()),
	}
	seen := func(n int) {
		t.Helper()
		for who, p := range callers {
			p.Until(fmt.Sprintf("%d certificates at each end of a caller %s", n, who), func() bool {
				return strings.Count(p.Log(), "saw own ") >= n && strings.Count(p.Log(), "saw peer ") >= n
			})
		}
	}
	seen(1)
	for revision := 2; revision <= 4; revision++ {
		a.PolicyIssuing(revision, identities(revision))
		z.PolicyIssuing(revision, identities(revision))
		seen(revision)
	}
	for who, p := range callers {
		r := reportOf(t, p)
		t.Logf("the caller %s: %d calls, %d certificates of its own, %d of the server", who, r.Calls, r.Own, r.Peers)
		if len(r.Failed) > 0 || r.Calls < 20 || r.Own < 4 || r.Peers < 4 {
			t.Errorf("the caller %s: %+v", who, r)
		}
	}
	server.Stop()
}
