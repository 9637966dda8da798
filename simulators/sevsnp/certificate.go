package sevsnp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// Object identifiers of the KDS specification (AMD publication 57230, chapter
// 3).
var (
	oidStructVersion = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 1}
	oidProductName   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 2}
	oidBootloaderSPL = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 1}
	oidTEESPL        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 2}
	oidSNPSPL        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 3}
	oidSPL4          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 4}
	oidSPL5          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 5}
	oidSPL6          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 6}
	oidSPL7          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 7}
	oidMicrocodeSPL  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 8}
	oidFMCSPL        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 9}
	oidHWID          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
	oidCSPID         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 5}
)

// node is a certificate with its key.
type node struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// blueprint is everything that decides a certificate's bytes. A fault changes
// one field of one blueprint.
type blueprint struct {
	issuer, subject     []byte // DER names; issuer nil = the signing certificate's subject
	serial              *big.Int
	notBefore, notAfter time.Time
	public              crypto.PublicKey
	extensions          []pkix.Extension
	algorithm           x509.SignatureAlgorithm // 0 = RSA-PSS with SHA-384
	signer              crypto.Signer           // instead of the issuer's key
}

// issue makes the certificate; issuer nil makes it self-signed with the key.
func (b blueprint) issue(issuer *node, key crypto.Signer) (*node, error) {
	der, err := b.encode(issuer, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: reading back a certificate: %w", err)
	}
	return &node{cert: cert, key: key}, nil
}

// encode is issue for certificates that need not be good.
func (b blueprint) encode(issuer *node, key crypto.Signer) ([]byte, error) {
	parent := &x509.Certificate{RawSubject: b.subject}
	signer := key
	if issuer != nil {
		parent.RawSubject = issuer.cert.RawSubject
		signer = issuer.key
	}
	if b.issuer != nil {
		parent.RawSubject = b.issuer
	}
	if b.signer != nil {
		signer = b.signer
	}
	algorithm := b.algorithm
	if _, isRSA := signer.Public().(*rsa.PublicKey); algorithm == 0 && isRSA {
		algorithm = x509.SHA384WithRSAPSS
	}
	// Only ExtraExtensions are given, so that the standard library adds none of
	// its own and keeps the order.
	template := &x509.Certificate{
		SerialNumber: b.serial, RawSubject: b.subject,
		NotBefore: b.notBefore.UTC().Truncate(time.Second), NotAfter: b.notAfter.UTC().Truncate(time.Second),
		SignatureAlgorithm: algorithm, ExtraExtensions: b.extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, b.public, signer)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: making a certificate: %w", err)
	}
	return der, nil
}

// names are what all certificates of an authority have in common.
type names struct{ organization, unit, kds string }

// simulatedNames say what they are; amdNames are those of the real certificates.
func simulatedNames() names {
	return names{organization: "Assay simulator", unit: "Simulated", kds: "https://kdsintf.simulated.invalid"}
}

func amdNames() names {
	return names{organization: "Advanced Micro Devices", unit: "Engineering", kds: "https://kdsintf.amd.com"}
}

// distinguishedName is the name with AMD's attributes in AMD's order.
func (n names) distinguishedName(commonName string) ([]byte, error) {
	return certificate.Name(
		certificate.Unit(n.unit),
		certificate.Country("US"),
		certificate.Locality("Santa Clara"),
		certificate.State("CA"),
		certificate.Organization(n.organization),
		certificate.CommonName(commonName),
	)
}

// endorsement is what the certificate of a VCEK or VLEK says beside the key.
type endorsement struct {
	product Product
	key     SigningKey
	tcb     TCB
	chipID  []byte // VCEK: the chip's own id, 64 bytes, 8 on Turin
	csp     string // VLEK: the provider
}

// extensions writes the KDS extensions in AMD's order. None is critical.
// Integers are DER INTEGERs and names IA5Strings; the hardware id stands in its
// extension as it is, without a DER header.
func (e endorsement) extensions() ([]pkix.Extension, error) {
	type spl struct {
		oid   asn1.ObjectIdentifier
		value uint8
	}
	version, name := 0, e.product.vcekName()
	spls := []spl{
		{oidBootloaderSPL, e.tcb.Bootloader}, {oidTEESPL, e.tcb.TEE}, {oidSPL4, 0}, {oidSPL5, 0}, {oidSPL6, 0}, {oidSPL7, 0},
		{oidSNPSPL, e.tcb.SNP}, {oidMicrocodeSPL, e.tcb.Microcode},
	}
	if e.product.turinLayout() {
		version = 1
		spls = []spl{
			{oidFMCSPL, e.tcb.FMC}, {oidBootloaderSPL, e.tcb.Bootloader}, {oidTEESPL, e.tcb.TEE}, {oidSNPSPL, e.tcb.SNP},
			{oidSPL5, 0}, {oidSPL6, 0}, {oidSPL7, 0}, {oidMicrocodeSPL, e.tcb.Microcode},
		}
	}
	if e.key == VLEK {
		name = e.product.Line()
	}
	var out []pkix.Extension
	add := func(oid asn1.ObjectIdentifier, value []byte, err error) error {
		out = append(out, pkix.Extension{Id: oid, Value: value})
		return err
	}
	v, err := asn1.Marshal(version)
	if err := add(oidStructVersion, v, err); err != nil {
		return nil, err
	}
	v, err = ia5(name)
	if err := add(oidProductName, v, err); err != nil {
		return nil, err
	}
	for _, s := range spls {
		v, err := asn1.Marshal(int(s.value))
		if err := add(s.oid, v, err); err != nil {
			return nil, err
		}
	}
	if e.key == VLEK {
		v, err = ia5(e.csp)
		err = add(oidCSPID, v, err)
	} else {
		err = add(oidHWID, slices.Clone(e.chipID), nil)
	}
	return out, err
}

func ia5(s string) ([]byte, error) {
	return asn1.MarshalWithParams(s, "ia5")
}
