package nitro

import (
	"context"
	"fmt"
	"net"

	"github.com/assay-project/assay/simulators/internal/socket"
)

// Listen opens a unix socket at a path, mode 0600, that exists only from the
// moment on which it accepts connections. A socket that a process left behind is
// replaced; one that still answers, or anything else at the path, is an error.
// Close removes it.
func Listen(path string) (net.Listener, error) {
	l, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("nitro: %w", err)
	}
	return l, nil
}

// Serve answers requests on the listener until ctx ends; then it closes the
// listener and all connections, waits for what is under way, and returns nil.
// One connection carries requests one after another, each way as a four-byte
// big-endian length and that many bytes of CBOR (docs/spec/nsm-socket.md). A
// client that breaks the framing, or stalls within a frame, loses its connection
// and nobody else's.
func (m *Module) Serve(ctx context.Context, l net.Listener) error {
	return socket.Server{
		MaxRequest: MaxRequest,
		TooLarge:   respond("Error", cborText(string(codeInputTooLarge))),
		Handle:     m.Handle,
	}.Serve(ctx, l)
}
