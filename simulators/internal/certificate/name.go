// Package certificate encodes the parts of X.509 certificates (RFC 5280) that
// the makers of devices write alike: attributes of names, and the usual
// extensions. Which of them a certificate has, in what order and with which
// values, is the device's own affair.
package certificate

import (
	"crypto/x509/pkix"
	"encoding/asn1"
)

// Attribute is one attribute of a name.
type Attribute struct {
	oid   asn1.ObjectIdentifier
	tag   int // of its string type
	value string
}

// Attributes of names (X.520, and RFC 5280, appendix A.1): UTF8Strings, but the
// country, which must be a PrintableString.

// Country is a two-letter code of ISO 3166.
func Country(code string) Attribute {
	return Attribute{asn1.ObjectIdentifier{2, 5, 4, 6}, asn1.TagPrintableString, code}
}

// State is a state or province.
func State(name string) Attribute { return utf8String(8, name) }

// Locality is a town.
func Locality(name string) Attribute { return utf8String(7, name) }

// Organization is a company.
func Organization(name string) Attribute { return utf8String(10, name) }

// Unit is a part of an organization.
func Unit(name string) Attribute { return utf8String(11, name) }

// CommonName is what the certified is called.
func CommonName(name string) Attribute { return utf8String(3, name) }

func utf8String(arc int, value string) Attribute {
	return Attribute{asn1.ObjectIdentifier{2, 5, 4, arc}, asn1.TagUTF8String, value}
}

// Name encodes a Name of attributes in the order given, each an RDN of its own.
func Name(attributes ...Attribute) ([]byte, error) {
	seq := make(pkix.RDNSequence, 0, len(attributes))
	for _, a := range attributes {
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{
			Type: a.oid, Value: asn1.RawValue{Tag: a.tag, Bytes: []byte(a.value)},
		}})
	}
	return asn1.Marshal(seq)
}
