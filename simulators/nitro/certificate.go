package nitro

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
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

// Object identifiers of RFC 5280, section 4.2.1, and of X.520 attributes.
var (
	oidConstraints  = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectID    = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAuthorityID  = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRL          = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidPadding      = asn1.ObjectIdentifier{2, 25, 1} // any arc of ours: it only takes up room
	oidCountry      = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidState        = asn1.ObjectIdentifier{2, 5, 4, 8}
	oidLocality     = asn1.ObjectIdentifier{2, 5, 4, 7}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidUnit         = asn1.ObjectIdentifier{2, 5, 4, 11}
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
)

type attribute struct {
	oid   asn1.ObjectIdentifier
	value string
}

// distinguishedName encodes a Name as AWS does: UTF8String throughout, but the
// country, which must be a PrintableString (RFC 5280, appendix A.1).
func distinguishedName(attrs ...attribute) ([]byte, error) {
	seq := make(pkix.RDNSequence, 0, len(attrs))
	for _, a := range attrs {
		tag := asn1.TagUTF8String
		if a.oid.Equal(oidCountry) {
			tag = asn1.TagPrintableString
		}
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{
			Type: a.oid, Value: asn1.RawValue{Tag: tag, Bytes: []byte(a.value)},
		}})
	}
	return asn1.Marshal(seq)
}

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
	var authority []byte
	if issuer != nil {
		signer = issuer.key
		parent.RawSubject = issuer.cert.RawSubject
		authority = keyID(issuer.cert.RawSubjectPublicKeyInfo)
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

func (b blueprint) extensions(authority []byte, pad int) ([]pkix.Extension, error) {
	var order []asn1.ObjectIdentifier
	switch b.layout {
	case layoutRoot:
		order = []asn1.ObjectIdentifier{oidConstraints, oidSubjectID, oidUsage}
	case layoutUpper:
		order = []asn1.ObjectIdentifier{oidConstraints, oidAuthorityID, oidSubjectID, oidUsage, oidCRL}
	case layoutInstance:
		order = []asn1.ObjectIdentifier{oidConstraints, oidUsage, oidSubjectID, oidAuthorityID}
	case layoutLeaf:
		order = []asn1.ObjectIdentifier{oidConstraints, oidUsage}
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
		out = append(out, pkix.Extension{Id: oidPadding, Critical: true, Value: []byte{5, 0}})
	}
	if pad > 0 {
		out = append(out, pkix.Extension{Id: oidPadding, Value: make([]byte, pad)})
	}
	return out, nil
}

// extension returns one extension, without value when the blueprint leaves it
// out.
func (b blueprint) extension(oid asn1.ObjectIdentifier, authority []byte) (e pkix.Extension, err error) {
	e.Id = oid
	switch {
	case oid.Equal(oidConstraints):
		if b.noConstraints {
			return e, nil
		}
		e.Critical = true
		e.Value, err = asn1.Marshal(struct {
			CA      bool `asn1:"optional"`
			PathLen int  `asn1:"optional,default:-1"`
		}{b.ca, b.pathLen})
	case oid.Equal(oidUsage):
		if b.usage == 0 {
			return e, nil
		}
		e.Critical = b.usageCritical
		e.Value, err = marshalUsage(b.usage)
	case oid.Equal(oidSubjectID):
		spki, merr := x509.MarshalPKIXPublicKey(b.key.Public())
		if merr != nil {
			return e, merr
		}
		e.Value, err = asn1.Marshal(keyID(spki))
	case oid.Equal(oidAuthorityID):
		e.Value, err = asn1.Marshal(struct {
			ID []byte `asn1:"optional,tag:0"`
		}{authority})
	case oid.Equal(oidCRL):
		if b.crl == "" {
			return e, nil
		}
		e.Value, err = marshalCRL(b.crl)
	}
	return e, err
}

// keyID is RFC 7093, section 2, method 1: the leftmost 160 bits of SHA-256 over
// the key. (AWS uses SHA-1 over it; the length is the same, and nobody verifies
// it.)
func keyID(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:20]
}

// marshalUsage encodes the KeyUsage bit string; bit 0 is the most significant
// (RFC 5280, section 4.2.1.3).
func marshalUsage(u x509.KeyUsage) ([]byte, error) {
	var b byte
	length := 0
	for i := range 8 {
		if u&(1<<i) != 0 {
			b |= 0x80 >> i
			length = i + 1
		}
	}
	return asn1.Marshal(asn1.BitString{Bytes: []byte{b}, BitLength: length})
}

// marshalCRL encodes one distribution point with one URI (RFC 5280, section
// 4.2.1.13).
func marshalCRL(url string) ([]byte, error) {
	type name struct {
		FullName []asn1.RawValue `asn1:"optional,tag:0"`
	}
	type point struct {
		Name name `asn1:"optional,tag:0"`
	}
	uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(url)}
	return asn1.Marshal([]point{{name{[]asn1.RawValue{uri}}}})
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
