package svidhttp

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/internal/lease"
)

// Gate is [svid.Gate] in front of handlers.
type Gate struct {
	svid.Gate
	// Log is told why a request is refused; nil is slog.Default(). Strangers write
	// what it is told: clip and count it like any log of refusals.
	Log *slog.Logger
	// Refused, if set, is told too: to count refusals, by [attest.CheckOf].
	Refused func(r *http.Request, err error)

	opened connections
}

// Handler lets those requests through to next whose client passes the gate, with
// the client in the request's context ([svid.FromContext]). Others are answered
// 401 (no SVID, or one that does not hold), 403 (it holds, and does not meet the
// requirements), 503 (what it is checked with is not there) or 500. What is wanted
// is in the log and not in the answer.
//
// A request that takes long is no lease either. While its answer is written, or its
// body read, the client is checked again at most once a second; where it no longer
// passes, the answer is broken off. So is the context ended when the SVID is. What
// Hijack yields goes on being checked, for as long as it is open, and ends with the
// client.
//
// A connection whose client will soon have to show another SVID is closed in good
// time, after an answer, so that a client that has renewed is not refused for what
// it showed when it connected.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := g.Admit(r.TLS, r.Header.Values("Authorization"))
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		left := g.Left(who)
		if who.Certificate != nil && g.opened.late(r.TLS, left) {
			w.Header().Set("Connection", "close") // over HTTP/2, net/http makes it GOAWAY
		}
		ctx, cancel := context.WithTimeout(svid.NewContext(r.Context(), who), max(left, lease.Every))
		defer cancel()
		a := &answer{ResponseWriter: w, gate: g, request: r, who: who, last: time.Now(), cancel: cancel}
		passed := r.WithContext(ctx)
		if r.Body != nil && r.Body != http.NoBody {
			passed.Body = &body{ReadCloser: r.Body, answer: a}
		}
		next.ServeHTTP(a, passed)
		if a.ended() {
			panic(http.ErrAbortHandler) // else the client would take it for the whole answer
		}
	})
}

// HandlerFunc is Handler for a function.
func (g *Gate) HandlerFunc(next http.HandlerFunc) http.Handler { return g.Handler(next) }

func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code := statusOf(err)
	g.tell(r, err, "a request is refused", "status", code)
	if code == http.StatusUnauthorized && g.TakesTokens() {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		w.Header().Set("Connection", "close") // on another the client may show a better certificate
	}
	http.Error(w, http.StatusText(code), code)
}

// tell logs a refusal. Path and method are a stranger's.
func (g *Gate) tell(r *http.Request, err error, message string, more ...any) {
	log := g.Log
	if log == nil {
		log = slog.Default()
	}
	log.WarnContext(r.Context(), message, append(more, "kind", attest.KindOf(err).String(), "check", attest.CheckOf(err),
		"error", err.Error(), "method", lease.Clip(r.Method), "path", lease.Clip(r.URL.Path), "peer", r.RemoteAddr)...)
	if g.Refused != nil {
		g.Refused(r, err)
	}
}

func statusOf(err error) int {
	switch attest.KindOf(err) {
	case attest.Malformed, attest.Untrusted, attest.Stale:
		return http.StatusUnauthorized
	case attest.Denied:
		return http.StatusForbidden
	case attest.Unavailable:
		return http.StatusServiceUnavailable
	case attest.Internal:
	}
	return http.StatusInternalServerError
}

// TLS is the configuration of the server behind the gate ([svid.Gate.ServerTLS]).
func (g *Gate) TLS(own x509svid.Source) *tls.Config {
	cfg := g.ServerTLS(own)
	cfg.NextProtos = []string{"h2", "http/1.1"}
	return cfg
}
