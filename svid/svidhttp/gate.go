package svidhttp

import (
	"crypto/tls"
	"log/slog"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// Gate is [svid.Gate] in front of handlers.
type Gate struct {
	svid.Gate
	// Log is told why a request is refused; nil is slog.Default().
	Log *slog.Logger
}

// Handler lets those requests through to next whose client passes the gate, with
// the client in the request's context ([svid.FromContext]). Others are answered
// 401 (no SVID, or one that does not hold), 403 (it holds, and does not meet the
// requirements), 503 (what it is checked with is not there) or 500. What is wanted
// is in the log and not in the answer.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := g.Admit(r.TLS, r.Header.Values("Authorization"))
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(svid.NewContext(r.Context(), who)))
	})
}

// HandlerFunc is Handler for a function.
func (g *Gate) HandlerFunc(next http.HandlerFunc) http.Handler { return g.Handler(next) }

func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code := statusOf(err)
	log := g.Log
	if log == nil {
		log = slog.Default()
	}
	log.WarnContext(r.Context(), "a request is refused", "status", code, "kind", attest.KindOf(err).String(), "check", attest.CheckOf(err),
		"error", err.Error(), "method", r.Method, "path", r.URL.Path, "peer", r.RemoteAddr)
	if code == http.StatusUnauthorized && g.Tokens != nil {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(code), code)
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

// Transport is that of a client which shows its own SVID and demands an attested
// SVID of every server, whose name is its SPIFFE ID: require svid.ID, or
// svid.MemberOf.
func Transport(own x509svid.Source, src svid.Source, require ...svid.Requirement) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // documented to be one
	t.TLSClientConfig = svid.ClientTLS(own, src, require...)
	t.Proxy = nil // a proxy would end the connection whose peer is to be checked
	return t
}
