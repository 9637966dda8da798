package agent

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxRoots bounds the bootstrap roots: the current one and the next, with room.
const maxRoots = 8

// BootstrapRoots are the only authorities that a server's TLS certificate may
// chain to. They are pinned in the agent's measured configuration and are
// never taken from the network; the system's own roots play no part.
type BootstrapRoots struct{ certs []*x509.Certificate }

// ParseBootstrapRoots reads PEM with one or more root certificates, as
// `assayd bootstrap export` prints it.
func ParseBootstrapRoots(pemBytes []byte) (BootstrapRoots, error) {
	var r BootstrapRoots
	for rest := pemBytes; ; {
		var b *pem.Block
		b, rest = pem.Decode(rest)
		if b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return BootstrapRoots{}, fmt.Errorf("a PEM block %q, want CERTIFICATE", clip(b.Type))
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return BootstrapRoots{}, fmt.Errorf("certificate %d: %w", len(r.certs)+1, err)
		}
		if !c.BasicConstraintsValid || !c.IsCA {
			return BootstrapRoots{}, fmt.Errorf("certificate %d (%s) is no CA certificate", len(r.certs)+1, clip(c.Subject.String()))
		}
		if r.certs = append(r.certs, c); len(r.certs) > maxRoots {
			return BootstrapRoots{}, fmt.Errorf("more than %d certificates", maxRoots)
		}
	}
	if len(r.certs) == 0 {
		return BootstrapRoots{}, errors.New("no PEM certificate in it")
	}
	return r, nil
}

// Add returns the roots of both.
func (r BootstrapRoots) Add(more BootstrapRoots) (BootstrapRoots, error) {
	all := append(append([]*x509.Certificate(nil), r.certs...), more.certs...)
	if len(all) > maxRoots {
		return BootstrapRoots{}, fmt.Errorf("%d bootstrap roots, at most %d", len(all), maxRoots)
	}
	return BootstrapRoots{all}, nil
}

// Len is how many roots there are.
func (r BootstrapRoots) Len() int { return len(r.certs) }

// Certificates returns the roots.
func (r BootstrapRoots) Certificates() []*x509.Certificate {
	return append([]*x509.Certificate(nil), r.certs...)
}

// Expired returns the roots that are not valid at the time.
func (r BootstrapRoots) Expired(at time.Time) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range r.certs {
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			out = append(out, c)
		}
	}
	return out
}

// Made is when the newest of the roots was made: it is later now.
func (r BootstrapRoots) Made() (at time.Time) {
	for _, c := range r.certs {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	return at
}

// TrustDomain is the trust domain that the roots name: a URI SAN
// "spiffe://TD", or the organization of the subject. Roots of two trust domains
// are an error, and so is a set in which none names one.
func (r BootstrapRoots) TrustDomain() (spiffeid.TrustDomain, error) {
	var found spiffeid.TrustDomain
	for _, c := range r.certs {
		td, ok := rootTrustDomain(c)
		switch {
		case !ok:
		case found.IsZero():
			found = td
		case found != td:
			return spiffeid.TrustDomain{}, fmt.Errorf("the bootstrap roots name two trust domains, %s and %s", found, td)
		}
	}
	if found.IsZero() {
		return spiffeid.TrustDomain{}, errors.New("the bootstrap root does not name its trust domain")
	}
	return found, nil
}

func rootTrustDomain(c *x509.Certificate) (spiffeid.TrustDomain, bool) {
	for _, u := range c.URIs {
		if u.Scheme == "spiffe" {
			if td, err := spiffeid.TrustDomainFromURI(u); err == nil {
				return td, true
			}
		}
	}
	for _, o := range c.Subject.Organization {
		if td, err := spiffeid.TrustDomainFromString(o); err == nil && td.Name() == o {
			return td, true
		}
	}
	return spiffeid.TrustDomain{}, false
}

// pool is never nil: crypto/x509 takes a nil pool for the system's roots.
func (r BootstrapRoots) pool() *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range r.certs {
		p.AddCert(c)
	}
	return p
}
