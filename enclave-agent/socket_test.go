package agent

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

func exists(path string) error {
	_, err := os.Lstat(path)
	return err
}

func TestASocketHasItsModeAndGoesWithItsListener(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "run", "agent.sock") // the directory is made
	if err := CheckSocket(path); err != nil {
		t.Errorf("CheckSocket: %v", err)
	}
	l, err := listen(context.Background(), path, 0o640, nil)
	if err != nil {
		t.Fatal(err)
	}
	st := must(os.Lstat(path))
	if st.Mode().Type() != fs.ModeSocket || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %s", st.Mode())
	}
	if err := exists(path + "~"); err == nil {
		t.Error("the name it was prepared under is left")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := exists(path); err == nil {
		t.Error("the socket is left")
	}
	// And again: what is left does not hinder.
	l = must(listen(context.Background(), path, 0o640, nil))
	_ = l.Close()
}

func TestALivingSocketIsNeverTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	l := must(listen(context.Background(), path, 0o600, nil))
	defer func() { _ = l.Close() }()
	_, err := listen(context.Background(), path, 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	if !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	wantCheck(t, CheckSocket(path), attest.Unavailable, "socket")
}

func TestTheSocketOfAnotherProgramIsNeverTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	other := must(net.Listen("unix", path)) // holds no lock of ours
	defer func() { _ = other.Close() }()
	_, err := listen(context.Background(), path, 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	if exists(path) != nil {
		t.Error("it was removed")
	}
}

func TestTheSocketOfADeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	dead := must(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if err := CheckSocket(path); err != nil {
		t.Errorf("CheckSocket: %v", err)
	}
	l, err := listen(context.Background(), path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Close(), l.Close()
}

func TestAFileInThePlaceOfTheSocketIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	if err := os.WriteFile(path, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := listen(context.Background(), path, 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	if got := string(must(os.ReadFile(path))); got != "dear" {
		t.Errorf("it holds %q", got)
	}
}

func TestADirectoryThatOthersWriteToIsRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := listen(context.Background(), filepath.Join(dir, "agent.sock"), 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	wantCheck(t, CheckSocket(filepath.Join(dir, "agent.sock")), attest.Unavailable, "socket")
	// As /tmp: others cannot replace what is ours, but they can be there first.
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	_, err = listen(context.Background(), filepath.Join(dir, "agent.sock"), 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	wantCheck(t, CheckSocket(filepath.Join(dir, "agent.sock")), attest.Unavailable, "socket")
}

// asRoot skips what needs files of several users.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOTICE: not root, which this needs: files of several users")
	}
}

func TestADirectoryOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	asRoot(t)
	dir := shortDir(t)
	path := filepath.Join(dir, "agent.sock")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, 65534, -1)); err != nil {
		t.Fatal(err)
	}
	_, err := listen(context.Background(), path, 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	if !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Error(err)
	}
	wantCheck(t, CheckSocket(path), attest.Unavailable, "socket")
}

func TestAGroupMayWriteBesideTheSocketOnlyUnderRootsStickyBit(t *testing.T) {
	t.Parallel()
	asRoot(t)
	dir := shortDir(t)
	path := filepath.Join(dir, "agent.sock")
	if err := os.Chmod(dir, 0o775); err != nil {
		t.Fatal(err)
	}
	_, err := listen(context.Background(), path, 0o600, nil)
	wantCheck(t, err, attest.Unavailable, "socket")
	if err := os.Chmod(dir, 0o775|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	l, err := listen(context.Background(), path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func TestTheSocketGetsItsGroup(t *testing.T) {
	t.Parallel()
	asRoot(t)
	path := filepath.Join(shortDir(t), "agent.sock")
	group := 54321
	l, err := listen(context.Background(), path, 0o660, &group)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	st := must(os.Lstat(path))
	if got := st.Sys().(*syscall.Stat_t).Gid; got != 54321 || st.Mode().Perm() != 0o660 {
		t.Errorf("group %d, mode %s", got, st.Mode())
	}
	if got := must(os.Lstat(filepath.Dir(path))).Sys().(*syscall.Stat_t).Gid; got == 54321 {
		t.Error("the directory has the group too, whose members could then put a socket there")
	}
}

// The umask belongs to the process, so this runs alone.
func TestTheSocketsDirectoryIsReachableUnderAnyUmask(t *testing.T) { //nolint:paralleltest // the umask is the process's
	before := syscall.Umask(0o077)
	defer syscall.Umask(before)
	base := shortDir(t)
	path := filepath.Join(base, "run", "assay", "agent.sock")
	l, err := listen(context.Background(), path, 0o666, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for dir := filepath.Dir(path); dir != base; dir = filepath.Dir(dir) {
		if got := must(os.Stat(dir)).Mode().Perm(); got != 0o755 {
			t.Errorf("%s has mode %s", dir, got)
		}
	}
	if got := must(os.Stat(path)).Mode().Perm(); got != 0o666 {
		t.Errorf("the socket has mode %s", got)
	}
}

// A dead socket that may not be opened cannot be told from a living one. The error must
// not claim what nobody knows. Root may open everything, so this has another user's rights.
func TestASocketThatCannotBeAskedIsNotSaidToBeInUse(t *testing.T) {
	t.Parallel()
	asRoot(t)
	dir := shortDir(t)
	path := filepath.Join(dir, "agent.sock")
	dead := must(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if err := errors.Join(os.Chmod(path, 0o600), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	var err error
	asUser(t, 65534, func() { _, err = occupied(context.Background(), path) })
	wantCheck(t, err, attest.Unavailable, "socket")
	if errors.Is(err, ErrSocketInUse) || !strings.Contains(err.Error(), "belongs to user 0") {
		t.Error(err)
	}
}

// asUser runs f with another user's rights on files. They are those of the thread alone,
// which is this goroutine's meanwhile (setfsuid(2)); all else of the process stays root's.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if before, err := unix.SetfsuidRetUid(uid); err != nil || before != 0 {
		t.Fatal(before, err)
	}
	defer func() {
		if before, err := unix.SetfsuidRetUid(0); err != nil || before != uid {
			t.Error(before, err)
		}
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // the change of user ended it
	}()
	f()
}
