// Package server answers on the signer's socket: who asks is checked first, by
// the kernel's word (SO_PEERCRED, unix(7)), then what is asked, by purpose; only
// then is a key used. Every signature, and every refusal, is logged.
//
//	l, err := server.Listen("/run/assay-signer/signer.sock", "")
//	err = server.New(set, clients, server.Options{…}).Serve(ctx, l)
package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/store"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Limits on what peers can make the server hold.
const (
	maxConnections = 64
	idleTimeout    = 10 * time.Minute // between requests
	frameTimeout   = 10 * time.Second // for the rest of a frame, and for an answer to be taken
)

// Client is a user that may ask, and what for.
type Client struct {
	UID      uint32
	Purposes []signerwire.Purpose
}

// Options are what a server needs besides keys and clients.
type Options struct {
	Log *slog.Logger
	// Timeout is how long one signature may take.
	Timeout time.Duration
}

// Server answers requests for signatures.
type Server struct {
	keys    *store.Set
	clients map[uint32][]signerwire.Purpose
	opts    Options
}

// New returns a server of the keys for the clients. A user who is named twice
// has the purposes of both.
func New(keys *store.Set, clients []Client, o Options) *Server {
	s := &Server{keys: keys, clients: map[uint32][]signerwire.Purpose{}, opts: o}
	for _, c := range clients {
		s.clients[c.UID] = append(s.clients[c.UID], c.Purposes...)
	}
	return s
}

// Serve answers until the context ends, then lets signatures under way finish,
// closes the listener and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = l.Close() }() // waits for the one that the end of the context began
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	room := make(chan struct{}, maxConnections)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || isOutOfFiles(err) {
				s.opts.Log.Error("cannot accept a connection", slog.String("error", err.Error()))
				select {
				case <-time.After(100 * time.Millisecond):
					continue
				case <-ctx.Done():
					return nil
				}
			}
			return fmt.Errorf("the socket: %w", err)
		}
		select {
		case room <- struct{}{}:
		default:
			s.opts.Log.Warn("connection refused: too many are open", slog.Int("limit", maxConnections))
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			s.connection(ctx, conn)
		})
	}
}

// connection answers one client until it leaves, misbehaves or the server stops.
func (s *Server) connection(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	// A stop ends the wait for the next request; what is being answered is answered.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	peer, err := peerOf(conn)
	if err != nil {
		s.opts.Log.Error("connection refused: who is it?", slog.String("error", err.Error()))
		s.answer(conn, signerwire.Fail(refusedPeer()))
		return
	}
	log := s.opts.Log.With(slog.Uint64("uid", uint64(peer.uid)), slog.Int("pid", int(peer.pid)))
	may, ok := s.clients[peer.uid]
	if !ok {
		log.Warn("connection refused: this user is no client")
		s.answer(conn, signerwire.Fail(refusedPeer()))
		return
	}
	in := &patient{conn: conn, ctx: ctx}
	for {
		in.wait()
		body, err := signerwire.ReadFrame(in)
		if err != nil {
			if attest.KindOf(err) == attest.Malformed {
				log.Warn("malformed frame", slog.String("error", err.Error()))
				s.answer(conn, signerwire.Fail(err))
			}
			return
		}
		m, err := signerwire.ParseRequest(body)
		if err != nil {
			log.Warn("malformed request", slog.String("error", err.Error()))
			s.answer(conn, signerwire.Fail(err))
			return
		}
		if !s.answer(conn, s.do(ctx, log, may, m)) {
			return
		}
	}
}

func refusedPeer() error {
	return &attest.Error{Kind: attest.Denied, Check: "signer_peer", Err: errors.New("this user may not ask for signatures"), Hint: "name the user under clients in the configuration of assay-signer"}
}

// do carries a request out.
func (s *Server) do(ctx context.Context, log *slog.Logger, may []signerwire.Purpose, m signerwire.Message) signerwire.Message {
	switch req := m.(type) {
	case signerwire.List:
		return s.list(may)
	case signerwire.Sign:
		return s.sign(ctx, log, may, req)
	}
	return signerwire.Fail(fmt.Errorf("a %T is not a request", m)) // ParseRequest lets none through
}

// list shows a client the keys that it may use, with the purposes it may use
// them for.
func (s *Server) list(may []signerwire.Purpose) signerwire.Message {
	var out signerwire.Keys
	for _, k := range s.keys.Keys() {
		shown := k.Key
		shown.Purposes = slices.DeleteFunc(slices.Clone(k.Purposes), func(p signerwire.Purpose) bool { return !slices.Contains(may, p) })
		if len(shown.Purposes) > 0 {
			out.Keys = append(out.Keys, shown)
		}
	}
	return out
}

// sign makes one signature:
//
//	signer_client   the user may have this purpose signed
//	signer_key      there is such a key
//	signer_purpose  the key is held for it (in store.Key.Sign)
func (s *Server) sign(ctx context.Context, log *slog.Logger, may []signerwire.Purpose, req signerwire.Sign) signerwire.Message {
	begin := time.Now()
	// What was signed, for comparison with the ledger: a digest tells nothing.
	digest := req.Input
	if req.Hash == signerwire.NoHash {
		sum := sha256.Sum256(req.Input)
		digest = sum[:]
	}
	log = log.With(slog.String("key", req.Key), slog.String("purpose", string(req.Purpose)), slog.String("hash", req.Hash.String()), slog.String("digest", hex.EncodeToString(digest)))
	sig, err := func() ([]byte, error) {
		k := s.keys.Key(req.Key)
		switch {
		case !slices.Contains(may, req.Purpose):
			return nil, &attest.Error{Kind: attest.Denied, Check: "signer_client", Err: fmt.Errorf("this user may not have %s signed", req.Purpose), Hint: "add the purpose to the client in the configuration of assay-signer"}
		case k == nil:
			return nil, &attest.Error{Kind: attest.Internal, Check: "signer_key", Err: fmt.Errorf("there is no key %s", req.Key)}
		}
		// The stop of the server does not cut off what is being signed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout)
		defer cancel()
		return k.Sign(ctx, req)
	}()
	took := slog.Duration("took", time.Since(begin).Round(time.Microsecond))
	if err != nil {
		log.Error("not signed", slog.String("check", attest.CheckOf(err)), slog.String("error", err.Error()), took)
		return signerwire.Fail(err)
	}
	log.Info("signed", took)
	return signerwire.Signature{Bytes: sig}
}

// answer writes a message and reports whether the connection can go on.
func (s *Server) answer(conn net.Conn, m signerwire.Message) bool {
	body, err := signerwire.Encode(m)
	if err != nil {
		s.opts.Log.Error("an answer cannot be written", slog.String("error", err.Error()))
		return false
	}
	if err := conn.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
		return false
	}
	return signerwire.WriteFrame(conn, body) == nil
}

// patient waits long for the first byte of a frame and briefly for the rest.
type patient struct {
	conn    net.Conn
	ctx     context.Context //nolint:containedctx // it lives as long as the connection's loop
	started bool
}

func (p *patient) wait() {
	p.started = false
	p.deadline(idleTimeout)
}

// deadline sets the time to read; after a stop there is none left.
func (p *patient) deadline(d time.Duration) {
	_ = p.conn.SetReadDeadline(time.Now().Add(d)) // a connection that is closed fails the read
	if p.ctx.Err() != nil {
		_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	n, err := p.conn.Read(b)
	if n > 0 && !p.started {
		p.started = true
		p.deadline(frameTimeout)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}
