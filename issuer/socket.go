package issuer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/cli"
)

// ListenAdmin opens the admin socket with mode 0600. Its directory must exist
// or be possible to make, and nobody but its owner may write to it (or it is
// sticky, like /tmp): otherwise another could put a socket of his own there. A
// socket that is left from before is removed only if nobody answers on it.
func ListenAdmin(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cli.Usagef("set admin_socket to a path in a directory that this user can write to", "cannot make the directory of the admin socket: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, cli.Usagef("", "the directory of the admin socket: %w", err)
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
		return nil, cli.Usagef("chmod go-w "+dir, "%s: others can write to the directory of the admin socket (mode %04o)", dir, info.Mode().Perm())
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := bindPrivately(dir, path)
	if err != nil {
		return nil, err
	}
	return &socket{UnixListener: l, path: path}, nil
}

// bindPrivately listens on a socket at the path that has mode 0600 from the first
// moment at which anybody could reach it: it is born with the permissions of the
// umask, so that it is born in a directory of its own that nobody else can enter.
// What connected before would wait in the queue, and be served as an operator.
// Several may open theirs in one directory at the same time.
func bindPrivately(dir, path string) (_ *net.UnixListener, err error) {
	cradle, err := makeCradle(dir)
	if err != nil {
		return nil, cli.Usagef("set admin_socket to a path in a directory that this user can write to", "cannot open the admin socket: %w", err)
	}
	born := filepath.Join(cradle, "s")
	defer func() {
		if rerr := os.Remove(cradle); err == nil && rerr != nil {
			err = fmt.Errorf("cannot open the admin socket: %w", rerr)
		}
	}()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	if errors.Is(err, syscall.EINVAL) { // more than sockaddr_un holds
		return nil, cli.Usagef("set admin_socket to a shorter path", "cannot open the admin socket: %w", err)
	}
	if err != nil {
		return nil, cli.Usagef("", "cannot open the admin socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(born, 0o600), os.Rename(born, path)); err != nil {
		_ = l.Close()
		_ = os.Remove(born)
		return nil, fmt.Errorf("cannot open the admin socket: %w", err)
	}
	return l, nil
}

// makeCradle makes a directory of a new name, mode 0700. The name is short: a
// socket's path has 107 bytes at most, and that in the cradle is little longer than
// its last one.
func makeCradle(dir string) (string, error) {
	for range 1000 {
		path := filepath.Join(dir, "."+rand.Text()[:4]) // 2^20 names
		err := os.Mkdir(path, 0o700)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("%s: no name is free", dir)
}

// removeStale removes a socket that no process listens on. Anything else at
// the path is left alone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return cli.Usagef("", "the admin socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return cli.Usagef("remove it, or set admin_socket to another path", "%s is there and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return cli.Usagef("another assayd is running; stop it, or set admin_socket to another path", "%s: somebody listens on the admin socket", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return cli.Usagef("remove it if nothing uses it", "%s: the admin socket is there and cannot be asked: %w", path, err)
	}
	return os.Remove(path)
}

// socket removes its file when it closes.
type socket struct {
	*net.UnixListener
	path string
}

// Close stops listening and removes the file.
func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if rerr := os.Remove(s.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}
