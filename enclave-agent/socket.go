package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

// maxSocketPath is what fits into sockaddr_un with its final zero (unix(7)),
// less the "~" of the name under which the socket is prepared.
const maxSocketPath = 106

// ErrSocketInUse is in the error about a socket on which another process
// accepts connections.
var ErrSocketInUse = errors.New("in use")

// socketError is what is wrong with the socket, and what to do about it.
func socketError(hint, format string, a ...any) error {
	return &attest.Error{Kind: attest.Unavailable, Check: "socket", Err: fmt.Errorf(format, a...), Hint: hint}
}

// CheckSocketPath wants the absolute path of a file: abstract sockets have no
// owner and no mode.
func CheckSocketPath(path string) error {
	switch {
	case path == "":
		return errors.New("no socket path")
	case strings.HasPrefix(path, "@") || strings.ContainsRune(path, 0):
		return errors.New("the socket must be a file, not an abstract socket")
	case !filepath.IsAbs(path):
		return fmt.Errorf("the socket path %q is not absolute", clip(path))
	case len(path) > maxSocketPath:
		return fmt.Errorf("the socket path has %d bytes, at most %d fit", len(path), maxSocketPath)
	}
	return nil
}

// CheckSocket says what would keep an agent from serving at the path, without
// changing anything.
func CheckSocket(path string) error {
	if err := CheckSocketPath(path); err != nil {
		return socketError("choose another socket path", "%w", err)
	}
	dir := filepath.Dir(path)
	switch err := checkSocketDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
		// It will be made: its nearest existing parent must allow that.
		for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
			if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
				continue
			}
			return writable(parent)
		}
	case err != nil:
		return err
	}
	if err := writable(dir); err != nil {
		return err
	}
	_, err := occupied(context.Background(), path)
	return err
}

func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return socketError("run the agent as the directory's owner, or choose another socket path", "the socket's directory %s cannot be written: %w", dir, err)
	}
	return nil
}

// checkSocketDir wants a directory in which nobody else can put another socket in the
// place of ours, also not before we are there: workloads would take its trust bundle
// from an impostor. A group may write there only beside root's sticky bit, as services
// of one machine do that share a directory.
func checkSocketDir(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the socket's directory: %w", err)
	}
	if !st.IsDir() {
		return socketError("", "%s is not a directory", dir)
	}
	owner, ok := ownerOf(st)
	mode := st.Mode()
	switch {
	case !ok || owner != 0 && owner != os.Geteuid():
		return socketError("use a directory of root or of the agent's own user", "the socket's directory %s belongs to user %d, who could put another socket there", dir, owner)
	case mode.Perm()&0o002 != 0:
		return socketError("use a directory of its own: who is there first has the socket's name, and a sticky bit changes nothing of it", "everybody may write to the socket's directory %s (mode %04o): they could put their own socket there", dir, mode.Perm())
	case mode.Perm()&0o020 != 0 && (mode&fs.ModeSticky == 0 || owner != 0):
		return socketError("chmod go-w "+dir, "others may write to the socket's directory %s (mode %04o): they could put their own socket there", dir, mode.Perm())
	}
	return nil
}

// ownerOf is the user that a file belongs to.
func ownerOf(st fs.FileInfo) (uid int, ok bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, false
	}
	return int(s.Uid), true
}

// makeSocketDir makes a directory that is missing, and those above it. Workloads must
// get through them, whatever the umask keeps from others in general.
func makeSocketDir(dir string) error {
	err := os.Mkdir(dir, 0o755) //nolint:gosec // workloads must reach the socket in it
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeSocketDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o755) //nolint:gosec // workloads must reach the socket in it
	}
	if err == nil {
		return os.Chmod(dir, 0o755) //nolint:gosec // the same, against the umask
	}
	if st, serr := os.Stat(dir); serr == nil && st.IsDir() {
		return nil
	}
	return err
}

// occupied tells whether a dead socket is in the way; a live one, or a file
// that is no socket, is an error.
func occupied(ctx context.Context, path string) (stale bool, err error) {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, socketError("", "%w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return false, socketError("move it away, or choose another socket path", "%s exists and is no socket", path)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return true, nil
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		owner, _ := ownerOf(st)
		return false, socketError("stop what serves there; if nothing does, remove it", "%s is there already, belongs to user %d, and cannot be asked whether somebody serves there: %w", path, owner, err)
	case errors.Is(err, fs.ErrNotExist): // its owner has just ended
		return false, nil
	}
	return false, socketError("stop the other agent, or choose another socket path", "%s is %w: another process accepts connections there", path, ErrSocketInUse)
}

// socketListener removes its file when it closes, and holds a lock meanwhile.
type socketListener struct {
	*net.UnixListener
	path string
	lock *os.File
}

// Close stops accepting and removes the socket.
func (l *socketListener) Close() error {
	err := l.UnixListener.Close()
	if rm := os.Remove(l.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) && err == nil {
		err = rm
	}
	_ = l.lock.Close() // releases the lock; the file stays, removing it would race
	return err
}

// listen makes the socket. A lock beside it keeps two agents from taking one
// another's for stale; the socket gets its mode before its name, so that it is
// never open to more than the mode says. The group is a number; nil leaves the process's
// own.
func listen(ctx context.Context, path string, mode fs.FileMode, group *int) (*socketListener, error) {
	if err := CheckSocketPath(path); err != nil {
		return nil, socketError("choose another socket path", "%w", err)
	}
	dir := filepath.Dir(path)
	if err := makeSocketDir(dir); err != nil {
		return nil, socketError("run the agent as one who may make it, or choose another socket path", "make the socket's directory: %w", err)
	}
	if err := checkSocketDir(dir); err != nil {
		return nil, err
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	l, err := bindSocket(ctx, path, mode, group)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return &socketListener{l, path, lock}, nil
}

func lockSocket(path string) (*os.File, error) {
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, socketError("run the agent as the directory's owner, or choose another socket path", "%w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, socketError("stop the other agent, or choose another socket path", "%s is %w: another agent holds %s", path, ErrSocketInUse, name)
		}
		return nil, socketError("", "lock %s: %w", name, err)
	}
	return f, nil
}

func bindSocket(ctx context.Context, path string, mode fs.FileMode, group *int) (*net.UnixListener, error) {
	stale, err := occupied(ctx, path)
	if err != nil {
		return nil, err
	}
	if stale {
		if err := os.Remove(path); err != nil {
			return nil, socketError("", "remove the socket that a dead process left: %w", err)
		}
	}
	prepared := path + "~"
	if err := os.Remove(prepared); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, socketError("", "%w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: prepared, Net: "unix"})
	if err != nil {
		return nil, socketError("", "%w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := giveName(prepared, path, mode, group); err != nil {
		_ = l.Close()
		_ = os.Remove(prepared)
		return nil, err
	}
	return l, nil
}

func giveName(prepared, path string, mode fs.FileMode, group *int) error {
	if err := nameSocket(prepared, path, mode, group); err != nil {
		hint := ""
		if group != nil && errors.Is(err, fs.ErrPermission) {
			hint = "the agent's user must be in the group of socket_group, or be root"
		}
		return socketError(hint, "%w", err)
	}
	return nil
}

func nameSocket(prepared, path string, mode fs.FileMode, group *int) error {
	if group != nil {
		// Nobody may connect until it has its mode, whatever the umask.
		if err := os.Chmod(prepared, 0o600); err != nil {
			return err
		}
		if err := os.Lchown(prepared, -1, *group); err != nil {
			return err
		}
	}
	if err := os.Chmod(prepared, mode.Perm()); err != nil {
		return err
	}
	return os.Rename(prepared, path)
}
