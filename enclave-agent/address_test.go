package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/vsock"
)

func TestAServersAddressIsAHostOrAVsock(t *testing.T) {
	for _, good := range []string{"127.0.0.1:8443", "[::1]:8443", "attest.example.org:1", "vsock:parent:9443", "vsock:3:9443", "vsock:host:1"} {
		if err := CheckServer(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", ":8443", "host", "host:0", "host:65536", "host:x", "a/b:1", "a b:1", "vsock:", "vsock:3", "vsock:0:1", "vsock:3:0", "vsock:parent:9443:1", "vsock:parent:x"} {
		if err := CheckServer(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A kernel without vsock, or a machine where nobody listens, is a server that is away,
// and says what kind of address was dialled.
func TestAVsockServerThatIsAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	cfg := s.config(t)
	cfg.Server = vsock.Address{CID: vsock.Local, Port: 1}.String()
	m := must(New(cfg)).members[0]
	l := must(m.dial(nil))
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := m.attestOnce(ctx, l)
	wantCheck(t, err, attest.Unavailable, "server")
	if !strings.Contains(err.Error(), "vsock:1:1") && !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("it does not say where: %v", err)
	}
}
