package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A workload of another user has that user's groups, and nothing of root's: no
// capability, no group of the agent's.
func TestAWorkloadHasTheUserThatItWasGivenAndNothingOfRoots(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root can run a command as somebody else")
	}
	s := newSite(t)
	if err := os.Chmod(s.dir, 0o755); err != nil { // strangers come through here
		t.Fatal(err)
	}
	s.start("agent", s.agent("run", "--data-dir", s.path("agent")))
	s.until("the agent", func() bool { return s.agent("healthcheck", "--data-dir", s.path("agent")).Run() == nil })

	// Accounts of this test's own, in a mount namespace.
	s.write("passwd", "root:x:0:0::/root:/bin/sh\napp:x:4001:4002::/:/bin/sh\nlonely:x:4003:4004::/:/bin/sh\n")
	s.write("group", "root:x:0:\napp:x:4002:\nlonely:x:4004:\nmetrics:x:4005:app\nbackup:x:4006:root,app\nother:x:4007:root\n")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := s.path("assay-agent") // where anybody may run it
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write("secret.sh", "#!/bin/sh\ntrue\n")
	if err := os.Chmod(s.path("secret.sh"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(as *syscall.Credential, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		script := "mount --bind " + s.path("passwd") + " /etc/passwd && mount --bind " + s.path("group") + ` /etc/group && exec "$@"`
		c := exec.Command("/bin/sh", append([]string{"-c", script, "sh", program, "exec", "--socket", s.path("agent/agent.sock")}, args...)...)
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
		if as != nil {
			c = exec.Command(program, append([]string{"exec", "--socket", s.path("agent/agent.sock")}, args...)...)
			c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		}
		var out, log bytes.Buffer
		c.Stdout, c.Stderr = &out, &log
		if err := c.Run(); err != nil {
			var ended *exec.ExitError
			if !errors.As(err, &ended) {
				t.Fatal(err)
			}
		}
		return out.String(), log.String(), c.ProcessState.ExitCode()
	}

	const who = `id -u; id -g; id -G; grep -E '^(Cap(Inh|Prm|Eff|Amb)|Groups)' /proc/self/status`
	none := "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n"
	for user, want := range map[string]string{
		"app":            "4001\n4002\n4002 4005 4006\nGroups:\t4002 4005 4006 \n" + none,
		"app:metrics":    "4001\n4005\n4005 4002 4006\nGroups:\t4002 4005 4006 \n" + none,
		"lonely":         "4003\n4004\n4004\nGroups:\t4004 \n" + none,
		"4001":           "4001\n4002\n4002 4005 4006\nGroups:\t4002 4005 4006 \n" + none,
		"4999":           "4999\n4999\n4999\nGroups:\t4999 \n" + none,
		"4999:4005":      "4999\n4005\n4005\nGroups:\t4005 \n" + none,
		"lonely:metrics": "4003\n4005\n4005 4004\nGroups:\t4004 4005 \n" + none,
		"4003:4007":      "4003\n4007\n4007 4004\nGroups:\t4004 4007 \n" + none,
		"app:4999":       "4001\n4999\n4999 4002 4005 4006\nGroups:\t4002 4005 4006 4999 \n" + none,
	} {
		out, log, code := run(nil, "--user", user, "--", "sh", "-c", who)
		if diff := cmp.Diff(want, out); diff != "" || code != 0 {
			t.Errorf("%s: code %d (-want +got):\n%s%s", user, code, diff, log)
		}
		if strings.Contains(log, "runs as the agent's user") {
			t.Errorf("%s: it is warned of itself:\n%s", user, log)
		}
	}

	for name, x := range map[string]struct {
		as   *syscall.Credential
		args []string
		code int
		says []string
	}{
		"no such user":          {nil, []string{"--user", "nobody-here", "--", "true"}, 2, []string{"--user", "unknown user nobody-here"}},
		"no such group":         {nil, []string{"--user", "app:nothing-here", "--", "true"}, 2, []string{"--user", "unknown group nothing-here"}},
		"no number of a user":   {nil, []string{"--user", "-1", "--", "true"}, 2, []string{"--user"}},
		"a number too large":    {nil, []string{"--user", "4294967295", "--", "true"}, 2, []string{"--user"}},
		"a group without user":  {nil, []string{"--user", ":app", "--", "true"}, 2, []string{"--user"}},
		"what it may not run":   {nil, []string{"--user", "app", "--", s.path("secret.sh")}, 2, []string{"permission denied", "may the user run it"}},
		"by one who is no root": {&syscall.Credential{Uid: 4001, Gid: 4002}, []string{"--user", "4003", "--", "true"}, 2, []string{"operation not permitted", "only root"}},
	} {
		out, log, code := run(x.as, x.args...)
		if code != x.code || out != "" {
			t.Errorf("%s: code %d, want %d\n%s%s", name, code, x.code, out, log)
		}
		for _, line := range x.says {
			if !strings.Contains(log, line) {
				t.Errorf("%s: it does not say %q:\n%s", name, line, log)
			}
		}
	}
	// One who is no root runs what they may as themselves.
	if out, log, code := run(&syscall.Credential{Uid: 4001, Gid: 4002}, "--", "id", "-u"); code != 0 || out != "4001\n" {
		t.Errorf("as themselves: code %d, %s%s", code, out, log)
	}
}
