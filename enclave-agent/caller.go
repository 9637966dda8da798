package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/enclave-agent/process"
)

// caller is the process at the other end of a connection, pinned when it
// connected.
type caller struct {
	credentials.CommonAuthInfo
	conn    net.Conn
	uid     uint32           // nobodysUser where the kernel does not tell
	process *process.Process // nil where the kernel does not tell more
	err     error            // why it does not

	mu     sync.Mutex
	logged map[string]bool // what the log says of it already
}

// AuthType implements credentials.AuthInfo.
func (*caller) AuthType() string { return "peercred" }

// callerOf is the caller of a call; nil where it came by another way.
func callerOf(ctx context.Context) *caller {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*caller); ok {
			return c
		}
	}
	return nil
}

// once reports whether the log has not been told yet.
func (c *caller) once(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.logged[what] || len(c.logged) >= 64 {
		return false
	}
	if c.logged == nil {
		c.logged = map[string]bool{}
	}
	c.logged[what] = true
	return true
}

// callerCredentials pin the process of each connection as it is accepted. They
// refuse those for whom there is no room, and nobody else: who may have what is
// decided for each message.
type callerCredentials struct {
	credentials.TransportCredentials
	crowd *crowd
}

func newCallerCredentials(c *crowd) callerCredentials {
	return callerCredentials{insecure.NewCredentials(), c}
}

// ServerHandshake implements credentials.TransportCredentials.
func (cc callerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c := &caller{conn: conn, uid: nobodysUser, err: errors.New("not a unix socket")}
	if u, ok := conn.(*net.UnixConn); ok {
		// Of a process that has ended, or is in another namespace, the user is known
		// all the same: it takes that user's room, and nobody else's.
		if uid, err := process.UserOfPeer(u); err == nil {
			c.uid = uid
		}
		c.process, c.err = process.OfPeer(u)
	}
	leave, err := cc.crowd.connect(c.user())
	if err != nil {
		if c.process != nil {
			c.process.Close()
		}
		return nil, nil, err
	}
	return &callerConn{conn, c.process, leave}, c, nil
}

// Clone implements credentials.TransportCredentials.
func (cc callerCredentials) Clone() credentials.TransportCredentials {
	return newCallerCredentials(cc.crowd)
}

// callerConn lets go of the process with the connection.
type callerConn struct {
	net.Conn
	process *process.Process
	leave   func()
}

// Close implements net.Conn.
func (c *callerConn) Close() error {
	c.leave()
	if c.process != nil {
		c.process.Close()
	}
	return c.Conn.Close()
}

// gatekeeper decides which of the agent's identities a caller may have.
type gatekeeper struct {
	set   *process.Set
	log   *slog.Logger
	lines *userRates
}

// linesPerSecond is how many lines of the log a user's connections may cause. Making
// connections costs nothing, and the log is in memory, or on a disk.
const linesPerSecond = 10

func newGatekeeper(set *process.Set, log *slog.Logger) *gatekeeper {
	return &gatekeeper{set, log, newUserRates(linesPerSecond, 5*linesPerSecond)}
}

// say reports whether the log is told something of a caller: once for each connection,
// and not too often of its user.
func (g *gatekeeper) say(ctx context.Context, c *caller, what string) bool {
	if !c.once(what) {
		return false
	}
	ok, before := g.lines.allow(c.user(), time.Now())
	if ok && before > 0 {
		g.log.WarnContext(ctx, "lines of the log about a user's connections were left out: there were too many", "uid", c.user(), "lines", before)
	}
	return ok
}

// goodbye is how long an answer has to reach a caller whose connection is about to
// be closed.
const goodbye = 100 * time.Millisecond

// judge picks those SVIDs that the caller of ctx may have: those without selectors, and
// those whose selectors it shows, all of them. A caller that ended, or runs another
// program or user than when it connected, gets nothing more, and loses the
// connection: whoever it is now connects anew. The error is a status.
func (g *gatekeeper) judge(ctx context.Context, all []*svid) ([]*svid, error) {
	c := callerOf(ctx)
	if c != nil && c.process != nil {
		if err := c.process.Unchanged(); err != nil {
			return nil, g.dismiss(ctx, c, err)
		}
	}
	var wanted []process.Fact
	for _, v := range all {
		wanted = append(wanted, v.facts()...)
	}
	if len(wanted) == 0 {
		return all, nil
	}
	seen, err := g.look(ctx, c, wanted)
	if err != nil {
		return nil, err
	}
	var out []*svid
	for _, v := range all {
		facts := v.facts()
		if !seen.Matches(facts) {
			continue
		}
		out = append(out, v)
		if id := v.id.String(); len(facts) > 0 && g.say(ctx, c, "may "+id) {
			g.log.InfoContext(ctx, "a process gets an identity by what it shows", "spiffe_id", id, "pid", c.process.PID, "uid", c.process.UID, "shows", texts(facts))
		}
	}
	if len(out) == 0 && c != nil && c.process != nil && g.say(ctx, c, "nothing") {
		g.log.InfoContext(ctx, "a process shows what no identity selects", "pid", c.process.PID, "uid", c.process.UID, "shows", texts(seen.Facts))
	}
	return out, nil
}

// look asks what the caller shows. Of one that the kernel does not tell of, nothing
// is known.
func (g *gatekeeper) look(ctx context.Context, c *caller, wanted []process.Fact) (*process.Sight, error) {
	if c == nil || c.process == nil {
		if c != nil && g.say(ctx, c, "unknown") {
			g.log.WarnContext(ctx, "who calls cannot be told: identities with selectors are kept from them", "error", c.err.Error())
		}
		return &process.Sight{}, nil
	}
	seen, err := g.set.Look(ctx, c.process, wanted)
	if err != nil {
		return nil, g.dismiss(ctx, c, err)
	}
	for _, p := range seen.Problems {
		if g.say(ctx, c, p.Error()) {
			g.log.WarnContext(ctx, "what a process shows cannot all be told: what selects by it does not match", "pid", c.process.PID, "error", clip(p.Error()))
		}
	}
	return seen, nil
}

// dismiss ends the connection of a caller that is not what it was.
func (g *gatekeeper) dismiss(ctx context.Context, c *caller, err error) error {
	if !errors.Is(err, process.ErrChanged) {
		return status.Error(codes.Unavailable, "who calls cannot be told now")
	}
	if c.once("changed") {
		if g.say(ctx, c, "changed, said") {
			g.log.WarnContext(ctx, "a process is not what it was when it connected: it gets nothing more", "pid", c.process.PID, "uid", c.process.UID)
		}
		time.AfterFunc(goodbye, func() { _ = c.conn.Close() })
	}
	return status.Error(codes.PermissionDenied, "this process is not what it was when it connected: connect again")
}

// facts are the selectors as a process would show them.
func (s *svid) facts() []process.Fact {
	out := make([]process.Fact, len(s.selectors))
	for i, x := range s.selectors {
		out[i] = process.Fact{Type: x.GetType(), Value: x.GetValue()}
	}
	return out
}

func texts(facts []process.Fact) string {
	var out []string
	for _, f := range facts {
		out = append(out, f.String())
	}
	slices.Sort(out)
	return strings.Join(out[:min(len(out), maxSelectors)], " ")
}
