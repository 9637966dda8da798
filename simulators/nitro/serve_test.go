package nitro

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// served runs a module on a socket until the test ends, and returns the path.
func served(t *testing.T) (path string, m *Module, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "nsm.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	m = launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("x")})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
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
		case <-time.After(5 * time.Second):
			t.Error("Serve does not end")
		}
	}
	t.Cleanup(stop)
	return path, m, stop
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func readResponse(t *testing.T, c net.Conn) []byte {
	t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatalf("no response: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("half a response: %v", err)
	}
	return b
}

// works shows that the server still serves.
func works(t *testing.T, path string) {
	t.Helper()
	c := dial(t, path)
	write(t, c, frame(cborText("DescribeNSM")))
	if got := readResponse(t, c); !bytes.HasPrefix(got, respond("DescribeNSM", nil)) {
		t.Errorf("DescribeNSM answers %q", got)
	}
}

func TestAConnectionCarriesRequestsOneAfterAnother(t *testing.T) {
	path, _, _ := served(t)
	c := dial(t, path)
	for range 3 {
		write(t, c, frame(cborText("GetRandom")))
		if got := readResponse(t, c); !bytes.HasPrefix(got, respond("GetRandom", nil)) || len(got) < 256 {
			t.Errorf("GetRandom answers %d bytes", len(got))
		}
	}
	// Two requests in one write, and one request byte by byte.
	write(t, c, append(frame(cborText("DescribeNSM")), frame(cborText("GetRandom"))...))
	readResponse(t, c)
	readResponse(t, c)
	for _, b := range frame(cborText("DescribeNSM")) {
		write(t, c, []byte{b})
	}
	readResponse(t, c)
}

func TestGarbageIsAnsweredAndTheConnectionGoesOn(t *testing.T) {
	path, _, _ := served(t)
	c := dial(t, path)
	want := respond("Error", cborText("InvalidOperation"))
	for _, b := range [][]byte{{}, {0xff}, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0x9f}, MaxRequest)} {
		write(t, c, frame(b))
		if got := readResponse(t, c); !bytes.Equal(got, want) {
			t.Errorf("%.10q answers %q", b, got)
		}
	}
	works(t, path)
}

func TestAnOversizedFrameIsRefusedBeforeItIsRead(t *testing.T) {
	path, _, _ := served(t)
	for _, n := range []uint32{MaxRequest + 1, 1 << 31, 1<<32 - 1} {
		c := dial(t, path)
		write(t, c, binary.BigEndian.AppendUint32(nil, n))
		if got, want := readResponse(t, c), respond("Error", cborText("InputTooLarge")); !bytes.Equal(got, want) {
			t.Errorf("a frame of %d bytes answers %q", n, got)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after it the connection is still open: %v", err)
		}
	}
	works(t, path)
}

func TestAHalfClosedClientGetsItsAnswer(t *testing.T) {
	path, _, _ := served(t)
	c := dial(t, path)
	write(t, c, frame(cborText("DescribeNSM")))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	readResponse(t, c)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestAClientThatLeavesOrStallsDisturbsNobody(t *testing.T) {
	path, _, stop := served(t)
	leave := dial(t, path)
	write(t, leave, frame(cborText("GetRandom"))[:7])
	_ = leave.Close()
	deaf := dial(t, path) // asks, and never reads
	for range 20 {
		write(t, deaf, frame(cborText("GetRandom")))
	}
	stalled := dial(t, path)
	write(t, stalled, []byte{0, 0})
	works(t, path)
	stop() // with the stalled connection open: Serve ends all the same
	if _, err := stalled.Read(make([]byte, 1)); err == nil {
		t.Error("the stalled connection outlived the server")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// The limits of time, without waiting for them.
func TestAConnectionThatStallsIsClosed(t *testing.T) {
	m := launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("x")})
	for name, c := range map[string]struct {
		send []byte
		want time.Duration
	}{
		"idle":                  {nil, idleTime},
		"half a length":         {[]byte{0, 0}, frameTime},
		"half a request":        {frame(cborText("DescribeNSM"))[:9], frameTime},
		"an answer not fetched": {frame(cborText("DescribeNSM")), frameTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer func() { _ = client.Close() }()
				start := time.Now()
				done := make(chan time.Duration, 1)
				go func() {
					m.serveConn(context.Background(), server)
					done <- time.Since(start)
				}()
				if c.send != nil {
					write(t, client, c.send)
				}
				if got := <-done; got != c.want {
					t.Errorf("closed after %v, want %v", got, c.want)
				}
			})
		})
	}
}

// flaky is a listener that runs out of descriptors once, and then breaks.
type flaky struct {
	net.Listener
	errors []error
}

func (f *flaky) Accept() (net.Conn, error) {
	err := f.errors[0]
	f.errors = f.errors[1:]
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept", err)}
}

func (f *flaky) Close() error { return nil }

func TestServeOutlivesAShortageOfDescriptorsAndReportsABrokenListener(t *testing.T) {
	m := launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("x")})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := m.Serve(context.Background(), &flaky{errors: []error{syscall.EMFILE, syscall.EMFILE, syscall.EBADF}})
		if !errors.Is(err, syscall.EBADF) || time.Since(start) != 2*acceptPause {
			t.Errorf("Serve ended with %v after %v", err, time.Since(start))
		}
	})
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	path, _, _ := served(t)
	var open []net.Conn
	for range maxConnections {
		c := dial(t, path)
		write(t, c, frame(cborText("DescribeNSM")))
		readResponse(t, c)
		open = append(open, c)
	}
	c := dial(t, path)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one connection too many: %v", err)
	}
	_ = open[0].Close()
	for range 100 { // the server notices soon
		c := dial(t, path)
		if _, err := c.Write(frame(cborText("DescribeNSM"))); err == nil {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a place that became free is not given away")
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	path, _, _ := served(t)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the socket there are %v (%v)", entries, err)
	}
}

func TestListenReplacesADeadSocketAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nsm.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("Listen on a live socket: %v", err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatalf("Listen on a dead socket: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close left the socket: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Listen on a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	for _, p := range []string{filepath.Join(dir, strings.Repeat("x", 120)), filepath.Join(dir, "no", "such", "directory")} {
		if _, err := Listen(p); err == nil {
			t.Errorf("Listen(%q) succeeds", p)
		}
	}
}
