package svidhttp

import (
	"fmt"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

// Bearer shows a JWT-SVID with every request. It asks the source for each: go-spiffe's
// workloadapi.JWTSource hands the question to the agent, which keeps tokens while they
// are good. It sends it over https alone, and no more once a redirect has led to
// another host, wherever further ones lead.
type Bearer struct {
	Source   jwtsvid.Source
	Audience string
	Base     http.RoundTripper // nil is http.DefaultTransport
}

// RoundTrip implements [http.RoundTripper].
func (b *Bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		closeBody(r)
		return nil, fmt.Errorf("svidhttp: a JWT-SVID is not sent over %s: whoever reads it can use it", r.URL.Scheme)
	}
	if strayed(r) {
		return b.base().RoundTrip(r)
	}
	token, err := b.Source.FetchJWTSVID(r.Context(), jwtsvid.Params{Audience: b.Audience})
	if err != nil {
		closeBody(r)
		return nil, fmt.Errorf("svidhttp: no JWT-SVID for %q: %w", b.Audience, err)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token.Marshal())
	return b.base().RoundTrip(r)
}

// strayed reports whether any of the redirects that led here was to another host
// than the one that was asked first, or not over https.
func strayed(r *http.Request) bool {
	for from := r.Response; from != nil && from.Request != nil; from = from.Request.Response {
		if from.Request.URL.Host != r.URL.Host || from.Request.URL.Scheme != "https" {
			return true
		}
	}
	return false
}

func (b *Bearer) base() http.RoundTripper {
	if b.Base != nil {
		return b.Base
	}
	return http.DefaultTransport
}

// closeBody does what a RoundTripper owes in every case.
func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}
