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
	limitBytes   = "bytes"
	// limitDisplaced is another's place that was taken over, because it was kept
	// waiting there for longest.
	limitDisplaced = "displaced"
)

// resize changes the limits. Who is inside stays inside.
func (g *gate) resize(limit, perAddress int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.max, g.maxPerAddress = limit, perAddress
}

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

// limitedListener closes connections beyond a limit, before anything is read
// from them. A total bounds all; of those on which nobody has proved anything
// yet, one address has a part only, so that it cannot take every place. Which
// trust domain a connection belongs to is known later, in the handshake.
type limitedListener struct {
	net.Listener // set before the first Accept
	all          *gate
	strangers    *gate
	refused      func(limit string)

	mu    sync.Mutex
	count uint64                  // of all that ever came
	open  map[string]*limitedConn // by the client's address and port
	held  map[string]int          // by who vouches for them
}

// maxVouched is how many connections one instance vouches for. Further ones of its
// own are strangers', and make room when it is needed: an agent has one for its
// watch, one to attest on, and one for the tokens of each identity.
const maxVouched = 48

func newLimitedListener(all, strangers *gate, refused func(string)) *limitedListener {
	return &limitedListener{all: all, strangers: strangers, refused: refused, open: map[string]*limitedConn{}, held: map[string]int{}}
}

// Accept returns the next connection that there is room for.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, limit := l.all.enter("")
		if limit != "" && l.evict(nil) {
			leave, limit = l.all.enter("")
		}
		if limit != "" {
			l.refused(limit)
			_ = c.Close()
			continue
		}
		known, limit := l.strangers.enter(addressOf(c.RemoteAddr()))
		if limit != "" {
			leave()
			l.refused(limit)
			_ = c.Close()
			continue
		}
		out := &limitedConn{Conn: c, listener: l, leave: leave, known: known}
		l.mu.Lock()
		l.count++
		out.number = l.count
		l.open[c.RemoteAddr().String()] = out
		l.mu.Unlock()
		return out, nil
	}
}

// evict closes a connection on which nobody has proved anything, so that another
// finds room: of the address that holds most of them, the oldest. server is whose
// it must be; nil is anybody's. It reports whether there was one.
func (l *limitedListener) evict(server *Server) bool {
	type corner struct {
		n      int
		oldest *limitedConn
	}
	corners := map[string]*corner{}
	var most *corner
	l.mu.Lock()
	for _, c := range l.open {
		if c.who != "" || server != nil && !c.belongsTo(server) {
			continue
		}
		address := addressOf(c.RemoteAddr())
		x := corners[address]
		if x == nil {
			x = &corner{}
			corners[address] = x
		}
		if x.n++; x.oldest == nil || c.number < x.oldest.number {
			x.oldest = c
		}
		if most == nil || x.n > most.n {
			most = x
		}
	}
	l.mu.Unlock()
	if most == nil {
		return false
	}
	l.refused(limitDisplaced)
	_ = most.oldest.Close()
	return true
}

// vouched says that somebody on the connection has proved who it is: by
// evidence that verified, or by a live SVID. One who vouches for very many
// connections vouches for no more.
func (l *limitedListener) vouched(client net.Addr, who string) {
	l.mu.Lock()
	c := l.open[client.String()]
	if c == nil || c.who != "" || l.held[who] >= maxVouched {
		l.mu.Unlock()
		return
	}
	c.who = who
	l.held[who]++
	l.mu.Unlock()
	c.vouched()
}

// closeAll closes the connections of one trust domain.
func (l *limitedListener) closeAll(s *Server) {
	l.mu.Lock()
	var of []*limitedConn
	for _, c := range l.open {
		if c.belongsTo(s) {
			of = append(of, c)
		}
	}
	l.mu.Unlock()
	for _, c := range of {
		_ = c.Close()
	}
}

type limitedConn struct {
	net.Conn
	listener *limitedListener
	leave    func() // the total
	known    func() // the strangers
	number   uint64 // in the order of coming

	who string // vouches for it; under the listener's lock

	mu       sync.Mutex
	closed   bool
	stranger bool    // and counted as one of the server's
	server   *Server // whose certificate the client is shown; nil until it is known
	leaves   func()  // the server's share
}

// join makes the connection a trust domain's, if it has room for one more.
func (c *limitedConn) join(s *Server) (limit string) {
	leaves, limit := s.connections.enter("")
	if limit != "" && c.listener.evict(s) {
		leaves, limit = s.connections.enter("")
	}
	if limit != "" {
		return limitShare
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		leaves()
		return limitShare
	}
	c.server, c.leaves, c.stranger = s, leaves, true
	s.strangers.Add(1)
	return ""
}

func (c *limitedConn) belongsTo(s *Server) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server == s
}

func (c *limitedConn) vouched() {
	c.known()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noStranger()
}

// noStranger is called with the lock held.
func (c *limitedConn) noStranger() {
	if c.stranger {
		c.stranger = false
		c.server.strangers.Add(-1)
	}
}

// Close makes room for another connection.
func (c *limitedConn) Close() error {
	c.listener.mu.Lock()
	if key := c.RemoteAddr().String(); c.listener.open[key] == c {
		delete(c.listener.open, key)
		if c.who != "" {
			if c.listener.held[c.who]--; c.listener.held[c.who] == 0 {
				delete(c.listener.held, c.who)
			}
		}
	}
	c.listener.mu.Unlock()
	c.known()
	c.leave()
	c.mu.Lock()
	c.closed = true
	c.noStranger()
	if c.leaves != nil {
		c.leaves()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}
