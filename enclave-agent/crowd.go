package agent

import (
	"context"
	"errors"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What the processes of the machine may take of the agent at once. Everybody reaches
// the socket: without bounds one process could take the memory or the descriptors
// that everybody's renewal needs. A connection costs two descriptors, a call that
// waits for changes about 20 kB.
const (
	maxConnections        = 2048
	maxConnectionsPerUser = 256
	maxCalls              = 8192
	maxCallsPerUser       = 1024
	maxCallsPerConnection = 256 // Envoy opens one for each secret
)

// shareOfRoot is how many times a user's share root has, and the agent's own user:
// whatever runs as they do, in containers too, and they own the machine anyway.
const shareOfRoot = 4

// nobodysUser stands for a caller that the kernel does not tell of.
const nobodysUser = ^uint32(0)

// crowd counts who is there, by user.
type crowd struct {
	mu          sync.Mutex
	own         uint32
	connections tally
	calls       tally
}

type tally struct {
	all    int
	byUser map[uint32]int
}

func newCrowd() *crowd {
	return &crowd{own: uint32(os.Geteuid()), connections: tally{byUser: map[uint32]int{}}, calls: tally{byUser: map[uint32]int{}}}
}

var errCrowded = errors.New("too many at once")

// enter counts one more of a user; errCrowded where there is no room.
func (c *crowd) enter(t *tally, user uint32, most, mostOfUser int) (leave func(), err error) {
	if user == 0 || user == c.own {
		mostOfUser *= shareOfRoot
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.all >= most || t.byUser[user] >= mostOfUser {
		return nil, errCrowded
	}
	t.all++
	t.byUser[user]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.all--
		if t.byUser[user]--; t.byUser[user] == 0 {
			delete(t.byUser, user)
		}
	}), nil
}

func (c *crowd) connect(user uint32) (leave func(), err error) {
	return c.enter(&c.connections, user, maxConnections, maxConnectionsPerUser)
}

func (c *crowd) call(ctx context.Context) (leave func(), err error) {
	leave, err = c.enter(&c.calls, callerOf(ctx).user(), maxCalls, maxCallsPerUser)
	if err != nil {
		return nil, status.Error(codes.ResourceExhausted, "too many calls of this user are in flight")
	}
	return leave, nil
}

func (c *crowd) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	leave, err := c.call(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return next(ctx, req)
}

func (c *crowd) stream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	leave, err := c.call(s.Context())
	if err != nil {
		return err
	}
	defer leave()
	return next(srv, s)
}

// user is whose process the caller is.
func (c *caller) user() uint32 {
	if c == nil || c.process == nil {
		return nobodysUser
	}
	return c.process.UID
}
