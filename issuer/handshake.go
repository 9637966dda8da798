package issuer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// maxHandshake bounds what a client may send until the handshake is over: a
	// ClientHello (2 KiB with the key exchanges of today), its certificates, a
	// signature. The largest SVID has less than 6 KiB.
	maxHandshake = 24 << 10 // bytes

	// A client certificate is kept for the life of the connection, as bytes and
	// parsed. The parsed form is about as large as the bytes when there are few
	// names and no lists of other kinds in it.
	maxPeerCertificates = 4
	maxPeerCertificate  = 8 << 10 // bytes, of each
	maxPeerNames        = 16      // of each list in it
)

// closingGrace is how long after its SVID's end a connection is closed: what
// runs on it ends with the SVID, and can say so.
const closingGrace = 5 * time.Second

// frontCredentials bounds the handshakes in flight, what is read in one, and
// what of it is kept: a handshake costs the server a signature, and the
// stranger who asks for it nothing. Where there is no room, who comes takes the
// place of who has kept the server waiting longest: to say nothing keeps nobody
// out. A connection that was opened with a live SVID ends with it.
type frontCredentials struct {
	credentials.TransportCredentials
	front *Front
}

var (
	errTooManyHandshakes = errors.New("too many TLS handshakes in flight")
	errHandshakeSize     = fmt.Errorf("more than %d bytes in a TLS handshake", maxHandshake)
	errPeerCertificate   = errors.New("a client certificate that no SVID is like")
)

// ServerHandshake runs one handshake if there is room. The time it may take is
// gRPC's ConnectionTimeout.
func (c *frontCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	bounded := &handshakeConn{Conn: raw, left: maxHandshake}
	defer bounded.over()
	displaced, limit := bounded.enter(c.front.handshakes)
	switch {
	case limit != "":
		c.front.refused("handshake", limit)
		return nil, nil, errTooManyHandshakes // gRPC closes raw
	case displaced != "":
		c.front.refused("handshake", limitDisplaced)
	}
	conn, info, err := c.TransportCredentials.ServerHandshake(bounded)
	if err != nil {
		refused := c.front.refused
		if s := bounded.server; s != nil {
			refused = func(what, limit string) { s.metrics.limited.WithLabelValues(what, limit).Inc() }
		}
		switch {
		case errors.Is(err, errHandshakeSize):
			refused("handshake", limitBytes)
		case errors.Is(err, errPeerCertificate):
			refused("handshake", "certificate")
		}
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok || bounded.server == nil {
		return nil, nil, errors.New("a handshake of no trust domain")
	}
	bounded.established(c.lasts(t, bounded.server))
	return conn, shown{t, bounded.server}, nil
}

// Clone keeps the limits.
func (c *frontCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	clone.TransportCredentials = c.TransportCredentials.Clone()
	return &clone
}

// lasts is how long the connection may last because of the certificate that it
// was opened with; 0 is no limit (gRPC's MaxConnectionAge is another). Who shows
// a certificate that has ended has no SVID here that could end, and may attest.
func (c *frontCredentials) lasts(t credentials.TLSInfo, s *Server) time.Duration {
	if len(t.State.PeerCertificates) == 0 {
		return 0
	}
	left := t.State.PeerCertificates[0].NotAfter.Sub(s.now())
	if left <= 0 {
		return 0
	}
	return left + time.Duration(s.closingGrace.Load())
}

// handshakeConn is a connection of which only so much can be read until its
// handshake is over, and which closes itself when its time is up.
type handshakeConn struct {
	net.Conn
	left   int      // used by the handshake alone, which reads in one goroutine
	server *Server  // of the trust domain that was asked for; nil until it is known
	places []*place // in the process's room for handshakes, and in the trust domain's
	done   atomic.Bool
	end    *time.Timer // nil for no limit; set before anybody else has the connection
}

// join makes handshake and connection a trust domain's, if it has room.
func (c *handshakeConn) join(s *Server) (limit string) {
	if l, ok := c.Conn.(*limitedConn); ok {
		if limit := l.join(s); limit != "" {
			return limit
		}
	}
	displaced, limit := c.enter(s.handshakes)
	switch {
	case limit != "":
		return limitShare
	case displaced != "":
		s.metrics.limited.WithLabelValues("handshake", limitDisplaced).Inc()
	}
	if !c.keep() {
		return limitShare
	}
	c.server = s
	return ""
}

// enter takes a place in a room for handshakes, perhaps that of another.
func (c *handshakeConn) enter(room *waitingRoom) (displaced, limit string) {
	p, displaced, limit := room.enter(addressOf(c.RemoteAddr()), func() { _ = c.Conn.Close() })
	if p != nil {
		c.places = append(c.places, p)
	}
	return displaced, limit
}

// keep says that what is left is for the server to do; false where another has
// taken the place.
func (c *handshakeConn) keep() bool {
	for _, p := range c.places {
		if !p.keep() {
			return false
		}
	}
	return true
}

// over says that the handshake has ended.
func (c *handshakeConn) over() {
	for _, p := range c.places {
		p.leave()
	}
}

// Read implements net.Conn.
func (c *handshakeConn) Read(p []byte) (int, error) {
	if c.done.Load() {
		return c.Conn.Read(p)
	}
	if c.left <= 0 {
		return 0, errHandshakeSize
	}
	for _, x := range c.places { // the client is waited for
		if !x.wait() {
			return 0, errTooManyHandshakes
		}
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	if !c.keep() {
		return 0, errTooManyHandshakes
	}
	return n, err
}

// established lifts the limit on reading, and closes the connection after a
// time, if it is not 0.
func (c *handshakeConn) established(lasts time.Duration) {
	if lasts > 0 {
		c.end = time.AfterFunc(lasts, func() { _ = c.Conn.Close() })
	}
	c.done.Store(true)
}

// Close implements net.Conn.
func (c *handshakeConn) Close() error {
	if c.end != nil {
		c.end.Stop()
	}
	return c.Conn.Close()
}

// checkPeer refuses, in the handshake, client certificates that take more room
// than an SVID's could. Whether one is a live SVID is asked in each RPC that
// needs one.
func checkPeer(state tls.ConnectionState) error {
	if n := len(state.PeerCertificates); n > maxPeerCertificates {
		return fmt.Errorf("%w: a chain of %d", errPeerCertificate, n)
	}
	for _, cert := range state.PeerCertificates {
		if err := checkPeerCertificate(cert); err != nil {
			return fmt.Errorf("%w: %w", errPeerCertificate, err)
		}
	}
	return nil
}

func checkPeerCertificate(c *x509.Certificate) error {
	if n := len(c.Raw); n > maxPeerCertificate {
		return fmt.Errorf("%d bytes", n)
	}
	// Every list that crypto/x509 makes of the bytes of a certificate.
	for what, n := range map[string]int{
		"names in the subject":        len(c.Subject.Names),
		"names in the issuer":         len(c.Issuer.Names),
		"subject alternative names":   len(c.URIs) + len(c.DNSNames) + len(c.EmailAddresses) + len(c.IPAddresses),
		"extensions":                  len(c.Extensions),
		"usages":                      len(c.ExtKeyUsage) + len(c.UnknownExtKeyUsage),
		"policies":                    len(c.Policies) + len(c.PolicyIdentifiers) + len(c.PolicyMappings),
		"places to ask":               len(c.OCSPServer) + len(c.IssuingCertificateURL) + len(c.CRLDistributionPoints),
		"permitted names":             len(slices.Concat(c.PermittedDNSDomains, c.PermittedEmailAddresses, c.PermittedURIDomains)) + len(c.PermittedIPRanges),
		"excluded names":              len(slices.Concat(c.ExcludedDNSDomains, c.ExcludedEmailAddresses, c.ExcludedURIDomains)) + len(c.ExcludedIPRanges),
		"unhandled critical elements": len(c.UnhandledCriticalExtensions),
	} {
		if n > maxPeerNames {
			return fmt.Errorf("%d %s", n, what)
		}
	}
	return nil
}
