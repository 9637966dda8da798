package svidhttp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/internal/lease"
)

// Transport is that of a client which shows its own SVID (nil: none) and demands an
// attested SVID of every server, whose name is its SPIFFE ID: require svid.ID, or
// svid.MemberOf. Over http nothing is sent.
//
// A server that passed in the handshake and passes no longer, since it was denied or
// has grown too old, gets no further request: the connection ends. What is about to
// end, by the server's SVID or by ours, is left for a new connection in time.
func Transport(own x509svid.Source, src svid.Source, require ...svid.Requirement) *RoundTripper {
	return &RoundTripper{TLS: svid.TLS{Own: own, Source: src, Require: require}}
}

// RoundTripper is what [Transport] makes. Its fields are set before it is used.
type RoundTripper struct {
	svid.TLS
	// Configure, if set, changes what its connections are kept in: limits, timeouts,
	// how to dial (DialContext). It may be called several times. What it says of TLS,
	// of proxies, and of HTTP/2 but for ForceAttemptHTTP2 (false: HTTP/1.1 alone), has
	// no effect.
	Configure func(*http.Transport)

	mu  sync.Mutex
	now *pool
}

// pool is the connections that were opened with one SVID of ours. When that is
// renewed, or the first of them should be replaced, a new pool takes its place, and
// the old one is left to end: what is under way there is answered.
type pool struct {
	*http.Transport
	own    *x509.Certificate // nil: none was shown
	retire atomic.Int64      // the time, in Unix nanoseconds; zero: none yet

	requests atomic.Uint64 // before each, its server is looked at
	ended    sync.Map      // of address to error: whose connection had to end last, and why
}

// RoundTrip implements [http.RoundTripper].
func (t *RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL == nil || r.URL.Scheme != "https" {
		closeBody(r)
		return nil, errors.New("svidhttp: only an https server can show an SVID")
	}
	p := t.pool()
	p.requests.Add(1)
	resp, err := p.RoundTrip(r)
	if err != nil && attest.CheckOf(err) == "" {
		// net/http may know no more than that the connection has ended.
		if why, ok := p.ended.Load(address(r)); ok {
			err = fmt.Errorf("%w: %w", why.(error), err) //nolint:forcetypeassert // nothing else is stored
		}
	}
	return resp, err
}

// address is where net/http dials for a request.
func address(r *http.Request) string {
	if r.URL.Port() != "" {
		return r.URL.Host
	}
	return net.JoinHostPort(r.URL.Hostname(), "443")
}

// CloseIdleConnections is called by [http.Client.CloseIdleConnections].
func (t *RoundTripper) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil {
		t.now.CloseIdleConnections()
	}
}

func (t *RoundTripper) pool() *pool {
	own := t.leaf()
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.now; p != nil {
		if at := p.retire.Load(); (own == nil || own.Equal(p.own)) && (at == 0 || time.Now().UnixNano() < at) {
			return p
		}
		defer p.CloseIdleConnections()
	}
	t.now = t.newPool(own)
	return t.now
}

// leaf is our certificate as it is now; nil where there is none to be had, which is
// for the handshake to say.
func (t *RoundTripper) leaf() *x509.Certificate {
	if t.Own == nil {
		return nil
	}
	own, err := t.Own.GetX509SVID()
	if err != nil || own == nil || len(own.Certificates) == 0 {
		return nil
	}
	return own.Certificates[0]
}

// newPool has the values of http.DefaultTransport, and nothing of what the program
// may have made of that.
func (t *RoundTripper) newPool(own *x509.Certificate) *pool {
	p := &pool{own: own, Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}}
	if t.Configure != nil {
		t.Configure(p.Transport)
	}
	cfg := t.Client()
	cfg.NextProtos = []string{"http/1.1"}
	if p.ForceAttemptHTTP2 {
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	p.Proxy = nil // it would end the connection whose peer is to be checked
	p.TLSClientConfig, p.TLSNextProto, p.Protocols = nil, nil, nil
	p.DialTLS = nil
	raw, timeout := p.DialContext, p.TLSHandshakeTimeout
	if raw == nil {
		raw = new(net.Dialer).DialContext
	}
	p.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := raw(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return t.handshake(ctx, p, c, cfg, address)
	}
	return p
}

// handshake is TLS over a connection that is looked at from then on.
func (t *RoundTripper) handshake(ctx context.Context, p *pool, raw net.Conn, cfg *tls.Config, address string) (net.Conn, error) {
	cfg = cfg.Clone()
	if host, _, err := net.SplitHostPort(address); err == nil {
		cfg.ServerName = host
	}
	under := lease.New(raw)
	c := tls.Client(under, cfg)
	err := c.HandshakeContext(ctx)
	cs := c.ConnectionState()
	var server *svid.Attested
	if err == nil {
		server, err = t.Peer(cs)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("svidhttp: %s: %w", address, err)
	}
	left := t.Left(server)
	under.Begin(func() error {
		_, err := t.Peer(cs)
		if err != nil {
			p.ended.Store(address, fmt.Errorf("svidhttp: %s: %w", address, err))
		}
		return err
	}, left, &p.requests)
	retire := lease.Retire(left)
	if p.own != nil {
		now := server.Until(t.Require...).Add(-left)
		// One that has ended has nothing after it to hurry for: only another one helps.
		if mine := p.own.NotAfter.Sub(now); mine > 0 {
			retire = min(retire, lease.Retire(mine))
		}
	}
	p.retireAt(time.Now().Add(retire).UnixNano())
	return c, nil
}

// retireAt keeps the earliest.
func (p *pool) retireAt(at int64) {
	for {
		was := p.retire.Load()
		if was != 0 && was <= at || p.retire.CompareAndSwap(was, at) {
			return
		}
	}
}
