package sevsnp

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

	"github.com/google/go-sev-guest/abi"
)

// served runs a guest on a socket until the test ends, and returns the path.
func served(t *testing.T, l Launch) (path string, g *Guest, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "snp.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	g = testGuest(t, testChip(t, testAuthority(t), Genoa), l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, listener) }()
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
	return path, g, stop
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

// request asks for what, over report data of one repeated byte.
func request(what, data, vmpl byte) []byte {
	return append(append([]byte{what}, bytes.Repeat([]byte{data}, 64)...), vmpl)
}

func send(t *testing.T, c net.Conn, b []byte) {
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
	send(t, c, frame(request(requestReport, 7, 0)))
	if got := readResponse(t, c); len(got) != 1+ReportSize || got[0] != statusGood {
		t.Errorf("a request is answered with %d bytes, status %d", len(got), got[0])
	}
}

func TestAGuestAnswersOverASocket(t *testing.T) {
	path, g, _ := served(t, Launch{VMPL: 1})
	c := dial(t, path)
	send(t, c, frame(request(requestReport, 5, 2)))
	got := readResponse(t, c)
	r, err := abi.ReportToProto(got[1:])
	if err != nil || got[0] != statusGood || len(got) != 1+ReportSize {
		t.Fatalf("%d bytes, status %d: %v", len(got), got[0], err)
	}
	if !bytes.Equal(r.GetReportData(), bytes.Repeat([]byte{5}, 64)) || r.GetVmpl() != 2 {
		t.Errorf("the report has data %x at level %d", r.GetReportData(), r.GetVmpl())
	}
	send(t, c, frame(request(requestExtended, 6, 1)))
	got = readResponse(t, c)
	if got[0] != statusGood || !bytes.Equal(got[1+ReportSize:], g.CertTable()) {
		t.Error("the extended report does not end in the certificate table")
	}
	if !bytes.Equal(got[1+offReportData:1+offReportData+64], bytes.Repeat([]byte{6}, 64)) {
		t.Error("the extended report has other data")
	}
}

func TestALevelThatTheGuestMayNotSpeakForIsRefused(t *testing.T) {
	path, _, _ := served(t, Launch{VMPL: 2})
	c := dial(t, path)
	for vmpl, want := range map[byte]byte{0: statusVMPL, 1: statusVMPL, 2: statusGood, 3: statusGood, 4: statusVMPL, 255: statusVMPL} {
		send(t, c, frame(request(requestReport, 1, vmpl)))
		if got := readResponse(t, c); got[0] != want {
			t.Errorf("level %d: status %d, want %d", vmpl, got[0], want)
		}
	}
}

func TestGarbageIsAnsweredAndTheConnectionGoesOn(t *testing.T) {
	path, _, _ := served(t, Launch{})
	c := dial(t, path)
	for _, b := range [][]byte{
		{}, {1}, []byte("GET / HTTP/1.1\r\n\r\n"), request(0, 1, 0), request(3, 1, 0), request(255, 1, 0), request(1, 1, 0)[:65],
	} {
		send(t, c, frame(b))
		if got := readResponse(t, c); got[0] != statusRequest || !strings.Contains(string(got), "66 bytes") {
			t.Errorf("%.10q answers %q", b, got)
		}
	}
	works(t, path)
}

func TestAnOversizedFrameIsRefusedBeforeItIsRead(t *testing.T) {
	path, _, _ := served(t, Launch{})
	for _, n := range []uint32{requestSize + 1, 1 << 31, 1<<32 - 1} {
		c := dial(t, path)
		send(t, c, binary.BigEndian.AppendUint32(nil, n))
		if got := readResponse(t, c); got[0] != statusRequest {
			t.Errorf("a frame of %d bytes answers %q", n, got)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after it the connection is still open: %v", err)
		}
	}
	works(t, path)
}

func TestRequestsMayComeAtAnyPace(t *testing.T) {
	path, _, _ := served(t, Launch{})
	c := dial(t, path)
	// Two requests in one write, and one request byte by byte.
	send(t, c, append(frame(request(1, 1, 0)), frame(request(2, 2, 0))...))
	readResponse(t, c)
	readResponse(t, c)
	for _, b := range frame(request(1, 3, 0)) {
		send(t, c, []byte{b})
	}
	readResponse(t, c)
	// A client that has said all gets its answer.
	send(t, c, frame(request(1, 4, 0)))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	readResponse(t, c)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestAClientThatLeavesOrStallsDisturbsNobody(t *testing.T) {
	path, _, stop := served(t, Launch{})
	leave := dial(t, path)
	send(t, leave, frame(request(1, 1, 0))[:7])
	_ = leave.Close()
	deaf := dial(t, path) // asks, and never reads
	for range 20 {
		send(t, deaf, frame(request(2, 1, 0)))
	}
	stalled := dial(t, path)
	send(t, stalled, []byte{0, 0})
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
	g := testGuest(t, testChip(t, testAuthority(t), Genoa), Launch{})
	for name, c := range map[string]struct {
		sent []byte
		want time.Duration
	}{
		"idle":                  {nil, idleTime},
		"half a length":         {[]byte{0, 0}, frameTime},
		"half a request":        {frame(request(1, 1, 0))[:9], frameTime},
		"an answer not fetched": {frame(request(1, 1, 0)), frameTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer func() { _ = client.Close() }()
				start := time.Now()
				done := make(chan time.Duration, 1)
				go func() {
					g.serveConn(context.Background(), server)
					done <- time.Since(start)
				}()
				if c.sent != nil {
					send(t, client, c.sent)
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
	g := testGuest(t, testChip(t, testAuthority(t), Genoa), Launch{})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := g.Serve(context.Background(), &flaky{errors: []error{syscall.EMFILE, syscall.EMFILE, syscall.EBADF}})
		if !errors.Is(err, syscall.EBADF) || time.Since(start) != 2*acceptPause {
			t.Errorf("Serve ended with %v after %v", err, time.Since(start))
		}
	})
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	path, _, _ := served(t, Launch{})
	var open []net.Conn
	for range maxConnections {
		c := dial(t, path)
		send(t, c, frame(request(1, 1, 0)))
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
		if _, err := c.Write(frame(request(1, 1, 0))); err == nil {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a place that became free is not given away")
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	path, _, _ := served(t, Launch{})
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
	path := filepath.Join(dir, "snp.sock")
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

// Whatever comes in is answered: with a status and, if that is good, a report
// over exactly the data that were sent.
func FuzzHandle(f *testing.F) {
	a, err := shared()
	if err != nil {
		f.Fatal(err)
	}
	c, err := a.Chip(Turin, "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	g, err := c.Launch(Launch{VMPL: 1})
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{nil, request(1, 1, 1), request(2, 9, 3), request(1, 1, 0), request(7, 1, 1), make([]byte, 67)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		got := g.Handle(b)
		if !bytes.Equal(b, before) {
			t.Error("the request was changed")
		}
		good := len(b) == requestSize && (b[0] == 1 || b[0] == 2) && b[65] >= 1 && b[65] <= 3
		if (got[0] == statusGood) != good {
			t.Fatalf("status %d for %x", got[0], b)
		}
		if !good {
			if len(got) < 10 {
				t.Errorf("no sentence: %q", got)
			}
			return
		}
		if !bytes.Equal(got[1+offReportData:1+offReportData+64], b[1:65]) || got[1+offVMPL] != b[65] {
			t.Error("the report says something else than was asked for")
		}
		if want := 1 + ReportSize + len(g.table)*int(b[0]-1); len(got) != want {
			t.Errorf("%d bytes, want %d", len(got), want)
		}
	})
}
