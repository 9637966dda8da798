package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// Bounds on what one certificate's chain can cost.
const (
	maxEndorsements    = 16
	maxEndorsementSize = 8 << 10
	maxPath            = 4 // certificates that came along in one path
	maxPaths           = 8
	maxAttempts        = 8  // signatures verified
	maxSteps           = 64 // certificates looked at on the way up
)

// Object identifiers of extensions and of extended key usages.
var (
	oidSAN      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCert   = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidAIKCert  = asn1.ObjectIdentifier{2, 23, 133, 8, 3} // tcg-kp-AIKCertificate
	constraints = []asn1.ObjectIdentifier{{2, 5, 29, 30}, {2, 5, 29, 33}, {2, 5, 29, 36}, {2, 5, 29, 54}}
)

// route is a path from a leaf to an anchor: certificates that came along, the
// leaf's issuer first, and the anchor at its end.
type route struct {
	along  []*x509.Certificate
	anchor *anchor
}

// errNoAnchor means that no pinned root is above the certificate, by name.
var errNoAnchor = errors.New("no pinned root issued this certificate, nor an intermediate that came along")

// routes lists the ways up from a leaf, by names alone.
func (r Roots) routes(purpose string, leaf *x509.Certificate, along []*x509.Certificate) []route {
	var out []route
	steps := 0
	var climb func(c *x509.Certificate, path []*x509.Certificate)
	climb = func(c *x509.Certificate, path []*x509.Certificate) {
		if steps++; steps > maxSteps {
			return // names that lead in circles
		}
		for _, a := range r.of(purpose, c.RawIssuer) {
			if len(out) < maxPaths {
				out = append(out, route{append([]*x509.Certificate(nil), path...), a})
			}
		}
		if len(path) == maxPath {
			return
		}
		for _, next := range along {
			if len(out) < maxPaths && bytes.Equal(next.RawSubject, c.RawIssuer) && !bytes.Equal(next.RawIssuer, next.RawSubject) && !contains(path, next) {
				climb(next, append(path, next))
			}
		}
	}
	climb(leaf, nil)
	return out
}

func contains(path []*x509.Certificate, c *x509.Certificate) bool {
	for _, have := range path {
		if have == c || bytes.Equal(have.Raw, c.Raw) {
			return true
		}
	}
	return false
}

// chainResult is a leaf's verified chain.
type chainResult struct {
	root                *x509.Certificate
	notBefore, notAfter time.Time
}

// verifyChain verifies a leaf under the pinned roots for a purpose. Each way up is
// verified from the anchor down, so that a forged chain costs one signature after
// the genuine part of it. Validity is checked last: a chain that is stale is a
// good one at another time. The second error says that, the first all else.
func (v *Verifier) verifyChain(purpose string, leaf *x509.Certificate, along []*x509.Certificate, at time.Time) (res chainResult, wrong, stale error) {
	ways := v.roots.routes(purpose, leaf, along)
	if len(ways) == 0 {
		return chainResult{}, errNoAnchor, nil
	}
	budget := maxAttempts
	for _, way := range ways {
		got, err := v.verifyRoute(way, leaf, &budget)
		if err != nil {
			if wrong == nil {
				wrong = err // by the first way, which is the likeliest
			}
			continue
		}
		if err := validAt(way, leaf, at); err != nil {
			stale = err
			continue
		}
		return got, nil, nil
	}
	if stale != nil {
		return chainResult{}, nil, stale
	}
	return chainResult{}, wrong, nil
}

func (v *Verifier) verifyRoute(way route, leaf *x509.Certificate, budget *int) (chainResult, error) {
	res := chainResult{root: way.anchor.root, notBefore: way.anchor.notBefore, notAfter: way.anchor.notAfter}
	parent := way.anchor.cert
	spend := func() error {
		if *budget == 0 {
			return fmt.Errorf("more than %d signatures to verify", maxAttempts)
		}
		*budget--
		v.cache.signatures.Add(1)
		return nil
	}
	if n := len(way.along); tooDeep(parent, n) {
		return chainResult{}, fmt.Errorf("%.120q: %d CAs below one that allows %d", parent.Subject.String(), n, parent.MaxPathLen)
	}
	for i := len(way.along) - 1; i >= 0; i-- {
		c := way.along[i]
		if err := spend(); err != nil {
			return chainResult{}, err
		}
		if err := checkCA(c, parent, i); err != nil {
			return chainResult{}, fmt.Errorf("%.120q: %w", c.Subject.String(), err)
		}
		res.notBefore, res.notAfter = latest(res.notBefore, c.NotBefore), earliest(res.notAfter, c.NotAfter)
		parent = c
	}
	if err := spend(); err != nil {
		return chainResult{}, err
	}
	if err := checkSigned(leaf, parent); err != nil {
		return chainResult{}, err
	}
	res.notBefore, res.notAfter = latest(res.notBefore, leaf.NotBefore), earliest(res.notAfter, leaf.NotAfter)
	return res, nil
}

// validAt finds the certificate of a chain that is not valid at a time.
func validAt(way route, leaf *x509.Certificate, at time.Time) error {
	for _, c := range append([]*x509.Certificate{way.anchor.root, way.anchor.cert, leaf}, way.along...) {
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return fmt.Errorf("%.120q is valid from %s to %s, and not at %s", c.Subject.String(),
				c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
	}
	if at.Before(way.anchor.notBefore) || at.After(way.anchor.notAfter) {
		return fmt.Errorf("a CA above %.120q is not valid at %s", way.anchor.cert.Subject.String(), at.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkCA demands of an intermediate or root that it is a CA for TPM certificates
// with so many CAs below it, and that parent signed it.
func checkCA(c, parent *x509.Certificate, below int) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return errors.New("not a CA certificate")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("a CA that may not sign certificates")
	case tooDeep(c, below):
		return fmt.Errorf("%d CAs below one that allows %d", below, c.MaxPathLen)
	}
	if err := checkUsages(c); err != nil {
		return err
	}
	if err := strongKey(c); err != nil {
		return err
	}
	if err := checkExtensions(c, false); err != nil {
		return err
	}
	return checkSigned(c, parent)
}

// tooDeep reports whether there are more CAs below one than it allows.
func tooDeep(c *x509.Certificate, below int) bool {
	return (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen
}

// checkUsages demands of a CA that restricts the usages below it that it leaves
// those of TPMs.
func checkUsages(c *x509.Certificate) error {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return nil
	}
	for _, u := range c.ExtKeyUsage {
		if u == x509.ExtKeyUsageAny {
			return nil
		}
	}
	if !hasUsage(c, oidEKCert) && !hasUsage(c, oidAIKCert) {
		return errors.New("a CA whose extended key usage leaves out the certificates of TPMs")
	}
	return nil
}

func hasUsage(c *x509.Certificate, usage asn1.ObjectIdentifier) bool {
	for _, u := range c.UnknownExtKeyUsage {
		if u.Equal(usage) {
			return true
		}
	}
	return false
}

// strongKey demands of a CA a key that cannot be computed.
func strongKey(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits && k.N.BitLen() <= 8192 {
			return nil
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	}
	return errors.New("a CA with a key that is too weak, or of a kind that is not supported")
}

// checkSigned verifies a signature. SHA-1 and MD5 are refused by crypto/x509.
func checkSigned(c, parent *x509.Certificate) error {
	if err := parent.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return fmt.Errorf("not signed by %.120q: %w", parent.Subject.String(), err)
	}
	return nil
}

// checkExtensions refuses what is not evaluated here: a critical extension must
// not be ignored (RFC 5280, section 4.2), and constraints on names and policies
// would constrain what follows. A leaf's subject alternative name may be critical:
// EK certificates have it so, and it is read elsewhere.
func checkExtensions(c *x509.Certificate, leaf bool) error {
	for _, e := range c.Extensions {
		for _, id := range constraints {
			if e.Id.Equal(id) {
				return fmt.Errorf("extension %s (constraint on names or policies) is not accepted", e.Id)
			}
		}
	}
	for _, id := range c.UnhandledCriticalExtensions {
		if !leaf || !id.Equal(oidSAN) {
			return fmt.Errorf("critical extension %s is not understood", id)
		}
	}
	return nil
}

// parseDER reads one certificate. What is read from a TPM's NV memory can have
// zeros behind it, up to the end of its index: they are cut off.
func parseDER(der []byte) (*x509.Certificate, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil {
		return nil, err
	}
	if len(bytes.Trim(rest, "\x00")) != 0 {
		return nil, errors.New("something other than zeros follows the certificate")
	}
	return x509.ParseCertificate(der[:len(der)-len(rest)])
}

// parseAlong reads the endorsements.
func parseAlong(in [][]byte) ([]*x509.Certificate, error) {
	out := make([]*x509.Certificate, 0, len(in))
	for i, der := range in {
		c, err := parseDER(der)
		if err != nil {
			return nil, refuse(CheckChainParse, detail{Err: fmt.Errorf("endorsement %d: %w", i, err)})
		}
		out = append(out, c)
	}
	return out, nil
}
