package agent

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// What the processes of the machine may take of the agent at once. Everybody reaches
// the socket: without bounds one process could take the memory or the descriptors
// that everybody's renewal needs. A connection costs two descriptors, a call that
// waits for changes about 20 kB, and one whose message does not come 64 kB more.
const (
	maxConnections        = 2048
	maxCalls              = 4096
	maxCallsPerUser       = 512
	maxCallsPerConnection = 256 // Envoy opens one for each secret
	usersShare            = 8   // a user has an eighth of the connections
	descriptorsForOthers  = 256 // what is not a workload's connection
)

// shareOfRoot is how many times a user's share root has, and the agent's own user:
// whatever runs as they do, in containers too, and they own the machine anyway.
const shareOfRoot = 4

// nobodysUser stands for a caller that the kernel does not tell of.
const nobodysUser = ^uint32(0)

// crowd counts who is there, by user.
type crowd struct {
	room int // connections
	own  uint32

	mu          sync.Mutex
	connections tally
	calls       tally
	minting     tally
	signing     tally
	unread      tally // bytes that were sent, of calls that have not ended
}

type tally struct {
	all    int
	byUser map[uint32]int
}

// newCrowd has room for as many connections as the process may have descriptors for.
func newCrowd() *crowd {
	room := maxConnections
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		room = connectionsWith(limit.Cur)
	}
	return &crowd{room: room, own: uint32(os.Geteuid()), connections: newTally(), calls: newTally(), minting: newTally(), signing: newTally(), unread: newTally()}
}

func newTally() tally { return tally{byUser: map[uint32]int{}} }

// connectionsWith is how many connections there is room for with so many descriptors.
// A few workloads are served whatever the limit.
func connectionsWith(descriptors uint64) int {
	if descriptors >= descriptorsForOthers+2*maxConnections {
		return maxConnections
	}
	return max(usersShare, (int(descriptors)-descriptorsForOthers)/2)
}

var errCrowded = errors.New("too many at once")

// enter counts one more of a user; errCrowded where there is no room.
func (c *crowd) enter(t *tally, user uint32, most, mostOfUser int) (leave func(), err error) {
	return c.enterWith(t, user, 1, most, mostOfUser)
}

// enterWith counts n more.
func (c *crowd) enterWith(t *tally, user uint32, n, most, mostOfUser int) (leave func(), err error) {
	if c.owns(user) {
		mostOfUser *= shareOfRoot
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.all+n > most || t.byUser[user]+n > mostOfUser {
		return nil, errCrowded
	}
	t.all += n
	t.byUser[user] += n
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.all -= n
		if t.byUser[user] -= n; t.byUser[user] == 0 {
			delete(t.byUser, user)
		}
	}), nil
}

// owns reports whether the user is root, or the agent's own.
func (c *crowd) owns(user uint32) bool { return user == 0 || user == c.own }

func (c *crowd) connect(user uint32) (leave func(), err error) {
	return c.enter(&c.connections, user, c.room, c.room/usersShare)
}

func (c *crowd) call(ctx context.Context) (leave func(), err error) {
	leave, err = c.enter(&c.calls, callerOf(ctx).user(), maxCalls, maxCallsPerUser)
	if err != nil {
		return nil, status.Error(codes.ResourceExhausted, "too many calls of this user are in flight")
	}
	return leave, nil
}

// tap counts a call from its headers on, and until its stream ends: interceptors see
// a call only once its message has come, which it may never do.
func (c *crowd) tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	leave, err := c.call(ctx)
	if err != nil {
		return nil, err
	}
	u := &unread{crowd: c, ctx: ctx}
	context.AfterFunc(ctx, func() {
		leave()
		u.end()
	})
	return context.WithValue(ctx, unreadKey{}, u), nil
}

// user is whose process the caller is.
func (c *caller) user() uint32 {
	if c == nil {
		return nobodysUser
	}
	return c.uid
}
