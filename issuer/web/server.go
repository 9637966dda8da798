package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Bounds of one connection. The documents have a few kilobytes.
const (
	headerTimeout = 5 * time.Second  // for the request's header, and for the TLS handshake
	readTimeout   = 10 * time.Second // for all of a request
	writeTimeout  = 20 * time.Second // until an answer was taken
	idleTimeout   = 30 * time.Second // between two requests
	maxHeader     = 8 << 10          // bytes; net/http adds 4 KiB of slack
	maxRequests   = 100              // of one connection
	maxAge        = 2 * time.Minute  // of one connection that is still asked
	stopGrace     = 2 * time.Second
)

// Server serves one handler on one listener. Limit the listener: how many may
// connect is not this package's business.
type Server struct {
	Handler http.Handler
	// Certificate is asked in every handshake. nil serves plain HTTP, for a
	// balancer that ends TLS, and only on a loopback or private address.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Log         *slog.Logger
}

// Serve serves until ctx ends, and returns nil then.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	if s.Handler == nil || s.Log == nil {
		_ = l.Close()
		return errors.New("web: Handler and Log are required")
	}
	if s.Certificate == nil {
		if err := CheckPlain(l.Addr()); err != nil {
			_ = l.Close()
			return err
		}
	} else {
		l = tls.NewListener(l, s.tls())
	}
	h := &http.Server{
		Handler:           bounded(s.Handler),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, usageKey{}, &usage{began: time.Now()})
		},
		// What strangers do wrong is no news; panics come this way too, and are.
		ErrorLog:                     log.New(errorLog{s.Log}, "", 0),
		DisableGeneralOptionsHandler: true,
		// Not HTTP/2: nothing here has use for it, and it gives a stranger streams to hold.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("web: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if h.Shutdown(stop) != nil {
		_ = h.Close()
	}
	<-done
	return nil
}

// tls is TLS 1.2 and 1.3: relying parties are not ours to update (SPIFFE
// Federation, section 5.2, wants Mozilla's intermediate compatibility, which are
// Go's defaults). No session is resumed: whoever checks a certificate sees it.
func (s Server) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		GetCertificate:         s.Certificate,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
	}
}

// CheckPlain refuses an address on which strangers could hear plain HTTP: all but
// a loopback or private one (RFC 1918, RFC 4193).
func CheckPlain(a net.Addr) error {
	ap, err := netip.ParseAddrPort(a.String())
	if err == nil && a.Network() == "tcp" {
		if ip := ap.Addr().Unmap(); ip.IsLoopback() || ip.IsPrivate() {
			return nil
		}
	}
	return fmt.Errorf("web: plain HTTP on %s, which is neither a loopback nor a private address: name web.certificate and web.key, or another address", a)
}

type usageKey struct{}

// usage is how much a connection was used.
type usage struct {
	began    time.Time
	requests atomic.Int64
}

// bounded ends connections that were used enough, with the answer under way.
func bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, ok := r.Context().Value(usageKey{}).(*usage); ok && (u.requests.Add(1) >= maxRequests || time.Since(u.began) > maxAge) {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// errorLog takes net/http's lines.
type errorLog struct{ log *slog.Logger }

func (e errorLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "panic") {
		e.log.Error("web: a handler failed", "error", text)
	} else {
		e.log.Debug("web: connection", "error", text)
	}
	return len(line), nil
}
