package collateral

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/assay-project/assay/verifiers/sevsnp"
)

// loadCAs reads the ASKs and ASVKs beyond the roots' own. One that cannot be read
// just now stays, if it is known.
func (c *Cache) loadCAs(names []fileName) {
	out := make(map[slot][]*x509.Certificate)
	for _, n := range names {
		o, err := c.load(n.kind+"."+n.product+"."+n.middle+".der", n)
		if isUnread(err) {
			at, cert := c.knownIssuer(n)
			c.lookAgain()
			if cert != nil && len(out[at]) < maxIssuers {
				out[at] = append(out[at], cert)
			}
			continue
		}
		if err != nil {
			continue // counted and logged
		}
		cert, err := x509.ParseCertificate(o.DER)
		at := slot{o.Product, o.SigningKey}
		if err == nil && len(out[at]) < maxIssuers {
			out[at] = append(out[at], cert)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.issuers
	c.issuers = out
	for at, certs := range out {
		for _, i := range certs {
			if !slices.ContainsFunc(before[at], i.Equal) {
				c.pardon()
			}
		}
	}
}

// knownIssuer is the ASK or ASVK in memory that a file is named after.
func (c *Cache) knownIssuer(n fileName) (slot, *x509.Certificate) {
	at := slot{n.product, sevsnp.VCEK}
	if n.kind == fileASVK {
		at.signingKey = sevsnp.VLEK
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, i := range c.issuers[at] {
		if sum := digestOf(i.Raw); hex.EncodeToString(sum[:]) == n.middle {
			return at, i
		}
	}
	return at, nil
}

func (c *Cache) extraIssuers(at slot) []*x509.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.issuers[at])
}

// Issuers returns the ASKs (signingKey "vcek") or ASVKs ("vlek") beyond those of
// the roots, in DER, all signed by the line's ARK.
func (c *Cache) Issuers(product, signingKey string) [][]byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out [][]byte
	for _, i := range c.issuers[slot{product, signingKey}] {
		out = append(out, i.Raw)
	}
	return out
}

// putIssuer keeps an ASK or ASVK that is not one of the roots' own.
func (c *Cache) putIssuer(o *Object) (stored bool, err error) {
	at := slot{o.Product, o.SigningKey}
	cert, err := x509.ParseCertificate(o.DER)
	if err != nil {
		return false, fmt.Errorf("collateral: %w", err)
	}
	same := func(i *x509.Certificate) bool { return bytes.Equal(i.Raw, o.DER) }
	known := c.extraIssuers(at)
	switch {
	case slices.ContainsFunc(c.trust.roots.Issuers(at.product, at.signingKey), same), slices.ContainsFunc(known, same):
		return false, nil
	case len(known) >= maxIssuers:
		return false, fmt.Errorf("collateral: there are %d issuers for %s already: remove old ones from %s", len(known), at, c.path)
	}
	if err := c.write(fileOf(o), o.DER); err != nil {
		return false, err
	}
	c.mu.Lock()
	c.issuers[at] = append(slices.Clone(known), cert)
	c.pardon()
	c.mu.Unlock()
	return true, nil
}
