package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An agent with several identities writes its files twice as it begins, and the signal
// that tells of it can come before the workload handles it: it waits for that, and a
// workload that never does is not ended by it.
func TestNewFilesEndNoWorkload(t *testing.T) {
	s := newSite(t)
	s.grant(2, manyIdentities(2))
	out := s.path("out")
	run := func(name, script string) (code int, log string) {
		t.Helper()
		s.start(name, s.agent("exec", "--data-dir", s.path("agent"), "--write", filepath.Join(s.memory, name), "--reload-signal", "HUP", "--", "sh", "-c", script))
		err := s.process[name].Wait()
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) {
			t.Fatal(err)
		}
		return s.process[name].ProcessState.ExitCode(), s.log[name].String()
	}
	for range 3 {
		if code, log := run("late", "sleep 0.5; trap 'echo heard >> "+out+"' HUP; sleep 0.3; exit 5"); code != 5 {
			t.Fatalf("a workload that is slow to begin ended with %d\n%s", code, log)
		}
	}
	// And the word arrives, where it was said.
	s.start("agent", s.agent("exec", "--data-dir", s.path("agent"), "--write", filepath.Join(s.memory, "hears"), "--reload-signal", "HUP", "--", "sh", "-c", "echo begun >> "+out+"; sleep 0.5; trap 'echo told >> "+out+"; exit 6' HUP; while :; do sleep 0.02; done"))
	s.until("the workload", func() bool { b, _ := os.ReadFile(out); return strings.Contains(string(b), "begun") })
	s.grant(3, manyIdentities(3))
	if err := s.process["agent"].Wait(); s.process["agent"].ProcessState.ExitCode() != 6 {
		t.Errorf("the workload that was told ended with %v", err)
	}
	s.grant(4, manyIdentities(4))
	s.start("deaf", s.agent("exec", "--data-dir", s.path("agent"), "--write", filepath.Join(s.memory, "deaf"), "--reload-signal", "HUP", "--", "sleep", "3"))
	s.until("the workload", func() bool { return strings.Contains(s.log["deaf"].String(), "the command runs") })
	s.grant(5, manyIdentities(5))
	if err := s.process["deaf"].Wait(); err != nil {
		t.Errorf("a workload that handles no signal: %v", err)
	}
}
