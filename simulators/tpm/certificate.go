package tpm

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// Object identifiers of the TCG EK Credential Profile (section 3.1 of version
// 2.3), and two of X.509.
var (
	oidManufacturer  = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel         = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion       = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSpecification = asn1.ObjectIdentifier{2, 23, 133, 2, 16}
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidServerAuth    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}

	oidSubjectAttributes = asn1.ObjectIdentifier{2, 5, 29, 9}
	oidSubjectName       = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidExtendedUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// What the certificates say of the TPM. The manufacturer is in the form of the
// profile: "id:" and four letters in hex, here those of "SIMU".
const (
	Manufacturer = "id:53494D55"
	Model        = "simulated TPM (swtpm)"
	Version      = "id:00010000"
)

// node is a certificate with its key.
type node struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// blueprint is everything that decides a certificate's bytes. A fault changes
// one field of one blueprint.
type blueprint struct {
	subject             []byte // DER name
	serial              *big.Int
	notBefore, notAfter time.Time
	public              crypto.PublicKey
	extensions          []pkix.Extension
}

// issue makes the certificate; issuer nil makes it self-signed with the key.
func (b blueprint) issue(issuer *node, key crypto.Signer) (*node, error) {
	parent, signer := &x509.Certificate{RawSubject: b.subject}, key
	if issuer != nil {
		parent.RawSubject, signer = issuer.cert.RawSubject, issuer.key
	}
	// Only ExtraExtensions are given, so that the standard library adds none of
	// its own and keeps the order.
	template := &x509.Certificate{
		SerialNumber: b.serial, RawSubject: b.subject,
		NotBefore: b.notBefore.UTC().Truncate(time.Second), NotAfter: b.notAfter.UTC().Truncate(time.Second),
		ExtraExtensions: b.extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, b.public, signer)
	if err != nil {
		return nil, fmt.Errorf("tpm: making a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("tpm: reading back a certificate: %w", err)
	}
	return &node{cert: cert, key: key}, nil
}

// ekCertificate certifies an endorsement key; faults change the blueprint.
func (a *Authority) ekCertificate(key crypto.PublicKey, faults []Fault) ([]byte, error) {
	p := &ekPlan{authority: a, issuer: a.intermediate}
	var err error
	if p.blueprint, err = a.ekBlueprint(key); err != nil {
		return nil, err
	}
	for _, f := range faults {
		if f.onCertificate == nil {
			continue
		}
		if err := f.onCertificate(p); err != nil {
			return nil, fmt.Errorf("tpm: fault %s: %w", f.Name, err)
		}
	}
	if p.absent {
		return nil, nil
	}
	n, err := p.blueprint.issue(p.issuer, nil)
	if err != nil {
		return nil, err
	}
	der := n.cert.Raw
	for _, f := range p.after {
		der = f(der)
	}
	return der, nil
}

// ekPlan is an EK certificate before it is made.
type ekPlan struct {
	authority *Authority
	issuer    *node
	blueprint blueprint
	absent    bool
	after     []func(der []byte) []byte
}

// ekBlueprint has the extensions that section 3.2 of the profile asks for. The
// subject is empty, so the critical alternative name says which TPM it is.
func (a *Authority) ekBlueprint(key crypto.PublicKey) (b blueprint, err error) {
	if b.subject, err = certificate.Name(); err != nil {
		return b, fmt.Errorf("tpm: %w", err)
	}
	if b.serial, err = serial(); err != nil {
		return b, err
	}
	b.notBefore, b.notAfter = a.now().Add(-ekCertificateAge), noEnd()
	b.public = key
	use := x509.KeyUsageKeyAgreement
	if _, isRSA := key.(*rsa.PublicKey); isRSA {
		use = x509.KeyUsageKeyEncipherment
	}
	usage, err := certificate.Usage(use)
	if err != nil {
		return b, err
	}
	constraints, err := certificate.Constraints(false, -1)
	if err != nil {
		return b, err
	}
	name, err := ekName(Manufacturer, Model, Version)
	if err != nil {
		return b, err
	}
	eku, err := extendedUsage(oidEKCertificate)
	if err != nil {
		return b, err
	}
	spec, err := specification()
	if err != nil {
		return b, err
	}
	from, err := certificate.AuthorityID(a.intermediate.key.Public())
	b.extensions = []pkix.Extension{name, constraints, usage, eku, spec, from}
	return b, err
}

// ekName is the critical subjectAltName with a directoryName of manufacturer,
// model and version (section 3.1.2); an empty one is left out.
func ekName(manufacturer, model, version string) (pkix.Extension, error) {
	var seq pkix.RDNSequence
	for _, a := range []struct {
		oid   asn1.ObjectIdentifier
		value string
	}{{oidManufacturer, manufacturer}, {oidModel, model}, {oidVersion, version}} {
		if a.value == "" {
			continue
		}
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{
			Type: a.oid, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(a.value)},
		}})
	}
	name, err := asn1.Marshal(seq)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("tpm: %w", err)
	}
	// directoryName is [4] EXPLICIT, as Name is a CHOICE (RFC 5280, section 4.2.1.6).
	v, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("tpm: %w", err)
	}
	return pkix.Extension{Id: oidSubjectName, Critical: true, Value: v}, nil
}

func extendedUsage(uses ...asn1.ObjectIdentifier) (pkix.Extension, error) {
	v, err := asn1.Marshal(uses)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("tpm: %w", err)
	}
	return pkix.Extension{Id: oidExtendedUsage, Value: v}, nil
}

// specification is the subjectDirectoryAttributes with the TPM specification
// (section 3.1.1): family, level and revision.
func specification() (pkix.Extension, error) {
	type spec struct {
		Family   string `asn1:"utf8"`
		Level    int
		Revision int
	}
	type attribute struct {
		Type   asn1.ObjectIdentifier
		Values []spec `asn1:"set"`
	}
	v, err := asn1.Marshal([]attribute{{oidSpecification, []spec{{"2.0", 0, 164}}}})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("tpm: %w", err)
	}
	return pkix.Extension{Id: oidSubjectAttributes, Value: v}, nil
}
