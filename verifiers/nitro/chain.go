package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// link is the last certificate of a chain prefix that verified, with what the
// prefix as a whole allows. It is immutable and shared between goroutines.
type link struct {
	cert      *x509.Certificate
	notBefore time.Time // latest of the prefix
	notAfter  time.Time // earliest of the prefix
	below     int       // how many CA certificates may follow (path length)
	pool      *x509.CertPool
}

// validAt reports whether every certificate of the prefix is valid at t.
func (l *link) validAt(t time.Time) bool { return !t.Before(l.notBefore) && !t.After(l.notAfter) }

// child is the link for a certificate under the prefix, allowing no CA below.
func (l *link) child(cert *x509.Certificate) *link {
	return &link{cert: cert, notBefore: later(l.notBefore, cert.NotBefore), notAfter: earlier(l.notAfter, cert.NotAfter)}
}

// leafLink is the child with the pool that nitrite is given: the leaf alone.
func leafLink(prefix *link, cert *x509.Certificate) *link {
	l := prefix.child(cert)
	l.pool = x509.NewCertPool()
	l.pool.AddCert(cert)
	return l
}

// digest names a chain prefix: SHA-256 over a tag and each certificate's DER
// behind its length, from the root down.
type digest [sha256.Size]byte

// chainTag separates these digests from every other use of SHA-256.
const chainTag = "assay/v1 nitro chain"

// chain is a verified chain, with what was verified just now and may be
// remembered once the document's own signature is known to be good.
type chain struct {
	leaf  *link
	fresh []fresh
}

type fresh struct {
	key  digest
	link *link
	leaf bool
}

// digests computes the digest of every prefix of cabundle and leaf. Index i is
// the prefix that ends in certificate i; the leaf comes last.
func digests(ders [][]byte) []digest {
	out := make([]digest, len(ders))
	h := sha256.New()
	_, _ = h.Write([]byte(chainTag)) // a hash.Hash never fails
	var n [4]byte
	for i, der := range ders {
		binary.BigEndian.PutUint32(n[:], uint32(len(der)))
		_, _ = h.Write(n[:])
		_, _ = h.Write(der)
		h.Sum(out[i][:0])
	}
	return out
}

// verifyChain verifies root, intermediates and leaf, in the order given and
// from the root down, at the given time. It starts behind the longest prefix
// that it remembers; what it verifies itself is returned as fresh and is not
// remembered yet.
func (v *Verifier) verifyChain(d *document, at time.Time) (*chain, error) {
	root, err := v.root(d.cabundle[0])
	if err != nil {
		return nil, err
	}
	ders := make([][]byte, 0, maxBundle+1)
	ders = append(append(ders, d.cabundle...), d.certificate)
	keys := digests(ders)
	last := len(ders) - 1
	if l := v.cache.leaf(keys[last], at); l != nil {
		return &chain{leaf: l}, nil
	}
	// Position of the last certificate that needs no verification: the longest
	// known prefix, or the pinned root.
	known, prefix := 0, root
	for i := last - 1; i > 0; i-- {
		if l := v.cache.issuer(keys[i], at); l != nil {
			known, prefix = i, l
			break
		}
	}
	v.cache.count(known > 0)
	certs, err := parse(ders[known+1:], known+1)
	if err != nil {
		return nil, err
	}
	c := &chain{fresh: make([]fresh, 0, len(certs))}
	if known == 0 && !root.validAt(at) {
		return nil, refuseValidity(root.cert, 0, at)
	}
	for i, cert := range certs {
		pos := known + 1 + i
		if err := linked(prefix.cert, cert, pos, ders); err != nil {
			return nil, err
		}
		isLeaf := pos == last
		next, err := v.extend(prefix, cert, pos, isLeaf, at)
		if err != nil {
			return nil, err
		}
		c.fresh = append(c.fresh, fresh{key: keys[pos], link: next, leaf: isLeaf})
		prefix = next
	}
	c.leaf = prefix
	return c, nil
}

// root finds the pinned root that is exactly this certificate.
func (v *Verifier) root(der []byte) (*link, error) {
	sum := sha256.Sum256(der)
	if l, ok := v.roots[sum]; ok {
		return l, nil
	}
	hint := "the document comes from a simulator or from another vendor; a root is pinned, never taken from the evidence"
	if v.simulated {
		hint = "this verifier knows simulated roots only; check which simulator made the document"
	}
	return nil, refuse(CheckChainRoot, detail{
		Err:      errors.New("the chain does not begin with a pinned root"),
		Expected: "SHA-256 " + v.pins, Got: fmt.Sprintf("%x", sum), Hint: hint,
	})
}

// rootLink is where every chain begins. MaxPathLen is -1 in a certificate
// without the constraint (crypto/x509).
func rootLink(c *x509.Certificate) *link {
	below := math.MaxInt
	if c.MaxPathLen >= 0 {
		below = c.MaxPathLen
	}
	return &link{cert: c, notBefore: c.NotBefore, notAfter: c.NotAfter, below: below}
}

// parse reads the certificates from position first on.
func parse(ders [][]byte, first int) ([]*x509.Certificate, error) {
	out := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(CheckChainParse, detail{
				Err: fmt.Errorf("certificate %d of the chain does not parse: %w", first+i, err), Got: clipHex(der),
			})
		}
		out[i] = c
	}
	return out, nil
}

// linked checks that cert names parent as its issuer, byte for byte.
func linked(parent, cert *x509.Certificate, pos int, ders [][]byte) error {
	if bytes.Equal(cert.RawIssuer, parent.RawSubject) {
		return nil
	}
	d := detail{Expected: fmt.Sprintf("%.120q", parent.Subject.String()), Got: fmt.Sprintf("%.120q", cert.Issuer.String())}
	for i, der := range ders {
		// Only for the message: does its issuer stand elsewhere in the document?
		if other, err := x509.ParseCertificate(der); err == nil && i != pos && bytes.Equal(other.RawSubject, cert.RawIssuer) {
			d.Err = fmt.Errorf("certificate %d of the chain stands at the wrong place: its issuer is certificate %d", pos, i)
			return refuse(CheckChainOrder, d)
		}
	}
	d.Err = fmt.Errorf("certificate %d of the chain was not issued by the one before it", pos)
	return refuse(CheckChainIssuer, d)
}

// extend verifies one certificate under a verified prefix: what it is, that the
// prefix's key signed it, and that it is valid now.
func (v *Verifier) extend(prefix *link, cert *x509.Certificate, pos int, leaf bool, at time.Time) (*link, error) {
	if cert.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		return nil, refuse(CheckChainAlgorithm, detail{
			Err: fmt.Errorf("certificate %d of the chain is signed with another algorithm", pos), Expected: x509.ECDSAWithSHA384.String(), Got: cert.SignatureAlgorithm.String(),
		})
	}
	if err := refusedExtension(cert); err != nil {
		return nil, refuse(CheckChainExtension, detail{Err: fmt.Errorf("certificate %d of the chain: %w", pos, err)})
	}
	var next *link
	if leaf {
		if err := checkLeaf(cert); err != nil {
			return nil, err
		}
		next = leafLink(prefix, cert)
	} else {
		below, err := checkCA(prefix, cert, pos)
		if err != nil {
			return nil, err
		}
		next = prefix.child(cert)
		next.below = below
	}
	v.cache.signatures.Add(1)
	if err := prefix.cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return nil, refuse(CheckChainSignature, detail{Err: fmt.Errorf("certificate %d of the chain was not signed by the one before it: %w", pos, err)})
	}
	if at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
		return nil, refuseValidity(cert, pos, at)
	}
	return next, nil
}

// checkCA checks an intermediate and returns how many CAs may follow it.
func checkCA(prefix *link, cert *x509.Certificate, pos int) (below int, err error) {
	if !isP384(cert) {
		return 0, refuse(CheckChainAlgorithm, detail{
			Err: fmt.Errorf("certificate %d of the chain has a key of another kind", pos), Expected: "ECDSA on P-384", Got: keyKind(cert),
		})
	}
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return 0, refuse(CheckChainCA, detail{
			Err: fmt.Errorf("certificate %d of the chain may not issue certificates", pos), Expected: "CA with key usage keyCertSign",
			Got: fmt.Sprintf("CA %t, keyCertSign %t", cert.IsCA, cert.KeyUsage&x509.KeyUsageCertSign != 0),
		})
	}
	if prefix.below == 0 {
		return 0, refuse(CheckChainPathLength, detail{Err: fmt.Errorf("certificate %d of the chain is a CA where a path length constraint allows only a leaf", pos)})
	}
	below = prefix.below - 1
	if cert.MaxPathLen >= 0 {
		below = min(below, cert.MaxPathLen)
	}
	return below, nil
}

func checkLeaf(cert *x509.Certificate) error {
	if cert.IsCA {
		return refuse(CheckLeafIsCA, detail{Err: errors.New("the document's certificate is a CA"), Expected: "CA false", Got: "CA true"})
	}
	const issuing = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 || cert.KeyUsage&issuing != 0 {
		return refuse(CheckLeafKeyUsage, detail{
			Err: errors.New("the document's certificate may not sign documents"), Expected: "digitalSignature, and neither keyCertSign nor cRLSign", Got: fmt.Sprintf("key usage bits %09b", cert.KeyUsage),
		})
	}
	if !isP384(cert) {
		return refuse(CheckLeafCurve, detail{
			Err: errors.New("the document's key is of another kind"), Expected: "ECDSA on P-384", Got: keyKind(cert),
		})
	}
	return nil
}

// refusedExtension refuses what is not evaluated here: a critical extension
// must not be ignored (RFC 5280, section 4.2), and constraints on names and
// policies would constrain what follows. AWS's certificates have none of them.
func refusedExtension(c *x509.Certificate) error {
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oid(15)), e.Id.Equal(oid(19)): // key usage, basic constraints
		case e.Id.Equal(oid(30)), e.Id.Equal(oid(36)), e.Id.Equal(oid(54)), e.Id.Equal(oid(33)):
			return fmt.Errorf("extension %s (constraint on names or policies) is not accepted", e.Id)
		case e.Critical:
			return fmt.Errorf("critical extension %s is not understood", e.Id)
		}
	}
	return nil
}

// oid is an object identifier of certificate extensions, 2.5.29.n.
func oid(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, n} }

func refuseValidity(cert *x509.Certificate, pos int, at time.Time) error {
	hint := "ask for a fresh document; a recorded one is verified with the time at which it was recorded"
	if at.Before(cert.NotBefore) {
		hint = "check the clock of this machine"
	}
	return refuse(CheckChainValidity, detail{
		Err:      fmt.Errorf("certificate %d of the chain is not valid at this time", pos),
		Expected: cert.NotBefore.UTC().Format(time.RFC3339) + " to " + cert.NotAfter.UTC().Format(time.RFC3339),
		Got:      at.UTC().Format(time.RFC3339), Hint: hint,
	})
}

func keyKind(c *x509.Certificate) string {
	if k, ok := c.PublicKey.(*ecdsa.PublicKey); ok {
		return "ECDSA on " + k.Params().Name
	}
	return c.PublicKeyAlgorithm.String()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
