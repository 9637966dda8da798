package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A command of the agent's own user cannot read the keys out of the agent's memory, and
// is itself as open to its user as any process. Root can read everything, so the agent
// runs as somebody else.
func TestTheAgentsMemoryIsClosedToItsOwnUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root can run an agent as somebody else")
	}
	s := newSite(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := s.path("assay-agent")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{s.dir, s.path("nsm.sock")} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.WalkDir(s.path("agent"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, 4001, 4001)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.path("bootstrap.pem"), 4001, 4001); err != nil {
		t.Fatal(err)
	}
	// environ is guarded as mem is (ptrace(2), PTRACE_MODE_READ).
	const look = `cat /proc/$PPID/environ >/dev/null 2>&1 && echo open || echo closed; cat /proc/$$/environ >/dev/null 2>&1 && echo own`
	c := s.agent("exec", "--data-dir", s.path("agent"), "--", "sh", "-c", look)
	c.Path, c.Err = program, nil
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4001, Gid: 4001}}
	var log buffer
	c.Stderr = &log
	out, err := c.Output()
	if got := string(out); err != nil || got != "closed\nown\n" {
		t.Errorf("%q, %v\n%s", got, err, &log)
	}
}
