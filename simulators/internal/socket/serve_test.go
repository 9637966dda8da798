package socket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/simulators/internal/socket/sockettest"
)

// echo is a device that says a request back to front, long enough (8 KiB) to
// fill up a socket whose client does not read.
var echo = Server{
	MaxRequest: 16, TooLarge: []byte("too large"),
	Handle: func(request []byte) []byte {
		slices.Reverse(request)
		return append(request, make([]byte, 8<<10)...)
	},
}

func said(b []byte) []byte { return b[:max(0, len(b)-8<<10)] }

func served(t *testing.T) (path string, stop func()) {
	t.Helper()
	return sockettest.Serve(t, Listen, echo.Serve)
}

// works shows that the server still serves.
func works(t *testing.T, path string) {
	t.Helper()
	if got := said(sockettest.Dial(t, path).Ask([]byte("abc"))); string(got) != "cba" {
		t.Errorf("abc is answered with %q", got)
	}
}

func TestAConnectionCarriesRequestsOneAfterAnother(t *testing.T) {
	path, _ := served(t)
	c := sockettest.Dial(t, path)
	for request, want := range map[string]string{"": "", "a": "a", "0123456789abcdef": "fedcba9876543210"} {
		if got := said(c.Ask([]byte(request))); string(got) != want {
			t.Errorf("%q is answered with %q, want %q", request, got, want)
		}
	}
	// Two requests in one write, and one request byte by byte.
	c.Send(append(sockettest.Frame([]byte("12")), sockettest.Frame([]byte("34"))...))
	for _, want := range []string{"21", "43"} {
		if got := said(c.Receive()); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, b := range sockettest.Frame([]byte("56")) {
		c.Send([]byte{b})
	}
	if got := said(c.Receive()); string(got) != "65" {
		t.Errorf("got %q, want 65", got)
	}
}

func TestAHalfClosedClientGetsItsAnswer(t *testing.T) {
	path, _ := served(t)
	c := sockettest.Dial(t, path)
	c.Send(sockettest.Frame([]byte("abc")))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := said(c.Receive()); string(got) != "cba" {
		t.Errorf("got %q", got)
	}
	c.WantEnd()
}

func TestAnOversizedFrameIsRefusedBeforeItIsRead(t *testing.T) {
	path, _ := served(t)
	for _, n := range []uint32{uint32(echo.MaxRequest) + 1, 1 << 31, 1<<32 - 1} {
		c := sockettest.Dial(t, path)
		c.Send(binary.BigEndian.AppendUint32(nil, n))
		if got := c.Receive(); !bytes.Equal(got, echo.TooLarge) {
			t.Errorf("a frame of %d bytes is answered with %q", n, got)
		}
		c.WantEnd()
	}
	works(t, path)
}

func TestAClientThatLeavesOrStallsDisturbsNobody(t *testing.T) {
	path, stop := served(t)
	leave := sockettest.Dial(t, path)
	leave.Send(sockettest.Frame([]byte("never said in full"))[:7])
	_ = leave.Close()
	deaf := sockettest.Dial(t, path) // asks, and never reads
	for range 100 {
		deaf.Send(sockettest.Frame([]byte("abc")))
	}
	stalled := sockettest.Dial(t, path)
	stalled.Send([]byte{0, 0})
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
	for name, c := range map[string]struct {
		send []byte
		want time.Duration
	}{
		"idle":                  {nil, idleTime},
		"half a length":         {[]byte{0, 0}, frameTime},
		"half a request":        {sockettest.Frame([]byte("abc"))[:6], frameTime},
		"an answer not fetched": {sockettest.Frame([]byte("abc")), frameTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer func() { _ = client.Close() }()
				start := time.Now()
				done := make(chan time.Duration, 1)
				go func() {
					echo.serveConn(context.Background(), server)
					done <- time.Since(start)
				}()
				if _, err := client.Write(c.send); err != nil {
					t.Fatal(err)
				}
				if got := <-done; got != c.want {
					t.Errorf("closed after %v, want %v", got, c.want)
				}
			})
		})
	}
}

// flaky is a listener that runs out of descriptors, and then breaks.
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
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := echo.Serve(context.Background(), &flaky{errors: []error{syscall.EMFILE, syscall.EMFILE, syscall.EBADF}})
		if !errors.Is(err, syscall.EBADF) || time.Since(start) != 2*acceptPause {
			t.Errorf("Serve ended with %v after %v", err, time.Since(start))
		}
	})
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	path, _ := served(t)
	var open []sockettest.Conn
	for range maxConnections {
		c := sockettest.Dial(t, path)
		c.Ask(nil)
		open = append(open, c)
	}
	sockettest.Dial(t, path).WantEnd()
	_ = open[0].Close()
	for range 100 { // the server notices soon
		c := sockettest.Dial(t, path)
		if _, err := c.Write(sockettest.Frame(nil)); err == nil {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a place that became free is not given away")
}

// Whatever a client writes, each whole frame of it is answered, and what is left
// over ends the connection and no more.
func FuzzServe(f *testing.F) {
	for _, b := range [][]byte{
		nil, {0}, {0, 0, 0, 0}, {0, 0, 0, 2, 'a'}, append(sockettest.Frame([]byte("abc")), 0xff, 0xff, 0xff, 0xff, 1),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			echo.serveConn(context.Background(), server)
		}()
		go func() {
			_, _ = client.Write(b) // cut short by a frame that is too large
			_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
		}()
		var want []byte
		for rest := b; len(rest) >= 4; {
			n := binary.BigEndian.Uint32(rest)
			if n > uint32(echo.MaxRequest) {
				want = append(want, sockettest.Frame(echo.TooLarge)...)
				break
			}
			if rest = rest[4:]; uint32(len(rest)) < n {
				break
			}
			want = append(want, sockettest.Frame(echo.Handle(bytes.Clone(rest[:n])))...)
			rest = rest[n:]
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x is answered with %x (%v), want %x", b, got, err, want)
		}
		_ = client.Close()
		<-done
	})
}
