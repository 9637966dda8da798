package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a connected stream socket, a [net.Conn]. Its errors are *[net.OpError].
type conn struct {
	file   *os.File
	remote net.Addr
	closed atomic.Bool
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.file.Read(b)
	return n, c.failed("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.file.Write(b)
	return n, c.failed("write", err)
}

func (c *conn) Close() error {
	c.closed.Store(true)
	return c.failed("close", c.file.Close())
}

// CloseWrite says that nothing more will be written; what comes can still be read.
func (c *conn) CloseWrite() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return c.failed("close", err)
	}
	var down error
	if err := raw.Control(func(fd uintptr) { down = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return c.failed("close", err)
	}
	return c.failed("close", os.NewSyscallError("shutdown", down))
}

// LocalAddr is this machine's CID and the port that the kernel chose; zeros where it
// does not say.
func (c *conn) LocalAddr() net.Addr {
	var a Address
	raw, err := c.file.SyscallConn()
	if err != nil {
		return a
	}
	_ = raw.Control(func(fd uintptr) {
		if name, err := unix.Getsockname(int(fd)); err == nil {
			if vm, ok := name.(*unix.SockaddrVM); ok {
				a = Address{vm.CID, vm.Port}
			}
		}
	})
	return a
}

func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error     { return c.failed("set", c.file.SetDeadline(t)) }
func (c *conn) SetReadDeadline(t time.Time) error { return c.failed("set", c.file.SetReadDeadline(t)) }
func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.failed("set", c.file.SetWriteDeadline(t))
}

// failed makes the error of a file one of a connection: crypto/tls and gRPC look
// for [net.Error] and [net.ErrClosed].
func (c *conn) failed(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	if c.closed.Load() { // package os has several errors for it
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: c.remote.Network(), Addr: c.remote, Err: err}
}
