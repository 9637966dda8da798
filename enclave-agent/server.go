package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/assay-project/assay/attest"
)

// serverPath is the path of every server's SPIFFE ID, /assay/server.
const serverPath = "/assay/server"

// maxMessage bounds a message in either direction, 1 MiB: an Issued holds at
// most 16 chains and one trust bundle.
const maxMessage = 1 << 20

// Waits of the transport. The agent's own backoff decides when to try; gRPC's
// only keeps it from spinning.
const (
	connectTimeout   = 10 * time.Second
	keepaliveAfter   = time.Minute // of silence on a watch; the server takes a ping every 30 s
	keepaliveTimeout = 20 * time.Second
)

// serverTrust decides whether a TLS peer is a server of the trust domain.
//
// Invariants: the chain ends in a pinned bootstrap root and in nothing else;
// the leaf has exactly one URI SAN, spiffe://TD/assay/server; TLS is 1.3. They
// are checked in VerifyConnection, which runs for every handshake, resumed
// ones too, before any byte of a message is sent.
type serverTrust struct {
	td    spiffeid.TrustDomain
	id    string
	roots *x509.CertPool
	now   func() time.Time
}

func newServerTrust(td spiffeid.TrustDomain, roots BootstrapRoots, now func() time.Time) (*serverTrust, error) {
	if roots.Len() == 0 {
		return nil, errors.New("no bootstrap root: there is no insecure bootstrap")
	}
	id, err := spiffeid.FromPath(td, serverPath)
	if err != nil {
		return nil, err
	}
	return &serverTrust{td: td, id: id.String(), roots: roots.pool(), now: now}, nil
}

// verify is for tls.Config.VerifyConnection.
func (t *serverTrust) verify(cs tls.ConnectionState) error {
	if cs.Version != tls.VersionTLS13 {
		return &attest.Error{
			Kind: attest.Untrusted, Check: "server_tls_version", Err: errors.New("the server does not speak TLS 1.3"),
			Expected: tls.VersionName(tls.VersionTLS13), Got: tls.VersionName(cs.Version),
		}
	}
	if len(cs.PeerCertificates) == 0 {
		return &attest.Error{Kind: attest.Untrusted, Check: "server_certificate", Err: errors.New("the server showed no certificate")}
	}
	leaf := cs.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: between, CurrentTime: t.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		e := &attest.Error{Kind: attest.Untrusted, Check: "server_chain", Err: fmt.Errorf("the server's certificate does not chain to a pinned bootstrap root: %w", err)}
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			e.Kind, e.Hint = attest.Stale, "check this machine's clock, and the server's"
		} else {
			e.Hint = "is it the right server? `assayd bootstrap export` prints the root of a server; list the current and the next one"
		}
		return e
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != t.id {
		return &attest.Error{
			Kind: attest.Untrusted, Check: "server_id", Err: errors.New("the server's certificate has another name"),
			Expected: t.id, Got: clip(fmt.Sprint(leaf.URIs)),
		}
	}
	return nil
}

// tlsConfig is the client's side of the handshake. certificate is nil, or says
// which SVID to show to a server that asks.
func (t *serverTrust) tlsConfig(certificate func() *tls.Certificate) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The name in SNI is the trust domain: all its servers share one name.
		ServerName: t.td.Name(),
		// crypto/tls would check host names and system roots; VerifyConnection
		// checks the chain and the SPIFFE ID instead, always.
		InsecureSkipVerify: true, //nolint:gosec // verified in VerifyConnection
		VerifyConnection:   t.verify,
	}
	if certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if own := certificate(); own != nil {
				return own, nil
			}
			return &tls.Certificate{}, nil // shows none
		}
	}
	return c
}

// link is a connection to the server, and what its last handshake ended in:
// gRPC hands that on as text only.
type link struct {
	*grpc.ClientConn
	handshake *atomic.Pointer[handshakeResult]
}

type handshakeResult struct{ err error }

// maxServerHeaders bounds the headers and trailers of an answer, a refusal with its
// details among them; gRPC's own bound is 16 MiB.
const maxServerHeaders = 64 << 10

// dial prepares a connection; it is made when first used. The address is never
// resolved by gRPC: passthrough:/// hands it to the dialer as it is.
func (t *serverTrust) dial(address string, dialer func(context.Context, string) (net.Conn, error), certificate func() *tls.Certificate) (*link, error) {
	last := new(atomic.Pointer[handshakeResult])
	if dialer == nil {
		dialer = dialServer
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(&recordingCredentials{credentials.NewTLS(t.tlsConfig(certificate)), last}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			last.Store(nil) // what is reported belongs to this attempt
			return dialer(ctx, addr)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithMaxHeaderListSize(maxServerHeaders),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveAfter, Timeout: keepaliveTimeout}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // an attestation is repeated as a whole, by the agent
	)
	if err != nil {
		return nil, &attest.Error{Kind: attest.Internal, Check: "server_address", Err: err}
	}
	return &link{conn, last}, nil
}

// handshakeError is why the last handshake failed, or nil.
func (l *link) handshakeError() error {
	if r := l.handshake.Load(); r != nil {
		return r.err
	}
	return nil
}

// recordingCredentials keeps the error of the last handshake.
type recordingCredentials struct {
	credentials.TransportCredentials
	last *atomic.Pointer[handshakeResult]
}

func (c *recordingCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	c.last.Store(&handshakeResult{err})
	return conn, info, err
}

// Clone keeps recording: gRPC clones credentials.
func (c *recordingCredentials) Clone() credentials.TransportCredentials {
	return &recordingCredentials{c.TransportCredentials.Clone(), c.last}
}
