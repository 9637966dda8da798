package issuer

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
)

// visitors is a listener of whoever is put into it.
type visitors chan net.Conn

func (c visitors) Accept() (net.Conn, error) { return <-c, nil }
func (visitors) Close() error                { return nil }
func (visitors) Addr() net.Addr              { return &net.TCPAddr{} }

type visitor struct {
	net.Conn
	from   netip.AddrPort
	closed atomic.Bool
}

func (c *visitor) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }
func (c *visitor) Close() error         { c.closed.Store(true); return nil }

// Relying parties that cannot fetch the deny-list for an hour accept nobody: who
// holds every connection must not keep them out.
func TestWhoeverHoldsEveryPlaceOfThePublicDocumentsKeepsNobodyOut(t *testing.T) {
	in := make(visitors, 1)
	l := readers(in, webConnectionsPerAddress)
	come := func(from string, port int) *visitor {
		t.Helper()
		c := &visitor{from: netip.MustParseAddrPort(fmt.Sprintf("%s:%d", from, port))}
		in <- c
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	var held []*visitor
	for i := range webConnections {
		held = append(held, come(fmt.Sprintf("10.0.0.%d", i/webConnectionsPerAddress), 1024+i))
	}
	const n = webConnectionsPerAddress / 2
	var readers []*visitor
	for i := range n {
		readers = append(readers, come("192.0.2.7", 1024+i))
	}
	closed := func(all []*visitor) (n int) {
		for _, c := range all {
			if c.closed.Load() {
				n++
			}
		}
		return n
	}
	if got := closed(readers); got != 0 {
		t.Errorf("%d of the reader's connections were closed", got)
	}
	if got := closed(held); got != n {
		t.Errorf("%d of those who held every place made room, want %d", got, n)
	}
}
