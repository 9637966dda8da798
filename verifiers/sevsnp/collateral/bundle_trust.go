package collateral

import (
	"crypto/x509"
	"slices"
)

// bundleTrust is a cache's trust with the ASKs and ASVKs of a bundle, as far as
// they verify under the pinned roots.
type bundleTrust struct {
	trust    trust
	base     trust
	extra    map[slot][]*x509.Certificate
	verified map[int]bool // certificates that were found to be issuers
}

func newBundleTrust(base trust) *bundleTrust {
	t := &bundleTrust{base: base, extra: make(map[slot][]*x509.Certificate), verified: make(map[int]bool)}
	t.trust = trust{roots: base.roots, issuers: func(at slot) []*x509.Certificate {
		var known []*x509.Certificate
		if base.issuers != nil {
			known = base.issuers(at)
		}
		return slices.Concat(known, t.extra[at])
	}}
	return t
}

// issuer takes a certificate in if it is an ASK or ASVK that verifies.
func (t *bundleTrust) issuer(i int, der []byte) {
	if !isIssuer(der) || len(der) > maxCertificateSize {
		return
	}
	o, err := t.base.certificate(der)
	if err != nil {
		return // it is refused later, with this error
	}
	c, err := x509.ParseCertificate(o.DER)
	if err != nil {
		return
	}
	at := slot{o.Product, o.SigningKey}
	if len(t.extra[at]) < maxIssuers {
		t.extra[at] = append(t.extra[at], c)
	}
	t.verified[i] = true
}

// isIssuer reports whether the bytes are a CA certificate. Nothing of it has been
// verified.
func isIssuer(der []byte) bool {
	c, err := x509.ParseCertificate(der)
	return err == nil && c.IsCA
}
