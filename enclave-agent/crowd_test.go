package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestOneUserDoesNotTakeTheRoomOfOthers(t *testing.T) {
	t.Parallel()
	c := newCrowd()
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
	handler := func(context.Context, any) (any, error) { return nil, nil }
	if _, err := c.unary(t.Context(), nil, nil, handler); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	leave()
	for range 2 {
		if _, err := c.unary(t.Context(), nil, nil, handler); err != nil {
			t.Errorf("after one has ended: %v", err)
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
	a.members[0].tokens.mu.Lock()
	a.members[0].tokens.underway = maxMinting
	a.members[0].tokens.mu.Unlock()
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
	a.members[0].tokens.mu.Lock()
	a.members[0].tokens.underway = 0
	a.members[0].tokens.mu.Unlock()
	if _, err := fetchToken(c, "", "other"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	a.members[0].tokens.mu.Lock()
	defer a.members[0].tokens.mu.Unlock()
	if a.members[0].tokens.underway != 0 {
		t.Errorf("%d are still counted", a.members[0].tokens.underway)
	}
}
