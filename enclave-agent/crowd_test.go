package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestOneUserDoesNotTakeTheRoomOfOthers(t *testing.T) {
	t.Parallel()
	c := newCrowd()
	c.room = maxConnections
	const maxConnectionsPerUser = maxConnections / usersShare
	fill := func(user uint32) (n int, leave func()) {
		for {
			l, err := c.connect(user)
			if err != nil {
				if !errors.Is(err, errCrowded) {
					t.Error(err)
				}
				return n, leave
			}
			n, leave = n+1, l
		}
	}
	c.own = 7
	if n, leave := fill(1000); n != maxConnectionsPerUser {
		t.Errorf("one user has %d connections", n)
	} else {
		leave()
		leave() // a connection is closed more than once
	}
	if n, _ := fill(1000); n != 1 {
		t.Errorf("%d places for one that left", n)
	}
	if n, _ := fill(7); n != maxConnectionsPerUser*shareOfRoot {
		t.Errorf("the agent's own user has %d connections", n)
	}
	total := maxConnectionsPerUser * (1 + shareOfRoot)
	for user := uint32(2000); total < maxConnections; user++ {
		n, _ := fill(user)
		if n == 0 {
			t.Fatalf("%d connections are all", total)
		}
		total += n
	}
	if n, _ := fill(3000); n != 0 || total != maxConnections {
		t.Errorf("%d more beside %d", n, total)
	}
}

func TestAConnectionThatThereIsNoRoomForIsClosed(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accept := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	cc := newCallerCredentials(newCrowd())
	first, info, err := cc.ServerHandshake(accept())
	if err != nil {
		t.Fatal(err)
	}
	user := info.(*caller).user()
	for {
		if _, err := cc.crowd.connect(user); err != nil {
			break
		}
	}
	if _, _, err := cc.Clone().ServerHandshake(accept()); !errors.Is(err, errCrowded) {
		t.Errorf("one more: %v", err)
	}
	_ = first.Close()
	if _, _, err := cc.ServerHandshake(accept()); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

func TestTheStreamsOfOneCallerAreBounded(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	ctx, cancel := context.WithCancel(withHeader(context.Background(), "true"))
	defer cancel()
	open := func(wait time.Duration) error {
		ctx, cancel := context.WithCancel(ctx)
		late := time.AfterFunc(wait, cancel)
		st, err := c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
		if err != nil {
			return err
		}
		if _, err = st.Recv(); err == nil && !late.Stop() {
			err = context.Canceled
		}
		return err
	}
	for i := range maxCallsPerConnection {
		if err := open(20 * time.Second); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	if err := open(200 * time.Millisecond); err == nil {
		t.Error("one connection holds one more")
	}
	// Another connection of the same caller is served all the same.
	_, other := callAgent(t, a)
	if _, err := other.FetchJWTBundles(withHeader(t.Context(), "true"), &workload.JWTBundlesRequest{}); err != nil {
		t.Errorf("another connection: %v", err)
	}
}

func TestCallsOfAUserAreBounded(t *testing.T) {
	t.Parallel()
	c := newCrowd()
	var leave func()
	for i := range maxCallsPerUser {
		l, err := c.call(t.Context()) // of a caller that the kernel does not tell of
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		leave = l
	}
	if _, err := c.tap(t.Context(), nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	leave()
	ctx, end := context.WithCancel(t.Context())
	if _, err := c.tap(ctx, nil); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	end()
	eventually(t, "room, once that has ended too", func() bool {
		l, err := c.call(t.Context())
		if err == nil {
			l()
		}
		return err == nil
	})
}

func TestConnectionsLeaveDescriptorsForTheRest(t *testing.T) {
	t.Parallel()
	for descriptors, want := range map[uint64]int{1 << 20: maxConnections, 4096: 1920, 1024: 384, 500: 122, 256: usersShare, 10: usersShare} {
		if got := connectionsWith(descriptors); got != want {
			t.Errorf("%d descriptors: room for %d connections, want %d", descriptors, got, want)
		}
	}
}

// What a stranger may have the agent hold before anything is known of the call: raw
// HTTP/2, of headers that do not end in a message.
func TestCallsWithoutTheirMessageAreCountedAndHoldLittle(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	if n := dialRaw(t, a).calls(4, 2*maxWorkloadHeaders); n != 4 {
		t.Errorf("%d of 4 calls with large headers are refused", n)
	}
	const most = maxCallsPerUser * shareOfRoot // of the agent's own user
	refused := 0
	for range most/maxCallsPerConnection + 1 {
		refused += dialRaw(t, a).calls(maxCallsPerConnection, 100)
	}
	if refused != maxCallsPerConnection {
		t.Errorf("%d of %d calls beyond the room of a user are refused", refused, maxCallsPerConnection)
	}
}

// rawConn speaks HTTP/2 without a library that would end what it begins.
type rawConn struct {
	*testing.T
	*http2.Framer
}

func dialRaw(t *testing.T, a *Agent) rawConn {
	t.Helper()
	c, err := net.Dial("unix", a.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return rawConn{t, f}
}

// calls begins n unary calls, whose message does not come, with headers of so many
// bytes. It returns how many of them are over by the time that the agent has read
// them all.
func (r rawConn) calls(n, size int) int {
	r.Helper()
	for i := range n {
		var block bytes.Buffer
		e := hpack.NewEncoder(&block)
		for _, h := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", workload.SpiffeWorkloadAPI_FetchJWTSVID_FullMethodName}, {":authority", "localhost"},
			{"content-type", "application/grpc"}, {"te", "trailers"}, {securityHeader, "true"},
		} {
			_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		for range size / 100 {
			_ = e.WriteField(hpack.HeaderField{Name: "x-large", Value: strings.Repeat("x", 100), Sensitive: true})
		}
		stream, rest := uint32(2*i+1), block.Bytes()
		part := rest[:min(len(rest), 1<<14)]
		if err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: part, EndHeaders: len(part) == len(rest)}); err != nil {
			r.Fatal(err)
		}
		for rest = rest[len(part):]; len(rest) > 0; rest = rest[len(part):] {
			part = rest[:min(len(rest), 1<<14)]
			if err := r.WriteContinuation(stream, len(part) == len(rest), part); err != nil {
				r.Fatal(err)
			}
		}
	}
	if err := r.WritePing(false, [8]byte{1}); err != nil {
		r.Fatal(err)
	}
	over := map[uint32]bool{}
	for {
		f, err := r.ReadFrame()
		if err != nil {
			r.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if f.IsAck() && f.Data == [8]byte{1} {
				return len(over)
			}
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				over[f.StreamID] = true
			}
		case *http2.RSTStreamFrame:
			over[f.StreamID] = true
		}
	}
}

// With ever other audiences: the server is asked for so many at once, and who has a
// token already is served it.
func TestTokensThatAreMintedAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Fatal(err)
	}
	real := a.members[0].tokens.now
	a.members[0].tokens.now = func() time.Time { return real().Add(200 * time.Second) }
	underway := func(n int) (before int) {
		t := a.members[0].tokens
		t.crowd.mu.Lock()
		defer t.crowd.mu.Unlock()
		before, t.underway.all = t.underway.all, n
		return before
	}
	underway(maxMinting)
	for i := range 10 {
		if _, err := fetchToken(c, "", fmt.Sprint("other", i)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more: %v", err)
		}
	}
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Errorf("what is left of the one that is kept: %v", err)
	}
	if n := m.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	underway(0)
	if _, err := fetchToken(c, "", "other"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if n := underway(0); n != 0 {
		t.Errorf("%d are still counted", n)
	}
}
