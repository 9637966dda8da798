package svid

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"sync"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// sessionMark begins what judgeSessions puts into a session.
var sessionMark = []byte("assay peer\x00")

// judgeSessions has a server take up only those sessions whose client would pass
// today. A session shows the certificate that its client had at the beginning, and
// each ticket leads to the next: to refuse the connection over it, as
// VerifyConnection would, locks out a client that has long renewed. Not to take the
// session up makes it a full handshake, in which the client shows what it has now.
func (t TLS) judgeSessions(cfg *tls.Config) {
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		extra := bytes.Clone(sessionMark)
		for _, c := range cs.PeerCertificates {
			extra = append(extra, c.Raw...)
		}
		ss.Extra = append(ss.Extra, extra)
		return cfg.EncryptTicket(cs, ss)
	}
	cfg.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := cfg.DecryptTicket(ticket, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		chain, ok := takeChain(ss)
		if !ok {
			return nil, nil
		}
		if len(chain) == 0 {
			return ss, nil // a client that shows tokens
		}
		cs.Version, cs.PeerCertificates = tls.VersionTLS13, chain // whatever is older was not spoken here
		if t.verifyConnection(cs) != nil {
			return nil, nil
		}
		return ss, nil
	}
}

// takeChain is the client's chain, which WrapSession has put into a session.
func takeChain(ss *tls.SessionState) ([]*x509.Certificate, bool) {
	for i, extra := range ss.Extra {
		der, ours := bytes.CutPrefix(extra, sessionMark)
		if !ours {
			continue
		}
		ss.Extra = append(ss.Extra[:i:i], ss.Extra[i+1:]...)
		chain, err := x509.ParseCertificates(der)
		return chain, err == nil
	}
	return nil, false
}

// NewSessionCache remembers the TLS sessions of a client as long as it shows one and
// the same SVID: tls.Config.ClientSessionCache. One who has renewed has no session
// yet, and is seen with its new certificate at its next connection. Size is how many
// are remembered; zero is crypto/tls's own choice.
func NewSessionCache(own x509svid.Source, size int) tls.ClientSessionCache {
	return &sessionCache{own: own, sessions: tls.NewLRUClientSessionCache(size)}
}

type sessionCache struct {
	own      x509svid.Source
	sessions tls.ClientSessionCache

	mu    sync.Mutex
	shown string // of our certificate, when a handshake began last
}

// name is our own certificate; empty where there is none to be had.
func (c *sessionCache) name() string {
	if c.own == nil {
		return "none"
	}
	own, err := c.own.GetX509SVID()
	if err != nil || own == nil || len(own.Certificates) == 0 {
		return ""
	}
	sum := sha256.Sum256(own.Certificates[0].Raw)
	return hex.EncodeToString(sum[:])
}

// Get implements [tls.ClientSessionCache]. A handshake begins with it.
func (c *sessionCache) Get(key string) (*tls.ClientSessionState, bool) {
	name := c.name()
	c.mu.Lock()
	c.shown = name
	c.mu.Unlock()
	if name == "" {
		return nil, false
	}
	return c.sessions.Get(name + " " + key)
}

// Put implements [tls.ClientSessionCache]. Tickets come after the handshake, when we
// may have renewed.
func (c *sessionCache) Put(key string, session *tls.ClientSessionState) {
	c.mu.Lock()
	name := c.shown
	c.mu.Unlock()
	if name != "" {
		c.sessions.Put(name+" "+key, session)
	}
}
