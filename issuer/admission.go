package issuer

import (
	"net"
	"net/netip"
	"sync"
)

// gate bounds how many strangers are inside at once, all together and from one
// address. It never limits how often an address comes: a NAT is many agents.
type gate struct {
	max, maxPerAddress int

	mu        sync.Mutex
	n         int
	byAddress map[string]int
}

func newGate(limit, perAddress int) *gate {
	return &gate{max: limit, maxPerAddress: perAddress, byAddress: map[string]int{}}
}

// Which limit turned somebody away.
const (
	limitTotal   = "total"
	limitAddress = "address"
)

// enter lets one in and returns how it leaves, which may be called many times;
// or it returns the limit that was reached.
func (g *gate) enter(address string) (leave func(), limit string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.n >= g.max:
		return nil, limitTotal
	case g.byAddress[address] >= g.maxPerAddress:
		return nil, limitAddress
	}
	g.n++
	g.byAddress[address]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.n--
		if g.byAddress[address]--; g.byAddress[address] == 0 {
			delete(g.byAddress, address)
		}
	}), ""
}

// inside is how many are inside now.
func (g *gate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// addressOf returns what limits are counted by: the IPv4 address, or the /64 of
// an IPv6 address, which is the least that one host is given.
func addressOf(a net.Addr) string {
	if a == nil {
		return ""
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.Network()
	}
	ip := ap.Addr().Unmap()
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// limitedListener closes connections beyond a total, before anything is read
// from them.
type limitedListener struct {
	net.Listener
	gate    *gate
	refused func(limit string)
}

// Accept returns the next connection that there is room for.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, limit := l.gate.enter("")
		if limit == "" {
			return &limitedConn{Conn: c, leave: leave}, nil
		}
		l.refused(limit)
		_ = c.Close()
	}
}

type limitedConn struct {
	net.Conn
	leave func()
}

// Close makes room for another connection.
func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
