package lease

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// goAway is a frame (RFC 9113, sections 4.1 and 6.8): 8 bytes of payload, type 7,
// stream 0; the last stream is 2^31-1, so that everything that is under way is
// answered, and the code NO_ERROR.
var goAway = [...]byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

const (
	headerSize       = 9
	typeHeaders      = 1
	typePushPromise  = 5
	typeContinuation = 9
	endHeaders       = 4  // a flag
	preface          = 24 // bytes, with which a client begins (RFC 9113, section 3.4)
)

// frames knows where in a stream of frames one ends and the next begins.
type frames struct {
	header [headerSize]byte
	have   int // bytes of the header
	left   int // bytes of the payload that are to come
	some   bool
	open   bool // a header's, which CONTINUATION goes on with: nothing comes between (RFC 9113, section 6.10)
	calls  int  // frames that begin a call or end it with trailers: HEADERS
}

// between reports whether a frame may be put in here: not before the first, which
// has to be SETTINGS.
func (f *frames) between() bool { return f.some && !f.open && f.have == 0 && f.left == 0 }

// next is how many bytes may follow before between has to be asked again, at least
// one.
func (f *frames) next() int {
	if f.left > 0 {
		return f.left
	}
	return headerSize - f.have
}

// feed takes at most next bytes.
func (f *frames) feed(b []byte) {
	if f.left > 0 {
		f.left -= len(b)
		return
	}
	f.have += copy(f.header[f.have:], b)
	if f.have == headerSize {
		f.some, f.have = true, 0
		f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
		switch f.header[3] {
		case typeHeaders, typePushPromise, typeContinuation:
			f.open = f.header[4]&endHeaders == 0
		}
		if f.header[3] == typeHeaders {
			f.calls++
		}
	}
}

// feedAll takes any number of bytes.
func (f *frames) feedAll(b []byte) {
	for len(b) > 0 {
		n := min(len(b), f.next())
		f.feed(b[:n])
		b = b[n:]
	}
}

// Writer is the HTTP/2 connection of a server, above TLS, which can ask its client
// to open another.
type Writer struct {
	net.Conn

	mu     sync.Mutex
	frames frames
	due    bool // to be said
	said   bool
}

// NewWriter wraps the connection of a server to which nothing has been written yet.
func NewWriter(c net.Conn) *Writer { return &Writer{Conn: c} }

// Retire asks the client to open another connection. What is under way is answered
// on this one.
func (w *Writer) Retire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = true
	_ = w.say()
}

// say puts the frame in if it is due, and this is the place.
func (w *Writer) say() error {
	if !w.due || w.said || !w.frames.between() {
		return nil
	}
	w.said = true
	_, err := w.Conn.Write(goAway[:])
	return err
}

// Write implements [net.Conn].
func (w *Writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	written := 0
	for w.due && !w.said && written < len(b) {
		n, err := w.write(b[written:min(len(b), written+w.frames.next())])
		if written += n; err != nil {
			return written, err
		}
		if err := w.say(); err != nil {
			return written, err
		}
	}
	if written == len(b) {
		return written, nil
	}
	n, err := w.write(b[written:])
	return written + n, err
}

func (w *Writer) write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.frames.feedAll(b[:n])
	return n, err
}

// Reader is the HTTP/2 connection of a client, above TLS, which can be told to open
// another.
type Reader struct {
	net.Conn
	// Calls is how many have begun: it rises before anything of them is written.
	Calls atomic.Uint64

	sending sync.Mutex
	sent    frames
	begun   int // bytes of the preface

	mu     sync.Mutex
	due    bool   // to be told
	frames frames // of Read alone, like what follows
	told   bool
	rest   []byte // of the frame, while it is told
}

// NewReader wraps the connection of a client from which nothing has been read yet.
func NewReader(c net.Conn) *Reader { return &Reader{Conn: c} }

// Retire tells the client to open another connection. What is under way is answered
// on this one.
func (r *Reader) Retire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.due {
		r.due = true
		_ = r.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	}
}

// woken reports whether Retire was called, and takes its deadline away.
func (r *Reader) woken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.due {
		_ = r.SetReadDeadline(time.Time{})
	}
	return r.due
}

// Write implements [net.Conn]. A call whose header begins here and ends in what is
// written next counts then.
func (r *Reader) Write(b []byte) (int, error) {
	r.sending.Lock()
	skip := min(preface-r.begun, len(b))
	r.begun += skip
	r.sent.feedAll(b[skip:])
	r.Calls.Store(uint64(r.sent.calls))
	r.sending.Unlock()
	return r.Conn.Write(b)
}

func (r *Reader) isDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.due
}

// Read implements [net.Conn].
func (r *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return r.Conn.Read(b)
	}
	for {
		if len(r.rest) > 0 {
			n := copy(b, r.rest)
			r.rest = r.rest[n:]
			return n, nil
		}
		into := b
		if !r.told && r.isDue() {
			if r.frames.between() {
				r.told, r.rest = true, goAway[:]
				r.woken() // nothing wakes it any more
				continue
			}
			into = b[:min(len(b), r.frames.next())]
		}
		n, err := r.Conn.Read(into)
		if !r.told {
			r.frames.feedAll(into[:n])
		}
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && !r.told && r.woken() {
			continue
		}
		return n, err
	}
}
