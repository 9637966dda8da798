package svid

import (
	"crypto/tls"
	"reflect"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
)

// Gate says who may pass: peers with an attested X.509-SVID, holders of an attested
// JWT-SVID, or both. Packages svidhttp and svidgrpc put it in front of handlers.
type Gate struct {
	// Source is what X.509-SVIDs are checked with; nil takes none.
	Source Source
	// Tokens is what JWT-SVIDs are checked with; nil takes none. With a Source,
	// tokens count of those trust domains alone that Source has verifier keys of;
	// without one, [VerifyJWT] tells what has to be said about whose attestation is
	// believed. Audience is whom this service calls itself.
	Tokens   jwtbundle.Source
	Audience string
	// Require is demanded of either, with NotDenied among it where a deny-list is
	// followed.
	Require []Requirement
	Now     func() time.Time // nil is time.Now
}

// Admit checks a peer: the TLS connection that it is on, nil for none, and the
// values of its Authorization headers. A peer that shows a certificate is taken at
// that, and its token is not looked at: what does not hold is never made good by
// something else. The checks, beside those of [Verify] and [VerifyJWT]:
//
//	credential        Untrusted: there is a certificate, or a token, and this gate takes it
//	token_scheme      Malformed: exactly one Authorization header, of the scheme Bearer
//	attestation_domain  Untrusted: Source, where there is one, has verifier keys of the token's trust domain,
//	verifier_keys_…     Stale: whose document is current
func (g *Gate) Admit(cs *tls.ConnectionState, authorization []string) (*Attested, error) {
	at := g.now()
	if g.Source != nil && cs != nil && len(cs.PeerCertificates) > 0 {
		return FromConnectionState(*cs, g.Source, at, g.Require...)
	}
	if !g.TakesTokens() || len(authorization) == 0 {
		err := fail(attest.Untrusted, "credential", "the peer shows no SVID")
		switch {
		case g.Source != nil && g.TakesTokens():
			err.Hint = "a client certificate, or a JWT-SVID in the header Authorization: Bearer …"
		case g.Source != nil:
			err.Hint = "a client certificate is wanted: an attested X.509-SVID"
		default:
			err.Hint = "a JWT-SVID is wanted in the header Authorization: Bearer …"
		}
		return nil, err
	}
	scheme, token, _ := strings.Cut(authorization[0], " ")
	if len(authorization) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsRune(token, ' ') {
		return nil, fail(attest.Malformed, "token_scheme", "want one Authorization header of the form Bearer TOKEN")
	}
	return verifyJWT(token, g.Tokens, g.Audience, at, g.Require, func(td spiffeid.TrustDomain) error { return g.believes(td, at) })
}

// TakesTokens reports whether JWT-SVIDs are taken. A nil pointer is no source: that
// of an option that is not set, say.
func (g *Gate) TakesTokens() bool {
	if g.Tokens == nil {
		return false
	}
	v := reflect.ValueOf(g.Tokens)
	return v.Kind() != reflect.Pointer || !v.IsNil()
}

// believes checks that this gate believes what tokens of a trust domain say of
// hardware.
func (g *Gate) believes(td spiffeid.TrustDomain, at time.Time) error {
	if g.Source != nil {
		return pinned(td, g.Source, at)
	}
	return believed(td, g.Tokens, g.Require)
}

// ServerTLS is the TLS configuration of the server behind the gate. Where the gate
// takes tokens, clients without a certificate are let in to show theirs; a
// certificate that is shown must hold either way.
func (g *Gate) ServerTLS(own x509svid.Source) *tls.Config {
	cfg := TLS{Own: own, Source: g.Source, Require: g.Require, Now: g.Now}.Server()
	if !g.TakesTokens() {
		return cfg
	}
	cfg.ClientAuth = tls.RequestClientCert
	if g.Source == nil {
		cfg.ClientAuth = tls.NoClientCert
	}
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		return verify(cs)
	}
	return cfg
}

// Again checks a peer that was admitted before: for each message of a stream, or at
// the end of what took long. Of a certificate everything is verified anew, so that
// an authority or a verifier key that was withdrawn meanwhile counts no longer; a
// [Source] of this package remembers the signatures. Of a token, its signature
// alone is not: that its key is trusted still is.
func (g *Gate) Again(a *Attested) error {
	at := g.now()
	switch {
	case a == nil:
	case a.Token != nil && g.TakesTokens():
		if err := a.Token.trusted(g.Tokens); err != nil {
			return err
		}
		if err := g.believes(a.ID.TrustDomain(), at); err != nil {
			return err
		}
	case len(a.chain) > 0 && g.Source != nil:
		_, err := Verify(a.chain, g.Source, at, g.Require...)
		return err
	}
	return a.Check(at, g.Require...)
}

// Left is how long a peer that was admitted can go on passing at the most: see
// [Attested.Until].
func (g *Gate) Left(a *Attested) time.Duration { return a.Until(g.Require...).Sub(g.now()) }

func (g *Gate) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}
