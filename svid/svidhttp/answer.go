package svidhttp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/internal/lease"
)

// answer is the ResponseWriter of a client that is checked again while it takes its
// answer.
type answer struct {
	http.ResponseWriter
	gate    *Gate
	request *http.Request
	who     *svid.Attested
	cancel  context.CancelFunc

	mu   sync.Mutex
	last time.Time // when the client was checked last
	err  error     // why it no longer passes
}

// again checks the client at most once a second.
func (a *answer) again() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil || time.Since(a.last) < lease.Every {
		return a.err
	}
	a.last = time.Now()
	if a.err = a.gate.Again(a.who); a.err != nil {
		a.gate.tell(a.request, a.err, "an answer is broken off")
		a.cancel()
	}
	return a.err
}

func (a *answer) ended() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err != nil
}

// Write implements [http.ResponseWriter].
func (a *answer) Write(b []byte) (int, error) {
	if err := a.again(); err != nil {
		return 0, err
	}
	return a.ResponseWriter.Write(b)
}

// Flush implements [http.Flusher].
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError is Flush for [http.ResponseController].
func (a *answer) FlushError() error {
	if err := a.again(); err != nil {
		return err
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Unwrap is for [http.ResponseController]: deadlines, and full duplex.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Hijack implements [http.Hijacker].
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := a.again(); err != nil {
		return nil, nil, err
	}
	c, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Peek(rw.Reader.Buffered())
	if err == nil {
		err = rw.Flush()
	}
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	l := lease.New(c)
	l.Begin(func() error {
		err := a.gate.Again(a.who)
		if err != nil {
			a.gate.tell(a.request, err, "a connection is broken off")
		}
		return err
	}, a.gate.Left(a.who), nil)
	in := io.MultiReader(bytes.NewReader(bytes.Clone(early)), l)
	return l, bufio.NewReadWriter(bufio.NewReader(in), bufio.NewWriter(l)), nil
}

// body is a request's, which ends with the client.
type body struct {
	io.ReadCloser
	answer *answer
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		if e := b.answer.again(); e != nil {
			return 0, e
		}
	}
	return n, err
}
