// Package lease ends connections whose peer no longer passes, and asks those that
// will soon be of no use to end by themselves.
//
// A handshake is not a lease: what it verified may be denied, withdrawn or over a
// minute later, and HTTP/2 and gRPC keep connections for days. A [Conn] lies under
// TLS, where every library leaves it alone, and asks again while bytes go through.
// It ends what must end. What is only about to end, in order that nobody's call
// fails, is told so in HTTP/2's own words: GOAWAY (RFC 9113, section 6.8), after
// which a client opens another connection, and ends this one when the last of its
// calls is answered. A server behind a [Writer] says it; a client behind a [Reader]
// is told it, as if its server had.
package lease

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Every is how often a peer is asked about while bytes go through its connection.
const Every = time.Second

// Retire is when a connection that is open for so long, and can be of use until
// so long from now, should be replaced by another: when three quarters of what was
// left at its opening are over. A peer that has not renewed by then is met again
// after three quarters of the rest, so that nobody reconnects without end.
func Retire(left time.Duration) time.Duration { return left - left/4 }

// Conn is a connection whose peer is looked at again and again. Until Begin, that
// is, during the handshake, it is the connection that it was made of.
type Conn struct {
	net.Conn

	mu    sync.Mutex
	check func() error
	asked *atomic.Uint64 // requests; nil: they are not counted
	seen  uint64         // of them, when it was checked last
	last  time.Time      // when it was checked last
	err   error          // why it has ended
	timer *time.Timer
}

// New wraps a connection.
func New(c net.Conn) *Conn { return &Conn{Conn: c} }

// Begin has the peer, which has passed now, checked from here on: at most once a
// second, at the end of what is left, and before anything is written after the number
// of requests has risen, which may be nil. Its error ends the connection.
func (c *Conn) Begin(check func() error, left time.Duration, requests *atomic.Uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.check, c.asked, c.last = check, requests, time.Now()
	c.timer = time.AfterFunc(max(left, 0)+time.Millisecond, func() { _ = c.pass(true, false) })
}

// pass checks the peer if it is time to, if it must, or if it is to be written to and
// there was another request. It ends the connection of one that does not pass.
func (c *Conn) pass(must, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.check == nil {
		return c.err
	}
	asked := c.seen
	if write && c.asked != nil {
		asked = c.asked.Load()
	}
	if !must && asked == c.seen && time.Since(c.last) < Every {
		return nil
	}
	c.last, c.seen = time.Now(), asked
	if c.err = c.check(); c.err != nil {
		c.timer.Stop()
		_ = c.Conn.Close()
	}
	return c.err
}

// Read implements [net.Conn]. What comes from a peer that does not pass is not
// handed on.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		if e := c.pass(false, false); e != nil {
			return 0, e
		}
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil { // better than "use of closed network connection"
			return n, c.err
		}
	}
	return n, err
}

// Write implements [net.Conn]. Nothing goes to a peer that does not pass.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.pass(false, true); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// Close implements [net.Conn].
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// Clip is a stranger's text, as much of it as belongs into a log.
func Clip(s string) string {
	const most = 160
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
