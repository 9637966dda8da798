package issuer

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/assay-project/assay/issuer/federation"
	"github.com/assay-project/assay/issuer/oidc"
	"github.com/assay-project/assay/issuer/web"
)

// Where the public documents are.
const (
	bundlePath       = "/bundle" // the SPIFFE bundle, of both profiles
	verifierKeysPath = "/verifier-keys"
	denyListPath     = "/deny-list"
)

// How many strangers may read at once. Behind a balancer that ends TLS all of them
// have its address.
const (
	webConnections           = 1024
	webConnectionsPerAddress = 64
)

// maxDocumentAge bounds how long a public document may be kept: what is revoked
// must not live on in caches for longer than relying parties wait anyway.
const maxDocumentAge = time.Minute

// webRoutes is everything that the world may read of this trust domain.
func (s *Server) webRoutes() (map[string]http.Handler, error) {
	routes := map[string]http.Handler{
		bundlePath: web.Document(s.bundleDocument),
		verifierKeysPath: web.Document(func(context.Context) (web.Content, error) {
			return web.Content{Type: "application/cose", Body: s.ca.VerifierKeysDocument(), MaxAge: s.documentAge()}, nil
		}),
	}
	routes[denyListPath] = web.Document(func(context.Context) (web.Content, error) {
		doc, _, _, ok := s.DenyList()
		if !ok {
			return web.Content{}, errors.New("there is no deny-list yet")
		}
		return web.Content{Type: "application/cose", Body: doc}, nil // never kept: it is to be heard of at once
	})
	if s.cfg.JWT.Issuer == "" {
		return routes, nil
	}
	provider, err := oidc.New(s.cfg.JWT.Issuer, func() map[string]crypto.PublicKey { return s.ca.Bundle().JWTAuthorities() }, s.documentAge())
	if err != nil {
		return nil, err
	}
	for path, get := range provider.Documents() {
		routes[path] = web.Document(get)
	}
	return routes, nil
}

// bundleDocument is the SPIFFE bundle as other trust domains get it.
func (s *Server) bundleDocument(ctx context.Context) (web.Content, error) {
	doc, err := federation.Encode(s.ca.Bundle())
	if err != nil {
		s.log.ErrorContext(ctx, "the bundle cannot be encoded", "error", err)
		return web.Content{}, err
	}
	return web.Content{Type: "application/json", Body: doc, MaxAge: s.documentAge()}, nil
}

// documentAge is how long documents may be kept: no longer than relying parties are
// asked to wait between two looks.
func (s *Server) documentAge() time.Duration {
	return min(s.cfg.Authorities.RefreshHint, maxDocumentAge)
}

// serveWeb serves the public documents until ctx ends: over HTTPS with the
// certificate that the configuration names, or over plain HTTP for a balancer.
func (s *Server) serveWeb(ctx context.Context, l net.Listener) error {
	routes, err := s.webRoutes()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := web.Server{Handler: web.Handler(routes), Log: s.log}
	perAddress := webConnectionsPerAddress
	if s.cfg.Web.PlainHTTP {
		perAddress = webConnections
	} else {
		cert, err := web.OpenCertificate(s.cfg.Web.Certificate, s.cfg.Web.Key, s.now, s.log)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		server.Certificate = cert.Get
		s.webCertificate.Store(cert)
	}
	return server.Serve(ctx, readers(l, perAddress))
}

// serveBundleEndpoint serves the bundle by the https_spiffe profile until ctx ends:
// the server shows an SVID of spiffe://TD/assay/bundle, so that whoever has the
// bundle can get the next one without the web's PKI.
func (s *Server) serveBundleEndpoint(ctx context.Context, l net.Listener) error {
	server := web.Server{
		Handler:     web.Handler(map[string]http.Handler{bundlePath: web.Document(s.bundleDocument)}),
		Certificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.ca.EndpointCertificate(hello) },
		Log:         s.log,
	}
	return server.Serve(ctx, readers(l, webConnectionsPerAddress))
}

// certificateNotice is how long before its end a certificate of the web's PKI is
// warned of: who renews it by a program has done so by then.
const certificateNotice = 7 * 24 * time.Hour

// publicWarnings is what an operator should look at of what is public, and of the
// federations.
func (s *Server) publicWarnings() []string {
	var out []string
	if s.cfg.JWT.Issuer != "" {
		out = append(out, oidc.Advice(s.cfg.JWT.Issuer)...)
	}
	if cert := s.webCertificate.Load(); cert != nil {
		if end := cert.NotAfter(); end.Sub(s.now()) < certificateNotice {
			out = append(out, "web.certificate ends at "+end.UTC().Format(time.RFC3339)+": relying parties will fetch nothing then")
		}
	}
	if s.federation != nil {
		out = append(out, s.federation.Troubles()...)
	}
	return out
}

// federationGauges shows how the federations do.
func (s *Server) federationGauges() {
	if s.federation == nil {
		return
	}
	s.metrics.Gauge("assay_federations", "Trust domains that this one federates with.", func() float64 { return float64(s.federation.Count()) })
	s.metrics.Gauge("assay_federations_in_trouble", "Those of them whose bundle cannot be fetched, is not used, or has no key.",
		func() float64 { return float64(len(s.federation.Troubles())) })
}

// readers bounds how many strangers are connected.
func readers(l net.Listener, perAddress int) net.Listener {
	out := newLimitedListener(newGate(webConnections, webConnections), newGate(webConnections, perAddress), func(string) {})
	out.Listener = l
	return out
}
