package collateral

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// Kind is what an [Object] is.
type Kind string

// The kinds.
const (
	VCEK Kind = "vcek" // certificate of a chip's key
	VLEK Kind = "vlek" // certificate of a cloud provider's key
	ASK  Kind = "ask"  // issues VCEKs
	ASVK Kind = "asvk" // issues VLEKs
	CRL  Kind = "crl"  // of the ARK
)

// Limits of what is read, in bytes. Real ones have about 1.4 KiB, 2 KiB and 1 KiB.
const (
	maxCertificateSize = 16 << 10
	maxCRLSize         = 1 << 20
)

// Object is one certificate or CRL that has verified under the pinned roots.
type Object struct {
	Kind       Kind
	Product    string       // "milan", "genoa", "turin"
	SigningKey string       // "vcek" or "vlek": what it is, what it issues, or which issuer's CRL it is
	ChipID     attest.Bytes // VCEK: 64 bytes, 8 on Turin
	CSPID      string       // VLEK
	TCB        *attest.TCB  // VCEK, VLEK
	// NotBefore and NotAfter are those of the certificate, and thisUpdate and
	// nextUpdate of a CRL. A CRL without a nextUpdate has a zero NotAfter.
	NotBefore time.Time
	NotAfter  time.Time
	// Number is a CRL's number (RFC 5280, section 5.2.3); nil if it has none.
	Number *big.Int
	DER    []byte
}

// validAt reports whether the certificate is valid, or the CRL current.
func (o *Object) validAt(at time.Time) bool {
	return !at.Before(o.NotBefore) && !at.After(o.NotAfter)
}

// newerThan reports whether CRL o replaces CRL held: by its number, then by its
// date.
func (o *Object) newerThan(held *Object) bool {
	if held == nil {
		return true
	}
	if o.Number != nil && held.Number != nil {
		if c := o.Number.Cmp(held.Number); c != 0 {
			return c > 0
		}
	}
	return o.NotBefore.After(held.NotBefore)
}

// slot is a product line and one of its two issuers.
type slot struct{ product, signingKey string }

func (s slot) String() string { return s.product + " " + s.signingKey }

// slots lists those that the roots cover.
func slots(r sevsnp.Roots) []slot {
	var out []slot
	for _, p := range r.Products() {
		out = append(out, slot{p, sevsnp.VCEK}, slot{p, sevsnp.VLEK})
	}
	return out
}

// roleOf reads a CA's place from its common name, as AMD gives them: "ARK-Milan",
// "SEV-Milan" for the ASK, "SEV-VLEK-Milan" for the ASVK. The signing key is what
// it issues, "" for an ARK.
func roleOf(c *x509.Certificate) (at slot, ok bool) {
	for _, r := range []struct{ prefix, signingKey string }{{"ARK-", ""}, {"SEV-VLEK-", sevsnp.VLEK}, {"SEV-", sevsnp.VCEK}} {
		name, ok := strings.CutPrefix(c.Subject.CommonName, r.prefix)
		if !ok {
			continue
		}
		for _, p := range sevsnp.Products() {
			if name == amdName(p) {
				return slot{p, r.signingKey}, true
			}
		}
	}
	return slot{}, false
}

// amdName is a product line as certificates and the KDS's paths write it:
// "Milan".
func amdName(product string) string {
	if product == "" {
		return ""
	}
	return strings.ToUpper(product[:1]) + product[1:]
}

// trust verifies objects under the roots. issuers are the ASKs and ASVKs beyond
// those of the roots; it may be nil.
type trust struct {
	roots   sevsnp.Roots
	issuers func(slot) []*x509.Certificate
}

// certificate verifies a VCEK, VLEK, ASK or ASVK: form, names, and a signature
// that ends in the pinned ARK. Dates are the caller's to judge.
func (t trust) certificate(der []byte) (*Object, error) {
	if len(der) > maxCertificateSize {
		return nil, fmt.Errorf("a certificate of %d bytes, at most %d are read", len(der), maxCertificateSize)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("not a certificate: %w", err)
	}
	if c.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, fmt.Errorf("%.60q is signed with %s, want %s", c.Subject.CommonName, c.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	switch c.Subject.CommonName {
	case "SEV-VCEK":
		return t.endorsement(c, VCEK)
	case "SEV-VLEK":
		return t.endorsement(c, VLEK)
	}
	return t.intermediate(c)
}

func (t trust) endorsement(c *x509.Certificate, kind Kind) (*Object, error) {
	ext, err := sevsnp.ParseExtensions(c)
	if err != nil {
		return nil, err
	}
	at := slot{ext.Product, string(kind)}
	switch {
	case c.IsCA:
		return nil, errors.New("an endorsement that is a CA")
	case kind == VCEK && (ext.HWID == nil || ext.CSPID != ""), kind == VLEK && (ext.HWID != nil || ext.CSPID == ""):
		return nil, fmt.Errorf("a %s with hwid %q and csp_id %.60q", at.signingKey, ext.HWID, ext.CSPID)
	}
	if err := signedByOne(c, t.parents(at)); err != nil {
		return nil, err
	}
	tcb := ext.TCB
	return &Object{
		Kind: kind, Product: at.product, SigningKey: at.signingKey, ChipID: ext.HWID, CSPID: ext.CSPID, TCB: &tcb,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, DER: c.Raw,
	}, nil
}

// parents are the ASKs or ASVKs of a slot that are known.
func (t trust) parents(at slot) []*x509.Certificate {
	out := t.roots.Issuers(at.product, at.signingKey)
	if t.issuers != nil {
		out = append(out, t.issuers(at)...)
	}
	return out
}

func (t trust) intermediate(c *x509.Certificate) (*Object, error) {
	at, ok := roleOf(c)
	if !ok || at.signingKey == "" {
		return nil, fmt.Errorf("common name %.60q is none of a VCEK, VLEK, ASK or ASVK", c.Subject.CommonName)
	}
	ark := t.roots.Root(at.product)
	if ark == nil {
		return nil, fmt.Errorf("no root is pinned for %s", at.product)
	}
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%.60q is not a CA", c.Subject.CommonName)
	}
	if err := signedByOne(c, []*x509.Certificate{ark}); err != nil {
		return nil, err
	}
	kind := ASK
	if at.signingKey == sevsnp.VLEK {
		kind = ASVK
	}
	return &Object{Kind: kind, Product: at.product, SigningKey: at.signingKey, NotBefore: c.NotBefore, NotAfter: c.NotAfter, DER: c.Raw}, nil
}

// signedByOne demands that one of the parents has the issuer's name and signed
// the certificate.
func signedByOne(c *x509.Certificate, parents []*x509.Certificate) error {
	err := fmt.Errorf("its issuer %.120q is not under a pinned root", c.Issuer.String())
	for _, p := range parents {
		if !bytes.Equal(p.RawSubject, c.RawIssuer) {
			continue
		}
		if sigErr := p.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); sigErr != nil {
			err = fmt.Errorf("%.60q is not signed by its issuer: %w", c.Subject.CommonName, sigErr)
			continue
		}
		return nil
	}
	return err
}

// crl verifies a CRL for a slot: signed by the pinned ARK, complete, and speaking
// of the slot's issuer. One ARK signs a CRL for its ASK and another for its ASVK,
// which the issuing distribution point tells apart; in the other's place, the one
// with the higher number would keep the true one out. Its dates are the caller's
// to judge.
func (t trust) crl(der []byte, at slot) (*Object, error) {
	if len(der) > maxCRLSize {
		return nil, fmt.Errorf("a CRL of %d bytes, at most %d are read", len(der), maxCRLSize)
	}
	ark := t.roots.Root(at.product)
	if ark == nil {
		return nil, fmt.Errorf("no root is pinned for %.40q", at.product)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("not a CRL: %w", err)
	}
	switch {
	case !bytes.Equal(list.RawIssuer, ark.RawSubject):
		return nil, fmt.Errorf("the CRL is by %.120q, not by the ARK of %s", list.Issuer.String(), at.product)
	case list.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return nil, fmt.Errorf("the CRL is signed with %s, want %s", list.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	if err := list.CheckSignatureFrom(ark); err != nil {
		return nil, fmt.Errorf("the CRL is not signed by the pinned ARK of %s: %w", at.product, err)
	}
	points, err := sevsnp.CRLDistributionPoints(list)
	if err != nil {
		return nil, fmt.Errorf("the CRL: %w", err)
	}
	if len(points) > 0 && !slices.ContainsFunc(t.parents(at), func(i *x509.Certificate) bool {
		return slices.ContainsFunc(i.CRLDistributionPoints, func(p string) bool { return slices.Contains(points, p) })
	}) {
		return nil, fmt.Errorf("the CRL is for the distribution point %.120q, which is not that of the issuers of %s", points[0], at)
	}
	return &Object{
		Kind: CRL, Product: at.product, SigningKey: at.signingKey, Number: list.Number,
		NotBefore: list.ThisUpdate, NotAfter: list.NextUpdate, DER: list.Raw,
	}, nil
}
