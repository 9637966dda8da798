package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/peer"

	"github.com/assay-project/assay/attest"
)

// tlsConfig is the service's side of TLS 1.3 and nothing older. Client
// certificates are asked for and never demanded: an agent at boot has none.
// They are checked in each RPC that needs one, not in the handshake, because a
// handshake is not a lease (live.go); the handshake refuses only those that
// take more room than an SVID could (handshake.go). There is no session resumption, so every
// connection has an exporter of its own.
func tlsConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		GetCertificate:         certificate,
		ClientAuth:             tls.RequestClientCert,
		VerifyConnection:       checkPeer,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2"},
	}
}

// tlsState returns the connection that a stream runs on, and its address.
func tlsState(ctx context.Context) (tls.ConnectionState, net.Addr, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return tls.ConnectionState{}, nil, errors.New("the stream has no peer")
	}
	info, ok := p.AuthInfo.(shown)
	if !ok {
		return tls.ConnectionState{}, p.Addr, fmt.Errorf("the stream does not run over TLS but %T", p.AuthInfo)
	}
	return info.State, p.Addr, nil
}

// exporter is the value that ties evidence to this connection (RFC 8446,
// section 7.5). The version is asserted first: before TLS 1.3 an exporter need
// not cover the whole handshake (RFC 7627 says how that goes wrong).
func exporter(state tls.ConnectionState, trustDomain string) (out [attest.ExporterSize]byte, err error) {
	if state.Version != tls.VersionTLS13 {
		return out, fmt.Errorf("TLS version %s, want TLS 1.3", tls.VersionName(state.Version))
	}
	ekm, err := state.ExportKeyingMaterial(attest.ExporterLabel, []byte(trustDomain), attest.ExporterSize)
	if err != nil {
		return out, fmt.Errorf("the TLS connection exports nothing: %w", err)
	}
	if n := copy(out[:], ekm); n != attest.ExporterSize || len(ekm) != attest.ExporterSize {
		return out, fmt.Errorf("the TLS exporter gave %d bytes", len(ekm))
	}
	return out, nil
}
