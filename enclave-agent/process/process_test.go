package process

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// caller is what the test's own program does when it is started with its name in
// the environment: it connects, and does what it is told, line by line.
const callerEnv = "ASSAY_TEST_CALLER"

func TestMain(m *testing.M) {
	if socket := os.Getenv(callerEnv); socket != "" {
		if err := caller(socket); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func caller(socket string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // without CLOEXEC: it outlives an exec
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err
	}
	fmt.Println("connected")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		word, rest, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "exec":
			return syscall.Exec(rest, []string{rest, "60"}, nil)
		case "setuid":
			id, _ := strconv.Atoi(rest)
			if err := syscall.Setuid(id); err != nil {
				return err
			}
		case "end":
			return nil
		}
		fmt.Println("done")
	}
	return nil
}

// child is a process that connected.
type child struct {
	*exec.Cmd
	in   io.Writer
	out  *bufio.Reader
	conn *net.UnixConn
}

// connect starts the program at path, which is a copy of this test's own, and
// takes its connection.
func connect(t *testing.T, path string, attr *syscall.SysProcAttr) *child {
	t.Helper()
	dir, err := os.MkdirTemp("", "caller")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.CommandContext(t.Context(), path)}
	c.Env = []string{callerEnv + "=" + socket}
	c.SysProcAttr = attr
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	c.in, c.out = stdin, bufio.NewReader(stdout)
	c.hear(t, "connected")
	if c.conn, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

func (c *child) hear(t *testing.T, want string) {
	t.Helper()
	if line, err := c.out.ReadString('\n'); strings.TrimSpace(line) != want {
		t.Fatalf("the caller says %q, %v; want %q", line, err, want)
	}
}

func (c *child) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func pinned(t *testing.T, c *child) *Process {
	t.Helper()
	p, err := OfPeer(c.conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// copied is this test's program under another path.
func copied(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func look(t *testing.T, p *Process, types ...string) *Sight {
	t.Helper()
	set, err := NewSet()
	if err != nil {
		t.Fatal(err)
	}
	var selectors []Fact
	for _, x := range types {
		selectors = append(selectors, Fact{x, "any"})
	}
	s, err := set.Look(t.Context(), p, selectors)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestAProcessShowsWhatTheKernelSaysOfIt(t *testing.T) {
	c := connect(t, self(t), nil)
	p := pinned(t, c)
	if p.PID != c.Process.Pid {
		t.Fatalf("pid %d, want %d", p.PID, c.Process.Pid)
	}
	got := look(t, p, UID, GID, SupplementaryGID, Path, SHA256)
	want := []Fact{{UID, strconv.Itoa(os.Geteuid())}, {GID, strconv.Itoa(os.Getegid())}}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		want = append(want, Fact{SupplementaryGID, strconv.Itoa(g)})
	}
	want = append(want, Fact{Path, self(t)}, Fact{SHA256, digestOf(t, self(t))})
	if diff := cmp.Diff(want, got.Facts); diff != "" || len(got.Problems) > 0 {
		t.Errorf("facts (-want +got):\n%s%v", diff, got.Problems)
	}
	if !got.Matches(want) || got.Matches(append(want, Fact{UID, "4711"})) || got.Matches([]Fact{{"moon:phase", "full"}}) {
		t.Error("all selectors must be shown, and a type that nobody knows is shown by nobody")
	}
}

func TestAProcessThatExecsIntoAnotherProgramIsNotWhatItWas(t *testing.T) {
	c := connect(t, self(t), nil)
	p := pinned(t, c)
	c.tell(t, "exec /bin/sleep")
	var n int
	for n = 0; n < 10_000 && p.Unchanged() == nil; n++ {
		_, _ = os.Readlink(p.path("exe"))
	}
	if err := p.Unchanged(); !errors.Is(err, ErrChanged) {
		t.Fatalf("after an exec: %v, want ErrChanged", err)
	}
	set, err := NewSet()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := set.Look(t.Context(), p, []Fact{{UID, "0"}}); !errors.Is(err, ErrChanged) || s != nil {
		t.Errorf("a look after an exec: %v, %v", s, err)
	}
}

func TestAProcessThatEndedIsGoneForGood(t *testing.T) {
	c := connect(t, self(t), nil)
	p := pinned(t, c)
	c.tell(t, "end")
	_ = c.Wait()
	if err := p.Unchanged(); !errors.Is(err, ErrChanged) {
		t.Errorf("after its end: %v, want ErrChanged", err)
	}
}

// A pid that came again is that of a process which lives, and whose file in /proc
// says whatever it says: the descriptor tells that it is another one.
func TestAnotherProcessUnderTheSamePIDIsNotTaken(t *testing.T) {
	c := connect(t, self(t), nil)
	p := pinned(t, c)
	c.tell(t, "end")
	_ = c.Wait()
	other := connect(t, self(t), nil) // the same program, user and start, as near as can be
	p.PID = other.Process.Pid
	var err error
	if p.start, err = p.started(); err != nil {
		t.Fatal(err)
	}
	if err := p.Unchanged(); !errors.Is(err, ErrChanged) {
		t.Errorf("another process under its pid: %v, want ErrChanged", err)
	}
}

// And where the descriptor was opened for the pid too late, the start tells.
func TestAProcessThatStartedAtAnotherTimeIsNotTaken(t *testing.T) {
	c := connect(t, self(t), nil)
	p := pinned(t, c)
	p.start--
	if err := p.Unchanged(); !errors.Is(err, ErrChanged) {
		t.Errorf("another start: %v, want ErrChanged", err)
	}
}

func TestAProcessThatBecomesAnotherUserMustConnectAnew(t *testing.T) {
	needRoot(t)
	c := connect(t, copied(t, worldReadable(t), "caller"), nil)
	p := pinned(t, c)
	c.tell(t, "setuid 65534")
	c.hear(t, "done")
	if err := p.Unchanged(); !errors.Is(err, ErrChanged) {
		t.Errorf("after setuid: %v, want ErrChanged", err)
	}
}

func TestAProcessThatTakesAnotherGroupMustConnectAnew(t *testing.T) {
	needRoot(t)
	dir := worldReadable(t)
	b, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "setgid")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(program, 0, 4242); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	c := connect(t, copied(t, dir, "caller"), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	c.tell(t, "exec "+program)
	for range 1000 {
		if exe, _ := os.Readlink("/proc/" + strconv.Itoa(c.Process.Pid) + "/exe"); exe == program {
			break
		}
		time.Sleep(time.Millisecond)
	}
	// The connection is looked at when the setgid program runs already.
	if p, err := OfPeer(c.conn); !errors.Is(err, ErrChanged) {
		t.Errorf("%+v, %v; want ErrChanged", p, err)
	}
}

func TestAProcessOfAnotherUserIsTold(t *testing.T) {
	needRoot(t)
	c := connect(t, copied(t, worldReadable(t), "caller"), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65533, Groups: []uint32{4, 44}}})
	p := pinned(t, c)
	got := look(t, p, UID, GID, SupplementaryGID)
	want := []Fact{{UID, "65534"}, {GID, "65533"}, {SupplementaryGID, "4"}, {SupplementaryGID, "44"}}
	if diff := cmp.Diff(want, got.Facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestAProgramThatWasReplacedHasNoPathAndItsOwnDigest(t *testing.T) {
	dir := t.TempDir()
	path := copied(t, dir, "api")
	c := connect(t, path, nil)
	p := pinned(t, c)
	running := digestOf(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Fact{{SHA256, running}}, look(t, p, Path, SHA256).Facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

// A process in a mount namespace of its own can put its program under any name.
func TestAPathInAFileSystemOfItsOwnDoesNotCount(t *testing.T) {
	needRoot(t)
	dir := worldReadable(t)
	decoy := copied(t, dir, "evil")
	if err := os.WriteFile(filepath.Join(dir, "api"), []byte("what policy means"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("mount --make-rprivate / && mount --bind %s %s/api && exec %s/api", decoy, dir, dir)
	sh := filepath.Join(dir, "start.sh")
	if err := os.WriteFile(sh, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := connect(t, sh, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	p := pinned(t, c)
	if link, err := os.Readlink(p.path("exe")); err != nil || link != filepath.Join(dir, "api") {
		t.Fatalf("the kernel shows %q, %v: the test does not do what it means to", link, err)
	}
	if diff := cmp.Diff([]Fact{{SHA256, digestOf(t, decoy)}}, look(t, p, Path, SHA256).Facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestADigestIsMadeOnce(t *testing.T) {
	k := NewKernel().(*kernel)
	a, b := pinned(t, connect(t, self(t), nil)), pinned(t, connect(t, self(t), nil))
	for _, p := range []*Process{a, b} {
		if _, err := k.Facts(t.Context(), p, []string{SHA256}); err != nil {
			t.Fatal(err)
		}
	}
	if n := k.digests.Len(); n != 1 {
		t.Errorf("%d digests are remembered of one program", n)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: NOT ROOT, SO THAT NO PROCESS OF ANOTHER USER CAN BE STARTED")
	}
}

func worldReadable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "programs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
