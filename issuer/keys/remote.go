package keys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Remote is an assay-signer on a unix socket: the keys are there, and this
// process never has them. It is safe for concurrent use, needs no closing
// before the process ends, and dials again by itself after the signer was away.
//
// Its errors are [attest.Error]: Unavailable where the signer cannot be reached
// or does not answer in time, otherwise what the signer said.
type Remote struct {
	path    string
	timeout time.Duration
	idle    chan net.Conn // connections without a request under way
	busy    chan struct{} // one for each request under way
}

// How the client of a signer behaves.
const (
	remoteTimeout = 15 * time.Second // of one request; the signer's own is shorter
	remoteIdle    = 4                // connections kept open
	remoteBusy    = 16               // requests under way; the others wait
)

// NewRemote returns the signer on the socket at path, which must be absolute.
// It dials when it is first asked.
func NewRemote(path string) (*Remote, error) {
	if !strings.HasPrefix(path, "/") || len(path) > 107 {
		return nil, &attest.Error{Kind: attest.Internal, Check: "signer_socket", Err: fmt.Errorf("%.120q is not the path of a socket", path),
			Hint: "an absolute path of at most 107 bytes, such as /run/assay-signer/signer.sock"}
	}
	return &Remote{path: path, timeout: remoteTimeout, idle: make(chan net.Conn, remoteIdle), busy: make(chan struct{}, remoteBusy)}, nil
}

// WithTimeout returns the same signer with another time-out for each request.
func (r *Remote) WithTimeout(d time.Duration) *Remote {
	other, err := NewRemote(r.path)
	if err != nil {
		return r // the path was accepted before
	}
	other.timeout = d
	return other
}

// CloseIdle closes the connections that are kept open between requests. The
// signer can be asked again afterwards.
func (r *Remote) CloseIdle() {
	for {
		select {
		case c := <-r.idle:
			_ = c.Close()
		default:
			return
		}
	}
}

// For returns the signer's keys of one purpose, as a [Ring]. Every signature
// that is asked for through it names that purpose.
func (r *Remote) For(purpose signerwire.Purpose) Ring { return remoteRing{r, purpose} }

// List asks for every key that this process may use.
func (r *Remote) List(ctx context.Context) ([]signerwire.Key, error) {
	m, err := r.ask(ctx, signerwire.List{})
	if err != nil {
		return nil, err
	}
	keys, ok := m.(signerwire.Keys)
	if !ok {
		return nil, unexpected(m)
	}
	return keys.Keys, nil
}

// remoteRing is a Ring of one purpose's keys.
type remoteRing struct {
	remote  *Remote
	purpose signerwire.Purpose
}

// Get returns the key of that name and this ring's purpose.
func (r remoteRing) Get(ctx context.Context, name string) (crypto.Signer, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	list, err := r.remote.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range list {
		if k.Name != name {
			continue
		}
		if !slices.Contains(k.Purposes, r.purpose) {
			return nil, &attest.Error{Kind: attest.Denied, Check: "signer_purpose", Err: fmt.Errorf("the signer holds the key %s for %v, not for %s", name, k.Purposes, r.purpose),
				Hint: "give every purpose a key of its own in the configuration of assay-signer"}
		}
		pub, err := k.Public()
		if err != nil {
			return nil, err
		}
		return &remoteKey{remote: r.remote, name: name, purpose: r.purpose, pub: pub}, nil
	}
	return nil, &attest.Error{Kind: attest.Internal, Check: "signer_key", Err: fmt.Errorf("the signer lists no key %s for this user: %w", name, fs.ErrNotExist),
		Hint: "name the key, and this user as a client, in the configuration of assay-signer"}
}

// Create always fails: no process can have a key made by talking to a signer.
func (r remoteRing) Create(_ context.Context, name string, alg Algorithm) (crypto.Signer, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return nil, &attest.Error{Kind: attest.Internal, Check: "signer_create", Err: fmt.Errorf("the key %s: keys of a signer are made by its operator: %w", name, errors.ErrUnsupported),
		Hint: fmt.Sprintf("assay-signer keys create %s --store STORE --purpose %s --algorithm %v", name, r.purpose, alg)}
}

// Names lists the keys of this ring's purpose, sorted.
func (r remoteRing) Names(ctx context.Context) ([]string, error) {
	list, err := r.remote.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range list {
		if slices.Contains(k.Purposes, r.purpose) {
			out = append(out, k.Name)
		}
	}
	return out, nil
}

// ask sends one request and reads its answer. A request may be sent twice where
// a connection that was kept open turns out to be dead: to sign twice does no
// harm.
func (r *Remote) ask(ctx context.Context, m signerwire.Message) (signerwire.Message, error) {
	body, err := signerwire.Encode(m)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return nil, r.away(ctx.Err())
	}
	for {
		conn, kept, err := r.dial(ctx)
		if err != nil {
			return nil, r.away(err)
		}
		answer, err := exchange(ctx, conn, body)
		if err == nil {
			r.keep(conn)
			return r.understand(answer)
		}
		_ = conn.Close()
		if attest.KindOf(err) == attest.Malformed {
			return nil, err
		}
		if !kept || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			return nil, r.away(err)
		}
	}
}

func (r *Remote) understand(body []byte) (signerwire.Message, error) {
	m, err := signerwire.ParseResponse(body)
	if err != nil {
		return nil, err
	}
	if f, ok := m.(signerwire.Failure); ok {
		return nil, f.Err()
	}
	return m, nil
}

// dial takes a connection that is open, or opens one.
func (r *Remote) dial(ctx context.Context) (conn net.Conn, kept bool, err error) {
	select {
	case c := <-r.idle:
		return c, true, nil
	default:
	}
	var d net.Dialer
	conn, err = d.DialContext(ctx, "unix", r.path)
	return conn, false, err
}

func (r *Remote) keep(c net.Conn) {
	select {
	case r.idle <- c:
	default:
		_ = c.Close()
	}
}

// exchange writes one frame and reads one, until the context ends.
func exchange(ctx context.Context, conn net.Conn, body []byte) ([]byte, error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := signerwire.WriteFrame(conn, body); err != nil {
		// A signer that refuses the connection says why before it closes it.
		if answer, rerr := signerwire.ReadFrame(conn); rerr == nil {
			return answer, nil
		}
		return nil, err
	}
	answer, err := signerwire.ReadFrame(conn)
	if err == nil && !stop() {
		// The deadline is set, or about to be: this connection cannot be kept.
		return nil, context.DeadlineExceeded
	}
	return answer, err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// away is the error of a signer that does not answer.
func (r *Remote) away(err error) error {
	check, hint := "signer_reach", "is assay-signer running, and is the socket the one of its configuration?"
	switch {
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		check, hint = "signer_timeout", "the signer, or the HSM or service behind it, is slow: see its log"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EACCES):
		hint = "this user may not open the socket: see socket_group in the configuration of assay-signer"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		hint = "the signer closed the connection: see its log"
	}
	return &attest.Error{Kind: attest.Unavailable, Check: check, Err: fmt.Errorf("%s: %w", r.path, err), Hint: hint}
}

func unexpected(m signerwire.Message) error {
	return &attest.Error{Kind: attest.Malformed, Check: "signer_message", Err: fmt.Errorf("the signer answered with a %T", m)}
}
