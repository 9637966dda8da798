package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The parent instance is the adversary: it reaches an enclave by vsock, and a
// guest by the network. A running agent has one listening socket, with a path;
// every socket that it has is accounted for.
func TestARunningAgentCanBeReachedThroughItsPathnameSocketOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: an agent keeps its descriptors from other processes of its user, and shows them to root alone")
	}
	dir, err := os.MkdirTemp("", "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	agent := startAgent(t, dir)
	socket := filepath.Join(dir, "agent.sock")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Lstat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not serve")
		}
	}
	listening := 0
	own := sockets(t, agent.Process.Pid)
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "unix"} {
		for _, f := range rows(t, agent.Process.Pid, table) {
			inode := f[6]
			if table != "unix" {
				inode = f[9]
			}
			if !own[inode] {
				continue
			}
			delete(own, inode)
			switch {
			case table == "unix" && f[3] == "00010000": // __SO_ACCEPTCON
				if len(f) != 8 || f[7] != socket && f[7] != socket+"~" { // the kernel keeps the name it was bound to
					t.Errorf("it listens on the unix socket %v", f)
				}
				listening++
			case strings.HasPrefix(table, "tcp") && f[3] == "0A": // TCP_LISTEN
				t.Errorf("it listens on %s %s", table, f[1])
			case strings.HasPrefix(table, "udp"):
				t.Errorf("it has a %s socket %s", table, f[1])
			}
		}
	}
	if listening != 1 {
		t.Errorf("it listens on %d sockets, want 1", listening)
	}
	// A socket in no table would be vsock, netlink or packet; or it was closed
	// while the tables were read.
	still := sockets(t, agent.Process.Pid)
	for inode := range own {
		if !still[inode] {
			continue
		}
		t.Errorf("socket %s is neither TCP, UDP nor unix", inode)
	}
}

// startAgent runs an agent whose server is away, until the test ends.
func startAgent(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	testNSM(t, filepath.Join(dir, "nsm.sock"))
	writeRoot(t, filepath.Join(dir, "root.pem"), "simulated.example.org")
	conf := "trust_domain: simulated.example.org\nserver: 127.0.0.1:1\nbootstrap_roots: [root.pem]\nnitro: {socket: nsm.sock}\nsocket: agent.sock\n"
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Args = []string{"assay-agent", "run", "--config", filepath.Join(dir, "a.yaml")}
	var log strings.Builder
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	})
	return c
}

// sockets are the inodes of a process's sockets.
func sockets(t *testing.T, pid int) map[string]bool {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, fd := range fds {
		link, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			out[strings.TrimSuffix(inode, "]")] = true
		}
	}
	if len(out) == 0 {
		t.Fatal("the process has no sockets")
	}
	return out
}

// rows are the lines of a table of sockets, split into fields.
func rows(t *testing.T, pid int, table string) [][]string {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "net", table))
	if os.IsNotExist(err) {
		return nil // no IPv6 here
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	least := 10
	if table == "unix" {
		least = 7
	}
	var out [][]string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) >= least && strings.HasSuffix(fields[0], ":") {
			out = append(out, fields)
		}
	}
	return out
}
