package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where Linux puts a TPM 2.0. The first has the kernel's resource manager: several
// programs can use it at once, and what they loaded is gone when they close it.
const (
	TPMDevice    = "/dev/tpmrm0"
	TPMRawDevice = "/dev/tpm0"
)

// tpmSocketPrefix makes the path of a device that of a unix socket.
const tpmSocketPrefix = "unix:"

// Sizes of commands and responses, in bytes. A PC Client TPM has 4 KiB for each.
const (
	tpmHeader      = 10 // tag, size, code (Part 1, section 18)
	maxTPMResponse = 16 << 10
)

// tpmConn is a TPM that was opened. It carries one command at a time.
type tpmConn interface {
	// exchange sends a command and waits for its response, until ctx ends. The
	// error is what keeps bytes from going to and fro, never a TPM's own.
	exchange(ctx context.Context, command []byte) ([]byte, error)
	// shared reports whether a resource manager keeps others' objects apart.
	shared() bool
	// Close gives the TPM back.
	Close() error
}

// tpmOpener opens a TPM. Each operation opens it afresh: what stalled or died is
// tried again by itself, and others have their turn.
type tpmOpener func(ctx context.Context) (tpmConn, error)

// openTPM opens the kernel's TPM: through its resource manager, or where a kernel
// has none as its only user.
func openTPM(ctx context.Context) (tpmConn, error) {
	c, err := openTPMDevice(TPMDevice)(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return openTPMDevice(TPMRawDevice)(ctx)
	}
	return c, err
}

// openTPMDevice opens a character device of the kernel.
func openTPMDevice(path string) tpmOpener {
	return func(context.Context) (tpmConn, error) {
		// Not blocking: since Linux 4.20 a write then returns at once, and poll
		// tells when the response is there, so that a wait has an end.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return &tpmFile{fd: fd, path: path, managed: strings.Contains(path, "tpmrm")}, nil
	}
}

// tpmFile is a character device of Linux's TPM driver.
type tpmFile struct {
	fd      int
	path    string
	managed bool
}

func (f *tpmFile) shared() bool { return f.managed }

func (f *tpmFile) Close() error { return unix.Close(f.fd) }

func (f *tpmFile) failed(op string, err error) error {
	return &os.PathError{Op: op, Path: f.path, Err: err}
}

func (f *tpmFile) exchange(ctx context.Context, command []byte) ([]byte, error) {
	n, err := unix.Write(f.fd, command)
	switch {
	case err != nil:
		return nil, f.failed("write", err)
	case n != len(command):
		return nil, f.failed("write", io.ErrShortWrite)
	}
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	// The driver hands a whole response to one read.
	buf := make([]byte, maxTPMResponse)
	for {
		n, err = unix.Read(f.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, f.failed("read", err)
		}
		return buf[:n], nil
	}
}

// wait polls until there is a response.
func (f *tpmFile) wait(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(tpmPoll/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return f.failed("poll", err)
		case n > 0 && fds[0].Revents&unix.POLLIN != 0:
			return nil
		case n > 0:
			return f.failed("poll", io.ErrUnexpectedEOF)
		}
	}
}

// tpmPoll is how long one poll lasts before the context is looked at.
const tpmPoll = 100 * time.Millisecond

// openTPMSocket connects to a TPM behind a unix socket, as swtpm offers it with
// `--server type=unixio`: commands and responses as they are, without a frame.
func openTPMSocket(path string) tpmOpener {
	return func(ctx context.Context) (tpmConn, error) {
		var d net.Dialer
		for {
			c, err := d.DialContext(ctx, "unix", path)
			switch {
			case err == nil:
				return tpmSocket{c}, nil
			case !errors.Is(err, unix.EAGAIN):
				return nil, err
			}
			// So many wait for it that no more may (connect(2)).
			if sleep(ctx, tpmPoll) != nil {
				return nil, ctx.Err()
			}
		}
	}
}

// tpmSocket is a TPM behind a unix socket. It has one user at a time.
type tpmSocket struct{ net.Conn }

func (s tpmSocket) shared() bool { return false }

func (s tpmSocket) exchange(ctx context.Context, command []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) }) // ends a read or write at once
	defer stop()
	out, err := s.roundTrip(command)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return out, err
}

func (s tpmSocket) roundTrip(command []byte) ([]byte, error) {
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	head := make([]byte, tpmHeader)
	if _, err := io.ReadFull(s, head); err != nil {
		return nil, fmt.Errorf("the connection was closed without a response: %w", err)
	}
	n := binary.BigEndian.Uint32(head[2:])
	if n < tpmHeader || n > maxTPMResponse {
		return nil, nonsense("a response of %d bytes, want %d to %d", n, tpmHeader, maxTPMResponse)
	}
	out := append(make([]byte, 0, n), head...)
	out = out[:n]
	if _, err := io.ReadFull(s, out[tpmHeader:]); err != nil {
		return nil, fmt.Errorf("the response was cut short: %w", err)
	}
	return out, nil
}
