package svid

import (
	"context"
	"crypto/tls"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
)

// ClientTLS is the configuration of a client that presents its own SVID and
// demands an attested SVID, with these requirements, of the server. TLS 1.3 and
// nothing older. Use it wherever a *tls.Config goes; for gRPC,
// credentials.NewTLS(svid.ClientTLS(…)).
//
// The checks run in VerifyConnection, which crypto/tls calls for resumed
// sessions too: a session cannot outlive what was required to open it. One whose
// requests go on for long calls [FromConnectionState] for each; packages svidhttp
// and svidgrpc do. A cache of sessions should be a [NewSessionCache].
func ClientTLS(own x509svid.Source, src Source, require ...Requirement) *tls.Config {
	return TLS{Own: own, Source: src, Require: require}.Client()
}

// ServerTLS is the configuration of a server that presents its own SVID and
// demands an attested SVID of every client. See [ClientTLS].
func ServerTLS(own x509svid.Source, src Source, require ...Requirement) *tls.Config {
	return TLS{Own: own, Source: src, Require: require}.Server()
}

// TLS holds what [ClientTLS] and [ServerTLS] take, and the clock.
type TLS struct {
	Own     x509svid.Source // our own SVID, attested or not; a client without one shows none
	Source  Source          // what is trusted of the peer
	Require []Requirement
	Now     func() time.Time // nil is time.Now
}

// Client is the configuration of a client. It verifies no host name: the
// peer's name is its SPIFFE ID, so name it with [ID] or [MemberOf]. Without either,
// every handshake fails with the check server_name (Internal): any attested workload
// could pose as the server. [AnyID] says that this is meant.
func (t TLS) Client() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard verification knows host names, not SPIFFE IDs.
		// VerifyConnection does all of it instead.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			if !slices.ContainsFunc(t.Require, func(q Requirement) bool { return q.domain || q.anyID }) {
				err := fail(attest.Internal, "server_name", "nothing says who the server is")
				err.Hint = "require svid.ID or svid.MemberOf; svid.AnyID takes every attested workload for it"
				return err
			}
			return t.verifyConnection(cs)
		},
		Time: t.Now,
	}
	if t.Own != nil {
		cfg.GetClientCertificate = tlsconfig.GetClientCertificate(t.Own)
	} else {
		// None: a server that also takes tokens asks all the same.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	}
	return cfg
}

// Server is the configuration of a server.
func (t TLS) Server() *tls.Config {
	cfg := &tls.Config{
		MinVersion:       tls.VersionTLS13,
		ClientAuth:       tls.RequireAnyClientCert, // verified in VerifyConnection
		VerifyConnection: t.verifyConnection,
		Time:             t.Now,
	}
	if t.Own != nil {
		cfg.GetCertificate = tlsconfig.GetCertificate(t.Own)
	} else {
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errNoOwn() }
	}
	t.judgeSessions(cfg)
	return cfg
}

func errNoOwn() error { return fail(attest.Internal, "own_svid", "no source for our own SVID") }

func (t TLS) verifyConnection(cs tls.ConnectionState) error {
	_, err := t.Peer(cs)
	return err
}

// Peer verifies the peer of a connection as it is now: [FromConnectionState].
func (t TLS) Peer(cs tls.ConnectionState) (*Attested, error) {
	return FromConnectionState(cs, t.Source, t.now(), t.Require...)
}

// Left is how long a peer that was verified can go on passing at the most: see
// [Attested.Until].
func (t TLS) Left(a *Attested) time.Duration { return a.Until(t.Require...).Sub(t.now()) }

func (t TLS) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}

// FromConnectionState verifies the peer of a TLS connection, as [Verify] does.
// A handler calls it for each request, so that an SVID that has expired, or
// grown too old, or whose authority was withdrawn, ends with the request and
// not with the connection. With a [Source] from this package the result's
// signature is not verified a second time.
//
//	net/http   FromConnectionState(*req.TLS, …)
//	gRPC       FromConnectionState(peer.AuthInfo.(credentials.TLSInfo).State, …)
func FromConnectionState(cs tls.ConnectionState, src Source, at time.Time, require ...Requirement) (*Attested, error) {
	if cs.Version < tls.VersionTLS13 {
		return nil, mismatch(attest.Untrusted, "tls_version", "an old TLS version", "TLS 1.3", tls.VersionName(cs.Version))
	}
	return Verify(cs.PeerCertificates, src, at, require...)
}

type contextKey struct{}

// NewContext returns a context that holds the peer, for the handlers behind
// whatever verified it.
func NewContext(ctx context.Context, a *Attested) context.Context {
	return context.WithValue(ctx, contextKey{}, a)
}

// FromContext returns the peer that [NewContext] put there. A handler that
// takes long calls [Attested.Check] on it again.
func FromContext(ctx context.Context) (*Attested, bool) {
	a, ok := ctx.Value(contextKey{}).(*Attested)
	return a, ok && a != nil
}
