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
// over, and when another authority signs.
func (c *CA) renewEndpoint() error {
	now := c.cfg.Now()
	a := c.signer(c.now.Load(), store.X509, now)
	if a == nil {
		return nil // Ready says why; the old one goes on to its end
	}
	if e := c.endpoint.Load(); e != nil && e.by == a.row.ID && !now.Before(e.cert.Leaf.NotBefore) && now.Before(middle(e.cert.Leaf.NotBefore, e.cert.Leaf.NotAfter)) {
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
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
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
