package tpm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/simulators/internal/socket"
)

// Limits of the command socket.
const (
	messageTime    = 10 * time.Second // for the rest of a command once it has begun, and to take a response
	acceptPause    = 100 * time.Millisecond
	maxConnections = 64
)

// Listen opens a unix socket at a path, mode 0600, that exists only from the
// moment on which it accepts connections. A socket that a process left behind is
// replaced; one that still answers, or anything else at the path, is an error.
// Close removes it.
func Listen(path string) (net.Listener, error) {
	l, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return l, nil
}

// Serve carries out the commands that come on the listener's connections, until
// ctx ends; then it closes the listener and all connections, waits for what is
// under way, and returns nil. A connection carries TPM commands and responses one
// after another, as swtpm's own socket does (docs/spec/tpm-simulator.md), and
// can stay open for as long as the client likes. When the last one closes, the
// keys and sessions that were left loaded are flushed, as the kernel's resource
// manager would.
func (t *TPM) Serve(ctx context.Context, l net.Listener) error {
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
				return fmt.Errorf("tpm: %w", err)
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
		t.arrived()
		connections.Go(func() {
			defer func() { <-slots }()
			defer t.left()
			t.serveConn(ctx, c)
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

// serveConn ends with the connection or ctx, whichever is first. What is no TPM
// message ends it too: where the next would begin can't be known.
func (t *TPM) serveConn(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // wakes the read below
	defer stop()
	defer func() { _ = c.Close() }()
	for {
		command, err := readMessage(&patient{c: c})
		if err != nil {
			return // closed, no message, or too slow
		}
		response, err := t.Send(command)
		if err != nil {
			return // the machine is off
		}
		if c.SetWriteDeadline(time.Now().Add(messageTime)) != nil {
			return
		}
		if _, err := c.Write(response); err != nil {
			return
		}
	}
}

// patient waits for a command for ever, and for the rest of it not very long.
type patient struct {
	c     net.Conn
	begun bool
}

// Read is one of [io.Reader].
func (p *patient) Read(b []byte) (int, error) {
	var deadline time.Time
	if p.begun {
		deadline = time.Now().Add(messageTime)
	}
	if err := p.c.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	n, err := p.c.Read(b)
	p.begun = p.begun || n > 0
	return n, err
}

func (t *TPM) arrived() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clients++
}

// left flushes what the last client has left behind.
func (t *TPM) left() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clients--
	if t.clients > 0 || t.process == nil {
		return
	}
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTHMACSession, tpm2.TPMHTPolicySession} {
		for _, h := range t.loaded(kind) {
			// Gone already is as good.
			_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(direct{t.process})
		}
	}
}

// loaded are the handles of a kind that are in use.
func (t *TPM) loaded(kind tpm2.TPMHT) []tpm2.TPMHandle {
	got, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 64,
	}.Execute(direct{t.process})
	if err != nil {
		return nil
	}
	list, err := got.CapabilityData.Data.Handles()
	if err != nil {
		return nil
	}
	return list.Handle
}
