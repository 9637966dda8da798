package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxSocketPath is what fits into sockaddr_un with its terminating zero.
const maxSocketPath = 107

// Listen opens a unix socket at a path, mode 0600, that exists only from the
// moment on which it accepts connections. A socket that a process left behind is
// replaced; one that still answers, or anything else at the path, is an error.
// Close removes it.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, at most %d are possible", path, len(path), maxSocketPath)
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	// The socket gets its mode in a directory that nobody else can enter, and
	// then its name: there is no moment in which another user could connect.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	temporary := filepath.Join(dir, "s")
	if len(temporary) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s: its directory's name is too long for a unix socket", path)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(temporary, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	return &socket{UnixListener: l, path: path}, nil
}

// clearStale makes room at the path, if only a dead socket stands there.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket: remove it, or choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("another process answers on %s: stop it, or choose another path", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s exists, and whether a process answers there can't be seen: %w", path, err)
	}
	return os.Remove(path)
}

// socket removes its own path, and only its own, when it is closed.
type socket struct {
	*net.UnixListener
	path string
	once sync.Once
}

// Close stops listening and removes the socket.
func (s *socket) Close() error {
	s.once.Do(func() { _ = os.Remove(s.path) }) // gone already is as good
	return s.UnixListener.Close()
}

// Addr is the path at which clients find the socket.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }
