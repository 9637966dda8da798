package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/issuer/ca"
)

// Every byte of the agent is measured with an enclave's image, and its memory is
// taken from the workload's.
const (
	maxBinary   = 20 << 20
	maxResident = 32 << 20
)

// agentProcess is the agent as `make build` makes it: a static binary, stripped.
type agentProcess struct {
	path string
	cmd  *exec.Cmd
}

func buildAgent(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assay-agent")
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", path}
	recipe := regexp.MustCompile(`(?m)^\tCGO_ENABLED=0 \$\(GO\) build .*\./cmd/\.\.\.$`).Find(must(os.ReadFile("../Makefile")))
	if !bytes.Contains(recipe, []byte(`-trimpath`)) || !bytes.Contains(recipe, []byte(`-ldflags="-s -w"`)) {
		t.Fatalf("make build has another recipe than this test: %s", recipe)
	}
	if m := regexp.MustCompile(`-tags[= ](\S+)`).FindSubmatch(recipe); m != nil {
		args = append(args, "-tags="+string(m[1]))
	}
	c := exec.Command("go", append(args, "github.com/assay-project/assay/cmd/assay-agent")...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// launch runs the binary against the server until the test ends.
func (s *realServer) launch(t testing.TB, path string) (*agentProcess, agent.Config) {
	t.Helper()
	cfg := s.enclave(orders())
	dir := filepath.Dir(cfg.Socket)
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), must(ca.BootstrapRootPEM(s.cfg.DataDir)), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("trust_domain: %s\nserver: %s\nbootstrap_roots: [root.pem]\nnitro: {socket: nsm.sock}\nsocket: agent.sock\n", realDomain, s.addr)
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &agentProcess{path: path, cmd: exec.Command(path, "run", "--config", file)}
	var log bytes.Buffer
	p.cmd.Stderr = &log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	})
	return p, cfg
}

// resident is the memory that the process has, in bytes.
func (p *agentProcess) resident(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return must(strconv.ParseInt(strings.Fields(kb)[0], 10, 64)) << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// sockets are the inodes of its sockets.
func (p *agentProcess) sockets(t testing.TB) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	out := map[string]bool{}
	for _, fd := range must(os.ReadDir(dir)) {
		link, _ := os.Readlink(filepath.Join(dir, fd.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			out[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return out
}

// listening says on what the process accepts, and what is no known kind of socket:
// AF_VSOCK is in none of the tables.
func (p *agentProcess) listening(t testing.TB) (out []string) {
	t.Helper()
	own := p.sockets(t)
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "unix", "netlink", "packet", "raw"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.cmd.Process.Pid, table))
		if err != nil {
			continue // not in this kernel
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			inode := map[bool]int{true: 6, false: 9}[table == "unix"]
			if table == "netlink" || table == "packet" || len(f) <= inode || !own[f[inode]] {
				continue
			}
			delete(own, f[inode])
			switch {
			case strings.HasPrefix(table, "tcp") && f[3] != "0A": // not TCP_LISTEN: a connection that it opened
			case table == "unix" && f[3] != "00010000": // not __SO_ACCEPTCON: a workload's connection, or the device's
			case table == "unix" && len(f) > 7:
				out = append(out, "unix "+strings.TrimSuffix(f[7], "~")) // the kernel keeps the name that it was bound to
			case table == "unix":
				out = append(out, "unix without a name")
			default:
				out = append(out, table+" "+f[1])
			}
		}
	}
	still := p.sockets(t)
	for inode := range own {
		if still[inode] {
			out = append(out, "a socket of another kind, "+inode)
		}
	}
	return out
}

func TestTheAgentIsSmallAndListensOnItsSocketAlone(t *testing.T) {
	path := buildAgent(t)
	st := must(os.Stat(path))
	t.Logf("the binary has %.1f MiB", float64(st.Size())/(1<<20))
	if st.Size() >= maxBinary {
		t.Errorf("the binary has %d bytes, want less than %d", st.Size(), maxBinary)
	}
	head := must(os.ReadFile(path))
	if bytes.Contains(head, []byte("/ld-linux")) || bytes.Contains(head, []byte("/ld-musl")) {
		t.Error("the binary asks for a dynamic loader")
	}
	s := newServerWith(t, tokens(policyText(1, ordersID)))
	p, cfg := s.launch(t, path)
	names(t, cfg, ordersID)
	s.reattest(t)               // it watches, and has renewed once
	time.Sleep(3 * time.Second) // idle: what attestation needed is let go, or is not
	rss := p.resident(t)
	t.Logf("it has %.1f MiB of memory", float64(rss)/(1<<20))
	if rss >= maxResident {
		t.Errorf("it has %d bytes of memory when idle, want less than %d", rss, maxResident)
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: on what it listens. An agent keeps its descriptors from other processes of its user, and shows them to root alone")
	}
	if got := p.listening(t); len(got) != 1 || got[0] != "unix "+cfg.Socket {
		t.Errorf("it accepts on %q, want %s alone", got, cfg.Socket)
	}
}
