package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/cli"
)

// Listen opens the socket: mode 0600, or 0660 for a group. Its directory is made
// where it is missing, and nobody but its owner may write to it (or it is sticky,
// like /tmp): otherwise another could put a socket of his own there. A socket
// that is left from before is removed only if nobody answers on it.
func Listen(path, group string) (net.Listener, error) {
	mode, gid := fs.FileMode(0o600), -1
	dirMode := fs.FileMode(0o700)
	if group != "" {
		g, err := user.LookupGroup(group)
		if err == nil {
			gid, err = strconv.Atoi(g.Gid)
		}
		if err != nil {
			return nil, cli.Usagef("groupadd it, or mend socket_group", "socket_group: %w", err)
		}
		mode, dirMode = 0o660, 0o755
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, cli.Usagef("set socket to a path in a directory that this user can write to", "cannot make the directory of the socket: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, cli.Usagef("", "the directory of the socket: %w", err)
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
		return nil, cli.Usagef("chmod go-w "+dir, "%s: others can write to the directory of the socket (mode %04o)", dir, info.Mode().Perm())
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The socket is born with the permissions of its umask: bind under a name
	// that nobody is told of, in a directory where nobody else writes, narrow it,
	// then give it its own name.
	born := filepath.Join(dir, fmt.Sprintf(".s%d", os.Getpid()))
	_ = os.Remove(born)
	old := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, cli.Usagef("", "cannot open the socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if gid >= 0 {
		err = os.Chown(born, -1, gid)
	}
	if err := errors.Join(err, os.Chmod(born, mode), os.Rename(born, path)); err != nil {
		_ = l.Close()
		_ = os.Remove(born)
		return nil, cli.Usagef("is this user a member of the group?", "cannot open the socket: %w", err)
	}
	return &socket{UnixListener: l, path: path}, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return cli.Usagef("", "the socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return cli.Usagef("remove it, or set socket to another path", "%s is there and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return cli.Usagef("another assay-signer is running; stop it, or set socket to another path", "%s: somebody listens on the socket", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return cli.Usagef("remove it if nothing uses it", "%s: the socket is there and cannot be asked: %w", path, err)
	}
	return os.Remove(path)
}

// socket removes its file when it closes: the file first, so that a signer that
// starts meanwhile finds its own left alone.
type socket struct {
	*net.UnixListener
	path string
	once sync.Once
	err  error
}

// Close removes the file and stops listening. Whoever calls it again waits until
// that is done.
func (s *socket) Close() error {
	s.once.Do(func() {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.err = err
		}
		s.err = errors.Join(s.err, s.UnixListener.Close())
	})
	return s.err
}

// isOutOfFiles: the process has too many open, for now.
func isOutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
