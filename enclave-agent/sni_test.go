package agent

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A process may serve several trust domains at one address: the name in the
// handshake is how it knows which one is meant.
func TestTheAgentAsksForItsTrustDomainInTheHandshake(t *testing.T) {
	trust := &serverTrust{td: spiffeid.RequireTrustDomainFromString("attested.example.org"), now: time.Now}
	client, server := net.Pipe()
	defer func() { _ = client.Close(); _ = server.Close() }()
	asked := make(chan string, 1)
	go func() {
		_ = tls.Server(server, &tls.Config{
			MinVersion: tls.VersionTLS13,
			GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				asked <- h.ServerName
				return nil, errors.New("that is all there is to know")
			},
		}).Handshake()
	}()
	go func() { _ = tls.Client(client, trust.tlsConfig(nil)).Handshake() }()
	select {
	case got := <-asked:
		if got != "attested.example.org" {
			t.Errorf("it asks for %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no ClientHello")
	}
}
