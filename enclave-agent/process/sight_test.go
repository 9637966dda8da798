package process

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// The kernel has the last word: what SeesPrograms says is tried, by this process and by
// one without rights.
func TestWhetherProgramsOfOthersCanBeSeenIsSaidAsItIs(t *testing.T) {
	if pid := os.Getenv("LOOK_AT"); pid != "" {
		_, err := os.Readlink("/proc/" + pid + "/exe")
		if sees := !errors.Is(err, fs.ErrPermission); sees != SeesPrograms() {
			t.Errorf("it says %t, and %v", SeesPrograms(), err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: processes of several users need root")
	}
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4001, Gid: 4001}}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	dir, err := os.MkdirTemp("", "sight")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := copied(t, dir, "test")
	for _, uid := range []uint32{0, 4002} {
		c := exec.Command(program, "-test.run", "^TestWhetherProgramsOfOthersCanBeSeenIsSaidAsItIs$", "-test.v")
		c.Dir = dir
		c.Env = append(os.Environ(), "LOOK_AT="+strconv.Itoa(other.Process.Pid))
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("user %d: %v\n%s", uid, err, out)
		}
	}
}

// A process outside of containers is the ordinary one: nobody is asked, and nothing is
// a problem.
func TestAProcessInNoContainerIsNoProblem(t *testing.T) {
	own := &Process{PID: os.Getpid()}
	id, _, err := own.container()
	if err != nil || id != "" {
		t.Skipf("NOT TESTED: this test runs in a container whose control group it sees: %q, %v", id, err)
	}
	for name, src := range map[string]Source{"docker": NewDocker("/nobody/answers.sock"), "k8s": &kubelet{}} {
		if got, err := src.Facts(t.Context(), own, []string{DockerName, DockerImageID}); err != nil || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
