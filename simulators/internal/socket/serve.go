package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Limits of a server.
const (
	frameTime      = 10 * time.Second // for the rest of a frame once it has begun, and to take a response
	idleTime       = 10 * time.Minute // between requests
	acceptPause    = 100 * time.Millisecond
	maxConnections = 64
)

// Server answers a device's requests.
type Server struct {
	// MaxRequest is how many bytes a request can have. A longer one is not read.
	MaxRequest int
	// TooLarge answers a longer one, before its connection is closed.
	TooLarge []byte
	// Handle answers any request of up to MaxRequest bytes, also an empty one. It is
	// called by many connections at once.
	Handle func(request []byte) []byte
}

// Serve answers requests on the listener until ctx ends; then it closes the
// listener and all connections, waits for what is under way, and returns nil. It
// returns an error when the listener breaks. A client that breaks the framing, or
// stalls within a frame, loses its connection and nobody else's.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
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
			s.serveConn(ctx, c)
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
func (s Server) serveConn(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // wakes the read below
	defer stop()
	defer func() { _ = c.Close() }()
	for {
		request, err := readFrame(c, s.MaxRequest)
		if errors.Is(err, errTooLarge) {
			// What follows is not worth reading; say why, and close.
			_ = writeFrame(c, s.TooLarge)
			return
		}
		if err != nil {
			return // closed, half a frame, or too slow
		}
		if writeFrame(c, s.Handle(request)) != nil {
			return
		}
	}
}

var errTooLarge = errors.New("the frame is longer than a request can be")

// readFrame waits for a frame of at most most bytes, and then for the rest of it
// not very long.
func readFrame(c net.Conn, most int) ([]byte, error) {
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
	if int64(n) > int64(most) {
		return nil, errTooLarge
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
