package nitro

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// node is one certificate of the chain with its key.
type node struct {
	der    []byte
	cert   *x509.Certificate
	key    crypto.Signer
	issuer *node // nil for a root
}

// blueprint is everything that decides a certificate's bytes but its serial
// number and its issuer. A fault changes one field of one blueprint.
type blueprint struct {
	subject             []byte // DER Name
	serial              *big.Int
	notBefore, notAfter time.Time
	key                 crypto.Signer           // the certified key
	signature           x509.SignatureAlgorithm // how the issuer signs; 0 = ECDSA with SHA-384
	signer              crypto.Signer           // instead of the issuer's key
	ca                  bool
	noConstraints       bool // leave basicConstraints out
	pathLen             int  // -1 = no limit
	usage               x509.KeyUsage
	usageCritical       bool
	identifiers         bool   // subject and authority key identifier
	crl                 string // URL, "" = no distribution point
	layout              layout
	critical            bool // add a critical extension that nobody knows
	exactSize           int  // pad with a private extension to this DER size
}

// layout is the order in which AWS writes the extensions, which differs from
// level to level.
type layout int

const (
	layoutRoot     layout = iota // constraints, subject id, usage
	layoutUpper                  // constraints, authority id, subject id, usage, CRL (regional and zonal)
	layoutInstance               // constraints, usage, subject id, authority id
	layoutLeaf                   // constraints, usage
)

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
}

// issue makes the certificate that the blueprint describes; issuer nil makes it
// self-signed.
func issue(b blueprint, issuer *node) (*node, error) {
	if b.exactSize == 0 {
		return b.issue(issuer, 0)
	}
	// The length of an ECDSA signature varies by a byte or two, so that the size
	// is reached by trying. Each try hits with a probability of a quarter or more.
	pad := 1
	for range 200 {
		n, err := b.issue(issuer, pad)
		if err != nil {
			return nil, err
		}
		if len(n.der) == b.exactSize {
			return n, nil
		}
		// A byte off may be the signature's; more is the padding's, whose own length
		// takes more room the longer it is.
		if diff := b.exactSize - len(n.der); pad+diff > 0 && (diff > 1 || diff < -1) {
			pad += diff
		}
	}
	return nil, fmt.Errorf("nitro: no certificate of exactly %d bytes in 200 tries", b.exactSize)
}

func (b blueprint) issue(issuer *node, pad int) (*node, error) {
	signer := b.key
	parent := &x509.Certificate{RawSubject: b.subject}
	var authority crypto.PublicKey
	if issuer != nil {
		signer = issuer.key
		parent.RawSubject = issuer.cert.RawSubject
		authority = issuer.cert.PublicKey
	}
	if b.signer != nil {
		signer = b.signer
	}
	algorithm := b.signature
	if _, isECDSA := signer.(*ecdsa.PrivateKey); algorithm == 0 && isECDSA {
		algorithm = x509.ECDSAWithSHA384
	}
	extensions, err := b.extensions(authority, pad)
	if err != nil {
		return nil, err
	}
	// Only ExtraExtensions are given, so that the standard library adds none of
	// its own and keeps the order.
	template := &x509.Certificate{
		SerialNumber: b.serial, RawSubject: b.subject,
		NotBefore: b.notBefore, NotAfter: b.notAfter,
		SignatureAlgorithm: algorithm, ExtraExtensions: extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, b.key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("nitro: making a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("nitro: reading back a certificate: %w", err)
	}
	return &node{der: der, cert: cert, key: b.key, issuer: issuer}, nil
}

func (b blueprint) extensions(authority crypto.PublicKey, pad int) ([]pkix.Extension, error) {
	var order []asn1.ObjectIdentifier
	switch b.layout {
	case layoutRoot:
		order = []asn1.ObjectIdentifier{certificate.OIDConstraints, certificate.OIDSubjectID, certificate.OIDUsage}
	case layoutUpper:
		order = []asn1.ObjectIdentifier{certificate.OIDConstraints, certificate.OIDAuthorityID, certificate.OIDSubjectID, certificate.OIDUsage, certificate.OIDCRL}
	case layoutInstance:
		order = []asn1.ObjectIdentifier{certificate.OIDConstraints, certificate.OIDUsage, certificate.OIDSubjectID, certificate.OIDAuthorityID}
	case layoutLeaf:
		order = []asn1.ObjectIdentifier{certificate.OIDConstraints, certificate.OIDUsage}
	}
	var out []pkix.Extension
	for _, oid := range order {
		e, err := b.extension(oid, authority)
		if err != nil {
			return nil, err
		}
		if e.Value != nil {
			out = append(out, e)
		}
	}
	if b.critical {
		out = append(out, pkix.Extension{Id: certificate.OIDUnknown, Critical: true, Value: []byte{5, 0}})
	}
	if pad > 0 { // a private extension that only takes up room
		out = append(out, pkix.Extension{Id: certificate.OIDUnknown, Value: make([]byte, pad)})
	}
	return out, nil
}

// extension returns one extension, without value when the blueprint leaves it
// out. An authority that is nil is no key.
func (b blueprint) extension(oid asn1.ObjectIdentifier, authority crypto.PublicKey) (e pkix.Extension, err error) {
	switch {
	case oid.Equal(certificate.OIDConstraints) && !b.noConstraints:
		return certificate.Constraints(b.ca, b.pathLen)
	case oid.Equal(certificate.OIDUsage) && b.usage != 0:
		e, err = certificate.Usage(b.usage)
		e.Critical = b.usageCritical
		return e, err
	case oid.Equal(certificate.OIDSubjectID):
		return certificate.SubjectID(b.key.Public())
	case oid.Equal(certificate.OIDAuthorityID):
		return certificate.AuthorityID(authority)
	case oid.Equal(certificate.OIDCRL) && b.crl != "":
		return certificate.CRL(b.crl)
	}
	return pkix.Extension{}, nil
}

// randomSerial returns a positive number of exactly n bytes.
func randomSerial(n int) (*big.Int, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}
