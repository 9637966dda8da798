// Package fleet runs servers and agents as the processes that people run, on
// simulated Nitro enclaves, so that tests can mix versions, kill whom they like
// and put data elsewhere. It is for tests alone.
package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/internal/prebuilt"
)

// TrustDomain is the one that an office serves, unless it was made for another.
const TrustDomain = "simulated.example.org"

const role = "arn:aws:iam::123456789012:role/orders"

// Binaries is a directory with assayd, assay-agent, assay and teesim.
type Binaries string

func (b Binaries) path(name string) string { return filepath.Join(string(b), name) }

// Build makes the binaries of this module, whose root is dir, in a directory that
// lasts as long as the test.
func Build(t testing.TB, dir string) Binaries {
	t.Helper()
	out, err := BuildInto(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// BuildInto is Build for a directory that tests share.
func BuildInto(dir, into string) (Binaries, error) {
	return Binaries(into), prebuilt.Into(into, dir)
}

// Office is a server with its data directory, and the hardware that its policy
// knows. It listens on one address for life, wherever its data is.
type Office struct {
	t       testing.TB
	root    string // short: sockets are below it
	tools   Binaries
	Domain  string
	Data    string
	Address string
	Metrics string
	server  *Process
	pcr     func(n int) string // of the image "orders"
}

// NewOffice makes a trust domain with the server's binaries; nothing runs yet.
// The simulated hardware is of tools.
func NewOffice(t testing.TB, server, tools Binaries) *Office {
	t.Helper()
	return NewOfficeOf(t, TrustDomain, server, tools)
}

// NewOfficeOf is NewOffice for a trust domain of one's own; its name begins with
// "simulated.".
func NewOfficeOf(t testing.TB, trustDomain string, server, tools Binaries) *Office {
	t.Helper()
	root, err := os.MkdirTemp("", "a") // sockets need short paths
	if err != nil {
		t.Fatal(err)
	}
	o := &Office{t: t, root: root, tools: tools, Domain: trustDomain, Data: filepath.Join(root, "server"), Address: FreePort(t), Metrics: FreePort(t)}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	hardware := o.Must(tools, "teesim", "nitro", "root", "--authority", o.Path("hardware"))
	o.write(o.Path("root.pem"), hardware)
	o.Must(server, "assayd", "init", "--trust-domain", trustDomain, "--simulated-root", o.Path("root.pem"), "--data-dir", o.Data)
	o.Edit(`listen: ":8443"`, "listen: "+o.Address)
	o.Edit(`metrics_listen: "127.0.0.1:9464"`, "metrics_listen: "+o.Metrics)
	o.Edit("# reattest_spread: 1m ", "reattest_spread: 10ms #")
	o.write(o.Path("bootstrap-root.pem"), o.Must(server, "assayd", "bootstrap", "export", "--data-dir", o.Data))
	var m struct {
		PCRs map[string]string `json:"pcrs"`
	}
	text := o.Must(tools, "teesim", "nitro", "measurements", "--image", "orders", "--role", role, "--output", "json")
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.PCRs["pcr0"] == "" || m.PCRs["pcr3"] == "" {
		t.Fatalf("teesim nitro measurements: %v\n%s", err, text)
	}
	o.pcr = func(n int) string { return m.PCRs[fmt.Sprint("pcr", n)] }
	o.Policy(1)
	return o
}

// Path is a path below the office's own directory.
func (o *Office) Path(name string) string { return filepath.Join(o.root, name) }

func (o *Office) write(path, text string) {
	o.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// Edit replaces text in the configuration.
func (o *Office) Edit(from, to string) {
	o.t.Helper()
	path := filepath.Join(o.Data, "assayd.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		o.t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(from)) {
		o.t.Fatalf("the configuration has no %q:\n%s", from, text)
	}
	o.write(path, strings.Replace(string(text), from, to, 1))
}

// Policy puts a revision of the policy into force: the server takes it within a
// moment. It grants the image "orders" an SVID of one minute, and each revision
// another attribute, so that every agent attests anew.
func (o *Office) Policy(revision int) {
	o.t.Helper()
	o.PolicyIssuing(revision, fmt.Sprintf(`
      - spiffe_id: "spiffe://{td}/orders"
        x509_ttl: 1m
        attributes: {revision: "r%d"}
`, revision))
}

// PolicyIssuing is Policy with the identities, as YAML, that the image gets. Agents
// attest anew where a revision changes what they get.
func (o *Office) PolicyIssuing(revision int, identities string) {
	o.t.Helper()
	policy := fmt.Sprintf(`version: 1
bundle: shop
revision: %d
trust_domain: %s
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue:%s`, revision, o.Domain, o.pcr(0), o.pcr(3), identities)
	temp := filepath.Join(o.Data, "policy.yaml.new")
	o.write(temp, policy)
	if err := os.Rename(temp, filepath.Join(o.Data, "policy.yaml")); err != nil {
		o.t.Fatal(err)
	}
	if o.server != nil {
		o.server.Reload()
	}
}

// Start runs the server, and waits until it is ready.
func (o *Office) Start(b Binaries) *Process {
	o.t.Helper()
	o.server = start(o.t, "assayd", b.path("assayd"), "run", "--data-dir", o.Data)
	o.server.awaitLog("msg=serving")
	return o.server
}

// Must runs a command of the binaries and returns its output.
func (o *Office) Must(b Binaries, name string, args ...string) string {
	o.t.Helper()
	out, err := o.Run(b, name, args...)
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// Run runs a command, for a minute at most; the error has what it said.
func (o *Office) Run(b Binaries, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, b.path(name), args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Agent is an agent in a simulated enclave of its own.
type Agent struct {
	*Process
	t      testing.TB
	socket string
}

// StartAgent launches the image "orders" with an agent of the binaries.
func (o *Office) StartAgent(b Binaries, name string) *Agent {
	o.t.Helper()
	nsm, dir := o.Path(name+".nsm"), o.Path(name)
	device := start(o.t, "teesim", o.tools.path("teesim"), "nitro", "run", "--authority", o.Path("hardware"), "--image", "orders", "--role", role, "--socket", nsm)
	device.awaitFile(nsm)
	o.Must(b, "assay-agent", "init", "--server", o.Address, "--bootstrap-root", o.Path("bootstrap-root.pem"), "--nsm-socket", nsm, "--data-dir", dir)
	return o.RestartAgent(b, name)
}

// RestartAgent runs an agent that was launched before; its predecessor has ended.
func (o *Office) RestartAgent(b Binaries, name string) *Agent {
	o.t.Helper()
	p := start(o.t, "assay-agent", b.path("assay-agent"), "run", "--data-dir", o.Path(name))
	return &Agent{Process: p, t: o.t, socket: "unix://" + filepath.Join(o.Path(name), "agent.sock")}
}

// Socket is the address of the agent's Workload API.
func (a *Agent) Socket() string { return a.socket }

// Fetch asks the agent for its SVID, as a workload does.
func (a *Agent) Fetch() (*x509svid.SVID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr(a.socket))
}

// Serial is the serial number of an SVID as the ledger has it.
func Serial(s *x509svid.SVID) string { return fmt.Sprintf("%032x", s.Certificates[0].SerialNumber) }

// Await waits until the agent serves a live SVID with another serial than those
// given, and fails the test after a minute and a half.
func (a *Agent) Await(not ...string) *x509svid.SVID {
	a.t.Helper()
	var last error
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s, err := a.Fetch()
		if err != nil {
			last = err
			continue
		}
		if time.Now().Before(s.Certificates[0].NotAfter) && !contains(not, Serial(s)) {
			return s
		}
		last = errors.New("it still serves " + Serial(s))
	}
	a.t.Fatalf("the agent has no new SVID: %v\n%s", last, a.Log())
	return nil
}

func contains(all []string, s string) bool {
	for _, x := range all {
		if x == s {
			return true
		}
	}
	return false
}

// Process is one that runs until the test ends, or is stopped before.
type Process struct {
	t     testing.TB
	cmd   *exec.Cmd
	log   *buffer
	ended chan struct{}
	err   error
}

func start(t testing.TB, name, path string, args ...string) *Process {
	t.Helper()
	return startWith(t, nil, name, path, args...)
}

func startWith(t testing.TB, env []string, name, path string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(path, args...), log: &buffer{}, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			said := p.Log()
			if most := 6000; len(said) > most {
				said = "…" + said[len(said)-most:]
			}
			t.Logf("%s said:\n%s", name, said)
		}
	})
	return p
}

// Run runs a program beside the binaries until the test ends, with the variables
// added to its environment.
func Run(t testing.TB, env []string, path string, args ...string) *Process {
	t.Helper()
	return startWith(t, env, filepath.Base(path), path, args...)
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Until waits until something holds, and fails the test if the process ends before,
// or after half a minute.
func (p *Process) Until(what string, holds func() bool) {
	p.t.Helper()
	p.until(what, holds)
}

// Log is what the process has said.
func (p *Process) Log() string { return p.log.String() }

// Kill kills the process, as a power failure would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Stop asks the process to end, and fails the test if it does not do so well.
func (p *Process) Stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.ended:
		if p.err != nil {
			p.t.Errorf("it ended with %v:\n%s", p.err, p.Log())
		}
	case <-time.After(30 * time.Second):
		p.t.Errorf("it does not stop:\n%s", p.Log())
		p.Kill()
	}
}

func (p *Process) until(what string, holds func() bool) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
		select {
		case <-p.ended:
			p.t.Fatalf("it ended before %s: %v\n%s", what, p.err, p.Log())
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("no %s:\n%s", what, p.Log())
		}
	}
}

func (p *Process) awaitLog(line string) {
	p.t.Helper()
	p.until(line, func() bool { return strings.Contains(p.Log(), line) })
}

func (p *Process) awaitFile(path string) {
	p.t.Helper()
	p.until(path, func() bool { _, err := os.Lstat(path); return err == nil })
}

// buffer holds what a process says; it may be read meanwhile.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Append adds text to the end of the configuration.
func (o *Office) Append(text string) {
	o.t.Helper()
	path := filepath.Join(o.Data, "assayd.yaml")
	before, err := os.ReadFile(path)
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(path, string(before)+text)
}

// FreePort is an address on the loopback that nobody listens on.
func FreePort(t testing.TB) string {
	t.Helper()
	addr, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// given are the addresses that this process gave out.
var given sync.Map

// FreeAddress is FreePort for who has no test at hand. The port is none that the kernel
// would choose: it gives those to whoever connects somewhere, too, and before a server
// has started somebody does.
func FreeAddress() (string, error) {
	const lowest = 10240
	chosen := 32768 // by the kernel: from here on (ip(7), ip_local_port_range)
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(b), &chosen)
	}
	for range 1000 {
		port := 0
		if chosen > lowest+1000 {
			n, err := rand.Int(rand.Reader, big.NewInt(int64(chosen-lowest)))
			if err != nil {
				return "", err
			}
			port = lowest + int(n.Int64())
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		_ = l.Close()
		if _, twice := given.LoadOrStore(l.Addr().String(), true); !twice {
			return l.Addr().String(), nil
		}
	}
	return "", errors.New("no port is free")
}

// Reload sends SIGHUP: a server reads its policy again.
func (p *Process) Reload() { _ = p.cmd.Process.Signal(syscall.SIGHUP) }
