package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// Limits of one message, those of the NSM driver.
const (
	maxNSMRequest  = 0x1000
	maxNSMResponse = 0x3000
)

// socketNSM is an NSM behind a unix socket.
type socketNSM struct{ conn net.Conn }

func dialNSM(ctx context.Context, path string) (nsmSession, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return &socketNSM{c}, nil
}

// Send writes the request and reads the response.
func (s *socketNSM) Send(req request.Request) (response.Response, error) {
	body, err := cbor.Marshal(req.Encoded())
	if err != nil {
		return response.Response{}, err
	}
	if len(body) > maxNSMRequest {
		return response.Response{}, fmt.Errorf("a request of %d bytes, the NSM takes %d", len(body), maxNSMRequest)
	}
	msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	if _, err := s.conn.Write(append(msg, body...)); err != nil {
		return response.Response{}, err
	}
	answer, err := readNSMMessage(s.conn)
	if err != nil {
		return response.Response{}, err
	}
	return decodeNSMResponse(answer)
}

// Close ends the connection.
func (s *socketNSM) Close() error { return s.conn.Close() }

// readNSMMessage reads one framed response of at most maxNSMResponse bytes.
func readNSMMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("the NSM closed the connection without an answer: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxNSMResponse {
		return nil, fmt.Errorf("a response of %d bytes, want 1 to %d", n, maxNSMResponse)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("the NSM's answer was cut short: %w", err)
	}
	return body, nil
}

func decodeNSMResponse(b []byte) (response.Response, error) {
	var res response.Response
	if err := cbor.Unmarshal(b, &res); err != nil {
		return response.Response{}, fmt.Errorf("the NSM's answer is no NSM response: %w", err)
	}
	return res, nil
}
