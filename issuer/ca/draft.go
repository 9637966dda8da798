package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"time"
)

// draft is the certificate to sign, whole but for an empty signature: the
// X509-SVID profile (SPIFFE X509-SVID, sections 2, 3.2, 4 and appendix A), and
// the attestation result in a non-critical extension. It verifies nowhere.
//
// It is written here, and not by x509.CreateCertificate, because that signs what
// it writes and verifies the signature: with a key that is nobody's, since
// nothing is linted yet, so both would be for nothing, and are a third of an
// issuance. A test compares the bytes with those that crypto/x509 writes, and
// the lint reads them with crypto/x509's parser before anything is signed.
func (p *profile) draft(result pkix.Extension, authority *x509.Certificate) ([]byte, error) {
	subject, err := asn1.Marshal(pkix.Name{Organization: []string{p.id.TrustDomain().Name()}}.ToRDNSequence()) // names nobody: relying parties read the URI
	if err != nil {
		return nil, err
	}
	extensions, err := p.extensions(result, authority)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(certificate{
		TBS: tbsCertificate{
			Version:            2, // X.509 version 3
			SerialNumber:       new(big.Int).SetBytes(p.serial[:]),
			SignatureAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256},
			Issuer:             asn1.RawValue{FullBytes: authority.RawSubject},
			Validity:           validity{p.notBefore.UTC(), p.notAfter.UTC()},
			Subject:            asn1.RawValue{FullBytes: subject},
			PublicKey:          asn1.RawValue{FullBytes: p.spki},
			Extensions:         extensions,
		},
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256},
	})
}

// certificate is a Certificate before it is signed (RFC 5280, section 4.1).
type certificate struct {
	TBS       tbsCertificate
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type tbsCertificate struct {
	Version            int `asn1:"explicit,tag:0"`
	SerialNumber       *big.Int
	SignatureAlgorithm pkix.AlgorithmIdentifier
	Issuer             asn1.RawValue
	Validity           validity
	Subject            asn1.RawValue
	PublicKey          asn1.RawValue
	Extensions         []pkix.Extension `asn1:"explicit,tag:3"`
}

type validity struct{ NotBefore, NotAfter time.Time }

// Object identifiers of the two usages (RFC 5280, section 4.2.1.12).
var (
	oidServerAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// extensions are those of the profile, in the order in which crypto/x509 writes
// them (RFC 5280, section 4.2.1).
func (p *profile) extensions(result pkix.Extension, authority *x509.Certificate) ([]pkix.Extension, error) {
	ski, err := keyID(p.spki)
	if err != nil {
		return nil, err
	}
	var out []pkix.Extension
	for _, e := range []struct {
		id       asn1.ObjectIdentifier
		critical bool
		value    any
	}{
		{oidKeyUsage, true, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}}, // digitalSignature
		{oidExtKeyUsage, false, []asn1.ObjectIdentifier{oidServerAuth, oidClientAuth}},
		{oidBasicConstraints, true, struct{}{}}, // CA:FALSE, which is the default
		{oidSubjectKeyID, false, ski},
		{oidAuthorityKeyID, false, struct {
			ID []byte `asn1:"tag:0"`
		}{authority.SubjectKeyId}},
		{oidSAN, false, []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(p.id.String())}}}, // a URI
	} {
		value, err := asn1.Marshal(e.value)
		if err != nil {
			return nil, err
		}
		out = append(out, pkix.Extension{Id: e.id, Critical: e.critical, Value: value})
	}
	return append(out, result), nil
}
