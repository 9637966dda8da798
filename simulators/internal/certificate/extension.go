package certificate

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
)

// Extensions of RFC 5280, section 4.2.1, and one that nobody knows.
var (
	OIDSubjectID   = asn1.ObjectIdentifier{2, 5, 29, 14}
	OIDUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	OIDConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	OIDCRL         = asn1.ObjectIdentifier{2, 5, 29, 31}
	OIDAuthorityID = asn1.ObjectIdentifier{2, 5, 29, 35}
	OIDUnknown     = asn1.ObjectIdentifier{2, 25, 1}
)

// Constraints is a critical basicConstraints (section 4.2.1.9). A negative
// pathLen sets no limit.
func Constraints(ca bool, pathLen int) (pkix.Extension, error) {
	if pathLen < 0 {
		pathLen = -1
	}
	v, err := asn1.Marshal(struct {
		CA      bool `asn1:"optional"`
		PathLen int  `asn1:"optional,default:-1"`
	}{ca, pathLen})
	return pkix.Extension{Id: OIDConstraints, Critical: true, Value: v}, err
}

// Usage is a critical keyUsage (section 4.2.1.3), of the uses from
// digitalSignature to encipherOnly. Bit 0 of the bit string is the most
// significant.
func Usage(u x509.KeyUsage) (pkix.Extension, error) {
	var b byte
	length := 0
	for i := range 8 {
		if u&(1<<i) != 0 {
			b |= 0x80 >> i
			length = i + 1
		}
	}
	v, err := asn1.Marshal(asn1.BitString{Bytes: []byte{b}[:(length+7)/8], BitLength: length})
	return pkix.Extension{Id: OIDUsage, Critical: true, Value: v}, err
}

// SubjectID is the key identifier (section 4.2.1.2) of the certified key.
func SubjectID(public crypto.PublicKey) (pkix.Extension, error) {
	id, err := keyID(public)
	if err != nil {
		return pkix.Extension{}, err
	}
	v, err := asn1.Marshal(id)
	return pkix.Extension{Id: OIDSubjectID, Value: v}, err
}

// AuthorityID is the key identifier (section 4.2.1.1) of the issuer's key. It
// names no key when there is none.
func AuthorityID(public crypto.PublicKey) (pkix.Extension, error) {
	var id []byte
	if public != nil {
		var err error
		if id, err = keyID(public); err != nil {
			return pkix.Extension{}, err
		}
	}
	v, err := asn1.Marshal(struct {
		ID []byte `asn1:"optional,tag:0"`
	}{id})
	return pkix.Extension{Id: OIDAuthorityID, Value: v}, err
}

// CRL is one distribution point with one URI (section 4.2.1.13).
func CRL(url string) (pkix.Extension, error) {
	type name struct {
		FullName []asn1.RawValue `asn1:"optional,tag:0"`
	}
	type point struct {
		Name name `asn1:"optional,tag:0"`
	}
	uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(url)}
	v, err := asn1.Marshal([]point{{name{[]asn1.RawValue{uri}}}})
	return pkix.Extension{Id: OIDCRL, Value: v}, err
}

// keyID is RFC 7093, section 2, method 1: the leftmost 160 bits of SHA-256 over
// the key. (AWS and AMD use SHA-1 over it; the length is the same, and nobody
// verifies it.)
func keyID(public crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	return sum[:20], nil
}
