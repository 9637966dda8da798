// Package sockettest is the other end of a simulator's socket, for tests: it
// serves one for as long as a test lasts, and asks it. It frames bytes itself, so
// that a test shows what goes over the wire.
package sockettest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// patience is how long a test waits for what should come at once.
const patience = 5 * time.Second

// Serve listens at a path in a new directory and serves there until the test
// ends, or stop is called. It is an error if serving does not end then, or not
// without an error.
func Serve(
	t *testing.T, listen func(path string) (net.Listener, error), serve func(context.Context, net.Listener) error,
) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "device.sock")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not end")
		}
	}
	t.Cleanup(stop)
	return path, stop
}

// Conn is a client's connection. What fails ends the test.
type Conn struct {
	*net.UnixConn
	t *testing.T
}

// Dial connects to a socket until the test ends.
func Dial(t *testing.T, path string) Conn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return Conn{c, t}
}

// Frame is a request or response as it goes over the wire.
func Frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// Ask sends a request and returns the response.
func (c Conn) Ask(request []byte) []byte {
	c.t.Helper()
	c.Send(Frame(request))
	return c.Receive()
}

// Send sends bytes as they are.
func (c Conn) Send(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// Receive returns a response.
func (c Conn) Receive() []byte {
	c.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("half a response: %v", err)
	}
	return b
}

// WantEnd reports an error unless the server has closed the connection after what
// was received.
func (c Conn) WantEnd() {
	c.t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		c.t.Errorf("the connection is still open: %v", err)
	}
}
