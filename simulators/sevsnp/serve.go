package sevsnp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
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

// Limits of the socket server.
const (
	frameTime      = 10 * time.Second // for the rest of a frame once it has begun, and to take a response
	idleTime       = 10 * time.Minute // between requests
	acceptPause    = 100 * time.Millisecond
	maxConnections = 64
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

// Serve answers requests on the listener until ctx ends; then it closes the
// listener and all connections, waits for what is under way, and returns nil.
// One connection carries requests one after another, each way as a four-byte
// big-endian length and that many bytes. A client that breaks the framing, or
// stalls within a frame, loses its connection and nobody else's.
func (g *Guest) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // the error would be that it is closed
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel() // before the wait: connections end with ctx
	slots := make(chan struct{}, maxConnections)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !passing(err) {
				return err
			}
			select { // accepting would fail again at once
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default: // full: the client may try again
			_ = c.Close()
			continue
		}
		connections.Go(func() {
			defer func() { <-slots }()
			g.serveConn(ctx, c)
		})
	}
}

// passing reports whether accepting may work again later: the process or the
// machine is short of descriptors, or the client has gone already.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serveConn ends with the connection or ctx, whichever is first.
func (g *Guest) serveConn(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // wakes the read below
	defer stop()
	defer func() { _ = c.Close() }()
	for {
		request, err := readFrame(c)
		if errors.Is(err, errFrameTooLarge) {
			// What follows is not worth reading; say why, and close.
			_ = writeFrame(c, answer(statusRequest, err.Error()))
			return
		}
		if err != nil {
			return // closed, half a frame, or too slow
		}
		if writeFrame(c, g.Handle(request)) != nil {
			return
		}
	}
}

var errFrameTooLarge = errors.New("the frame is longer than a request")

// readFrame waits for a frame, and then for the rest of it not very long.
func readFrame(c net.Conn) ([]byte, error) {
	if err := c.SetDeadline(time.Now().Add(idleTime)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:1]); err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(frameTime)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, size[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > requestSize {
		return nil, errFrameTooLarge
	}
	request := make([]byte, n)
	_, err := io.ReadFull(c, request)
	return request, err
}

func writeFrame(c net.Conn, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(frameTime)); err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	_, err := c.Write(append(frame, b...))
	return err
}
