package vsock

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// DialError is a connection that could not be made, and what to do about it. Its
// text has both: gRPC hands on nothing else.
type DialError struct {
	Err  *net.OpError
	Hint string // "" where there is nothing to say
}

// Error is "dial vsock …: what happened (what to do)".
func (e *DialError) Error() string {
	if e.Hint == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Hint + ")"
}

// Unwrap is the *[net.OpError].
func (e *DialError) Unwrap() error { return e.Err }

// Timeout and Temporary make it a [net.Error].
func (e *DialError) Timeout() bool   { return e.Err.Timeout() }
func (e *DialError) Temporary() bool { return e.Err.Temporary() }

// Dial connects to a. It gives up when ctx ends, with ctx's error; the kernel gives
// up after two seconds. Deadlines work on the connection, and it has CloseWrite. An
// error is a *[DialError].
func Dial(ctx context.Context, a Address) (net.Conn, error) {
	c, err := dial(ctx, unix.AF_VSOCK, &unix.SockaddrVM{CID: a.CID, Port: a.Port}, a)
	if err != nil { // not a typed nil
		return nil, err
	}
	return c, nil
}

// dial is Dial in any family: a connection that stays under way is had from a
// TCP socket alone where a kernel has no transport for vsock.
func dial(ctx context.Context, family int, to unix.Sockaddr, a net.Addr) (*conn, error) {
	failed := func(err error) (*conn, error) {
		return nil, &DialError{&net.OpError{Op: "dial", Net: a.Network(), Addr: a, Err: err}, hint(err)}
	}
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed(os.NewSyscallError("socket", err))
	}
	// EINTR too says that the connection is under way (connect(2)).
	err = unix.Connect(fd, to)
	pending := errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EALREADY)
	if err != nil && !pending {
		_ = unix.Close(fd)
		return failed(os.NewSyscallError("connect", err))
	}
	// A file that does not block belongs to the runtime's poller: its reads and
	// writes have deadlines.
	f := os.NewFile(uintptr(fd), a.String())
	c := &conn{file: f, remote: a}
	if pending {
		if err := c.established(ctx); err != nil {
			_ = f.Close()
			return failed(err)
		}
	}
	return c, nil
}

// established waits until a connection that is under way is there, or is not.
func (c *conn) established(ctx context.Context) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.file.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.file.SetDeadline(time.Unix(1, 0)) }) // ends the wait at once
	var state error
	err = raw.Write(func(fd uintptr) bool {
		var done bool
		done, state = connected(int(fd))
		return done
	})
	if !stop() { // ctx has ended, and may yet set the deadline: the connection is not used
		return ctx.Err()
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	case err != nil:
		return err
	case state != nil:
		return state
	}
	return c.file.SetDeadline(time.Time{})
}

// connected reports whether connecting has ended, and how. A socket can be writable
// without being connected, and then has a name of its own only.
func connected(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return true, os.NewSyscallError("connect", unix.Errno(code))
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return false, nil
	}
	return true, nil
}

// hint is what to do about an error of socket or connect.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return "this kernel has no AF_VSOCK: a virtual machine needs CONFIG_VSOCKETS and CONFIG_VIRTIO_VSOCKETS; elsewhere give the server as host:port"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return "no vsock leads to this CID from here: is this the virtual machine or the enclave, and is the CID right; an enclave's parent is 3"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
		return "nobody listens on this port there: is the vsock-proxy running on the parent"
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		return "no answer from this CID: is it the right one, and is the vsock-proxy running there"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "a sandbox forbids AF_VSOCK: under systemd, RestrictAddressFamilies"
	}
	return ""
}
