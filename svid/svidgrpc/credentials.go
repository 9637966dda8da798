package svidgrpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/internal/lease"
)

// ServerOptions is all that a server behind the gate needs: its credentials, and both
// interceptors. Other interceptors are chained before or after it.
//
//	server := grpc.NewServer(gate.ServerOptions(own)...)
func (g *Gate) ServerOptions(own x509svid.Source) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.Creds(g.Credentials(own)), grpc.ChainUnaryInterceptor(g.Unary), grpc.ChainStreamInterceptor(g.Stream)}
}

// Credentials are those of the server behind the gate ([svid.Gate.ServerTLS]), without
// which it is not one: the interceptors say who may call. A client that shows a
// certificate is looked at for as long as its connection lives, at most once a second,
// and the connection ends with its SVID. In good time before that the client is asked
// to open another, so that one which has renewed is never refused.
//
// Where there are methods that are Open, the handshake asks for a certificate, and
// leaves the verdict to the interceptors: a probe has none.
func (g *Gate) Credentials(own x509svid.Source) credentials.TransportCredentials {
	cfg := g.ServerTLS(own)
	if len(g.Open) > 0 {
		cfg.VerifyConnection = nil
		if cfg.ClientAuth == tls.RequireAnyClientCert {
			cfg.ClientAuth = tls.RequestClientCert
		}
	}
	return &serverCredentials{TransportCredentials: credentials.NewTLS(cfg), gate: g}
}

type serverCredentials struct {
	credentials.TransportCredentials
	gate *Gate
}

// ServerHandshake implements [credentials.TransportCredentials].
func (s *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	under := lease.New(raw)
	conn, info, err := s.TransportCredentials.ServerHandshake(under)
	if err != nil {
		if !errors.Is(err, io.EOF) { // who hangs up was refused nothing: a probe of the port
			s.gate.tell(context.Background(), raw.RemoteAddr(), "", err, "a handshake is refused")
		}
		return nil, nil, err
	}
	state, err := stateOf(info)
	if err != nil || state == nil || len(state.PeerCertificates) == 0 || s.gate.Source == nil {
		return conn, info, nil // the interceptors see to it
	}
	who, err := s.gate.Admit(state, nil)
	if err != nil {
		return conn, info, nil //nolint:nilerr // likewise: methods that are Open
	}
	left := s.gate.Left(who)
	w := lease.NewWriter(conn)
	retire := time.AfterFunc(lease.Retire(left), w.Retire)
	under.Begin(func() error {
		err := s.gate.Again(who)
		if err != nil {
			s.gate.tell(context.Background(), raw.RemoteAddr(), "", err, "a connection is broken off")
		}
		return err
	}, left, nil)
	return &timed{Conn: w, timer: retire}, info, nil
}

// Clone implements [credentials.TransportCredentials].
func (s *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{TransportCredentials: s.TransportCredentials.Clone(), gate: s.gate}
}

// timed is a connection with a timer that goes with it.
type timed struct {
	net.Conn
	timer *time.Timer
}

func (t *timed) Close() error {
	t.timer.Stop()
	return t.Conn.Close()
}

// ClientCredentials are those of a client which shows its own SVID (nil: none) and
// demands an attested SVID of the server, whose name is its SPIFFE ID: require
// svid.ID, or svid.MemberOf.
//
// A server that passed in the handshake and passes no longer, since it was denied or
// has grown too old, gets no further call: the connection ends. When our SVID was
// renewed, or the server's or ours is about to end, further calls go over a new
// connection, and those under way are finished on the old one.
func ClientCredentials(own x509svid.Source, src svid.Source, require ...svid.Requirement) credentials.TransportCredentials {
	return ClientCredentialsOf(svid.TLS{Own: own, Source: src, Require: require})
}

// ClientCredentialsOf is [ClientCredentials] with a clock.
func ClientCredentialsOf(ends svid.TLS) credentials.TransportCredentials {
	return &clientCredentials{ends: ends}
}

type clientCredentials struct {
	ends       svid.TLS
	serverName string
}

// ClientHandshake implements [credentials.TransportCredentials].
func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := c.ends.Client()
	var shown *x509.Certificate
	if show := cfg.GetClientCertificate; c.ends.Own != nil {
		cfg.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			own, err := show(r)
			if err == nil && len(own.Certificate) > 0 {
				shown, err = x509.ParseCertificate(own.Certificate[0])
			}
			return own, err
		}
	}
	if c.serverName != "" {
		authority = c.serverName
	}
	under := lease.New(raw)
	conn, info, err := credentials.NewTLS(cfg).ClientHandshake(ctx, authority, under)
	if err != nil {
		return nil, nil, err
	}
	state, err := stateOf(info)
	var server *svid.Attested
	if err == nil {
		server, err = c.ends.Peer(*state) // not nil: a TLS handshake has just ended well
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	left := c.ends.Left(server)
	soon := lease.Retire(left)
	if shown != nil {
		now := server.Until(c.ends.Require...).Add(-left)
		// One that has ended has nothing after it to hurry for: only another certificate helps.
		if mine := shown.NotAfter.Sub(now); mine > 0 {
			soon = min(soon, lease.Retire(mine))
		}
	}
	r := lease.NewReader(conn)
	retire := time.AfterFunc(soon, r.Retire)
	under.Begin(func() error {
		if shown != nil && c.renewed(shown) {
			r.Retire()
		}
		_, err := c.ends.Peer(*state)
		return err
	}, left, &r.Calls)
	return &timed{Conn: r, timer: retire}, info, nil
}

// renewed reports whether our SVID is another than the one that was shown.
func (c *clientCredentials) renewed(shown *x509.Certificate) bool {
	own, err := c.ends.Own.GetX509SVID()
	return err == nil && own != nil && len(own.Certificates) > 0 && !own.Certificates[0].Equal(shown)
}

// ServerHandshake implements [credentials.TransportCredentials].
func (c *clientCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	_ = raw.Close()
	return nil, nil, errClient
}

// Info implements [credentials.TransportCredentials].
func (c *clientCredentials) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, ServerName: c.serverName}).Info()
}

// Clone implements [credentials.TransportCredentials].
func (c *clientCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName implements [credentials.TransportCredentials]: a name for SNI.
// Who the server is says its SPIFFE ID.
func (c *clientCredentials) OverrideServerName(name string) error {
	c.serverName = name
	return nil
}
