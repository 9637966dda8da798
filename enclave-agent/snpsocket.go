package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// The socket of a simulated guest (docs/spec/snp-socket.md). A frame is its
// length, uint32 big-endian, and its body.
const (
	snpSocketExtended = 0x02 // request: a report and the certificate table
	snpSocketGood     = 0x00 // response: the report follows
	snpSocketVMPL     = 0x02 // response: this level cannot be had
	// maxSNPResponse is a status, a report and the largest table.
	maxSNPResponse = 1 + snpReportSize + maxSNPTable
)

// snpSocket is a simulated guest's secure processor behind a unix socket.
type snpSocket struct{ path string }

func (s snpSocket) name() string { return s.path }

// firstLevel knows nothing of the guest's own level.
func (s snpSocket) firstLevel() uint32 { return 0 }

// report dials for each request, as one opens a device.
func (s snpSocket) report(ctx context.Context, data [64]byte, level uint32) (snpReport, []byte, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", s.path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, nil, err
		}
	}
	body := append(append([]byte{snpSocketExtended}, data[:]...), byte(level))
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return nil, nil, err
	}
	answer, err := readSNPFrame(c)
	if err != nil {
		return nil, nil, err
	}
	return splitSNPAnswer(answer)
}

func readSNPFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("the connection was closed without an answer: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxSNPResponse {
		return nil, nonsense("a response of %d bytes, want 1 to %d", n, maxSNPResponse)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("the answer was cut short: %w", err)
	}
	return body, nil
}

// splitSNPAnswer takes status, report and table apart.
func splitSNPAnswer(b []byte) (snpReport, []byte, error) {
	switch {
	case len(b) > 0 && b[0] == snpSocketVMPL:
		return nil, nil, errPrivilege
	case len(b) > 0 && b[0] != snpSocketGood:
		return nil, nil, nonsense("status %d: %s", b[0], clip(string(b[1:])))
	case len(b) < 1+snpReportSize:
		return nil, nil, nonsense("an answer of %d bytes holds no report", len(b))
	}
	return snpReport(b[1 : 1+snpReportSize]), b[1+snpReportSize:], nil
}
