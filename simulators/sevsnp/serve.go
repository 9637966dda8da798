package sevsnp

import (
	"context"
	"fmt"
	"net"

	"github.com/assay-project/assay/simulators/internal/socket"
)

// Requests of the socket protocol (docs/spec/snp-socket.md).
const (
	requestReport   = 0x01 // a report
	requestExtended = 0x02 // a report and the certificate table
	requestSize     = 1 + 64 + 1
)

// Status is how a response begins.
const (
	statusGood    = 0x00 // the report follows
	statusRequest = 0x01 // the request is none; a sentence for people follows
	statusVMPL    = 0x02 // the level cannot be had; likewise
	statusFailed  = 0x03 // the simulator failed; likewise
)

// Handle carries out one request: a byte that says whether a report alone (1) or
// an extended one (2) is wanted, 64 bytes of report data, and the privilege
// level to write into it, which may not be below the guest's own. It answers
// anything: a status byte (0 = good), then the report, or a sentence.
func (g *Guest) Handle(request []byte) []byte {
	if len(request) != requestSize || request[0] != requestReport && request[0] != requestExtended {
		return answer(statusRequest, fmt.Sprintf("a request is 1 or 2, 64 bytes of report data and a privilege level, %d bytes; this has %d", requestSize, len(request)))
	}
	var data [64]byte
	copy(data[:], request[1:])
	vmpl := uint32(request[requestSize-1])
	if own := g.fields.vmpl; vmpl > 3 || vmpl < own {
		return answer(statusVMPL, fmt.Sprintf("privilege level %d: this guest's software runs at %d, and asks for that or more, up to 3", vmpl, own))
	}
	r, err := g.report(data, vmpl)
	if err != nil {
		return answer(statusFailed, err.Error())
	}
	out := append([]byte{statusGood}, r...)
	if request[0] == requestExtended {
		out = append(out, g.table...)
	}
	return out
}

func answer(status byte, sentence string) []byte { return append([]byte{status}, sentence...) }

// Listen opens a unix socket at a path, mode 0600, that exists only from the
// moment on which it accepts connections. A socket that a process left behind is
// replaced; one that still answers, or anything else at the path, is an error.
// Close removes it.
func Listen(path string) (net.Listener, error) {
	l, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: %w", err)
	}
	return l, nil
}

// Serve answers requests on the listener until ctx ends; then it closes the
// listener and all connections, waits for what is under way, and returns nil.
// One connection carries requests one after another, each way as a four-byte
// big-endian length and that many bytes (docs/spec/snp-socket.md). A client that
// breaks the framing, or stalls within a frame, loses its connection and nobody
// else's.
func (g *Guest) Serve(ctx context.Context, l net.Listener) error {
	return socket.Server{
		MaxRequest: requestSize,
		TooLarge:   answer(statusRequest, "the frame is longer than a request"),
		Handle:     g.Handle,
	}.Serve(ctx, l)
}
