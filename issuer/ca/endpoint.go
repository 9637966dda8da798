package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// BundlePath is the path of the SPIFFE ID of the bundle endpoint.
const BundlePath = "/assay/bundle"

// BundleID is the SPIFFE ID of the bundle endpoint (https_spiffe): what other trust
// domains expect there.
func (c *CA) BundleID() spiffeid.ID { return spiffeid.RequireFromPath(c.td, BundlePath) }

// endpointTTL is how long the bundle endpoint's certificate lives.
const endpointTTL = 24 * time.Hour

// endpointCertificate is the X.509-SVID of the bundle endpoint. Its key lives in
// memory, and it is no workload's: no grant yields its name, and the ledger, which
// records what attestation earns, does not have it.
type endpointCertificate struct {
	cert tls.Certificate
	by   string // the ID of the authority that signed it
}

// EndpointCertificate is the X.509-SVID of the bundle endpoint, by the authority
// that signs: for tls.Config.GetCertificate. The check of its error:
//
//	endpoint_certificate  Unavailable: there is one, and it has not ended
func (c *CA) EndpointCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	e := c.endpoint.Load()
	if e == nil || !c.cfg.Now().Before(e.cert.Leaf.NotAfter) {
		return nil, &attest.Error{Kind: attest.Unavailable, Check: "endpoint_certificate", Err: errors.New("the bundle endpoint has no certificate that is good now")}
	}
	return &e.cert, nil
}

// renewEndpoint makes a new certificate when half of the time of the old one is
// over, and when another authority signs that peers can know.
func (c *CA) renewEndpoint() error {
	now := c.cfg.Now()
	a := c.signer(c.now.Load(), store.X509, now)
	if a == nil {
		return nil // Ready says why; the old one goes on to its end
	}
	if e := c.endpoint.Load(); e != nil && e.by == a.row.ID && !now.Before(e.cert.Leaf.NotBefore) && now.Before(middle(e.cert.Leaf.NotBefore, e.cert.Leaf.NotAfter)) {
		return nil
	}
	if c.peersNeed(c.endpoint.Load(), a, now) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return internal("endpoint_certificate", err)
	}
	notAfter := now.UTC().Add(endpointTTL)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber:          randomSerial(),
		Subject:               pkix.Name{Organization: []string{c.td.Name()}},
		NotBefore:             later(now.UTC().Add(-c.cfg.Backdate), a.cert.NotBefore).Truncate(time.Second),
		NotAfter:              notAfter.Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{c.BundleID().URL()},
	}
	done, err := a.use(t.NotAfter)
	if err != nil {
		return internal("endpoint_certificate", err)
	}
	defer done()
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.signer)
	if err != nil {
		return signing("endpoint_certificate", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return internal("endpoint_certificate", err)
	}
	c.endpoint.Store(&endpointCertificate{tls.Certificate{Certificate: a.chain(leaf), PrivateKey: key, Leaf: leaf}, a.row.ID})
	return nil
}

// peersNeed says that the certificate of before is kept although another authority
// signs now: that was forced, and is not published for the propagation time. Peers
// know the endpoint by the bundle that they have: with a certificate of an authority
// that is not in it they could never get the next one. Whoever has stolen the key
// of a tainted authority can deceive peers with that bundle in either case; what
// frees them of it is the new one. Nothing is signed with the tainted key for it, and
// a revoked one ends it.
func (c *CA) peersNeed(e *endpointCertificate, next *authority, now time.Time) bool {
	if e == nil || e.by == next.row.ID || now.Before(e.cert.Leaf.NotBefore) || !now.Before(e.cert.Leaf.NotAfter.Add(-2*interval)) {
		return false
	}
	if from, ok := c.usable(next); ok && !now.Before(from) {
		return false
	}
	for _, a := range c.now.Load().all {
		if a.row.Use == store.X509 && a.row.ID == e.by {
			return !a.revoked() && now.Before(a.row.NotAfter)
		}
	}
	return false
}
