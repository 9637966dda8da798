package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// Extensions of a VCEK or VLEK are 1.3.6.1.4.1.3704.1.n (publication 57230,
// section 3.1). Below are the n.
const (
	extStruct  = "1"   // INTEGER, version of this set: 0, or 1 from Turin on
	extProduct = "2"   // IA5String, product name
	extBL      = "3.1" // INTEGER 0 to 255, as are all of 3.n
	extTEE     = "3.2"
	extSNP     = "3.3"
	extSPL4    = "3.4" // reserved, not in struct version 1
	extSPL5    = "3.5" // reserved
	extSPL6    = "3.6" // reserved
	extSPL7    = "3.7" // reserved
	extUcode   = "3.8"
	extFMC     = "3.9" // struct version 1 only
	extHWID    = "4"   // VCEK only: the chip's name, 64 or 8 bytes, without a DER tag
	extCSPID   = "5"   // VLEK only: IA5String, the cloud provider
)

// amdArc is the prefix of AMD's extensions.
var amdArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

const (
	hwidSize      = 64 // struct version 0
	hwidSizeShort = 8  // struct version 1: the first 8 bytes of CHIP_ID
	maxCSPID      = 256
)

// Extensions are AMD's own facts in a VCEK or VLEK certificate. ParseExtensions
// makes them; they are as trustworthy as the certificate that they are from.
type Extensions struct {
	Struct      int          // 0, or 1 from Turin on
	ProductName string       // "Milan-B0", "Genoa", "Turin"
	Product     string       // the line: "milan", "genoa", "turin"
	TCB         attest.TCB   // the TCB that the key was derived for
	HWID        attest.Bytes // VCEK: 64 bytes, 8 with struct version 1; nil in a VLEK
	CSPID       string       // VLEK; "" in a VCEK

	raw    rawTCB
	hasCSP bool // csp_id is there, though it may be empty
}

// ParseExtensions reads AMD's extensions of a certificate strictly: each one of
// the set that its struct version demands exactly once, none beyond it, reserved
// ones zero. The error is an *attest.Error, check "endorsement_extensions".
func ParseExtensions(c *x509.Certificate) (*Extensions, error) {
	e, err := parseExtensions(c.Extensions)
	if err != nil {
		return nil, refuse(CheckEndorsementExtensions, detail{
			Err: fmt.Errorf("the endorsement's AMD extensions: %w", err), Hint: "only certificates as the KDS issues them are accepted",
		})
	}
	return e, nil
}

func parseExtensions(exts []pkix.Extension) (*Extensions, error) {
	found := make(map[string][]byte, 12)
	for _, x := range exts {
		n, ok := amdExtension(x.Id)
		if !ok {
			continue
		}
		if _, dup := found[n]; dup {
			return nil, fmt.Errorf("%s occurs twice", x.Id)
		}
		found[n] = x.Value
	}
	version, err := smallInt(found, extStruct)
	if err != nil {
		return nil, err
	}
	if version > 1 {
		return nil, fmt.Errorf("struct version %d, want 0 or 1", version)
	}
	e := &Extensions{Struct: int(version)}
	if err := e.names(found); err != nil {
		return nil, err
	}
	if err := e.levels(found); err != nil {
		return nil, err
	}
	if len(found) != 0 {
		for n := range found {
			return nil, fmt.Errorf("extension %s.%s is not understood with struct version %d", amdArc, n, version)
		}
	}
	return e, nil
}

// amdExtension returns what follows AMD's arc in the identifier.
func amdExtension(id asn1.ObjectIdentifier) (string, bool) {
	if len(id) <= len(amdArc) || !id[:len(amdArc)].Equal(amdArc) {
		return "", false
	}
	return strings.TrimPrefix(id.String(), amdArc.String()+"."), true
}

// names reads the product, and the chip or the provider. What it reads it takes
// out of found.
func (e *Extensions) names(found map[string][]byte) error {
	name, err := ia5(found, extProduct)
	if err != nil {
		return err
	}
	product, ok := productOfName(name)
	if !ok {
		return fmt.Errorf("product name %.40q", name)
	}
	e.ProductName, e.Product = name, product
	if fmc := e.Struct == 1; fmc != hasFMC(product) {
		return fmt.Errorf("struct version %d for product %.40q", e.Struct, name)
	}
	if raw, ok := found[extHWID]; ok {
		size := hwidSize
		if e.Struct == 1 {
			size = hwidSizeShort
		}
		if e.HWID, err = hwid(raw, size); err != nil {
			return err
		}
		delete(found, extHWID)
	}
	if _, ok := found[extCSPID]; ok {
		if e.CSPID, err = ia5(found, extCSPID); err != nil {
			return err
		}
		if len(e.CSPID) > maxCSPID {
			return fmt.Errorf("csp_id has %d bytes, want at most %d", len(e.CSPID), maxCSPID)
		}
		e.hasCSP = true
	}
	return nil
}

// levels reads the security patch levels (SPL) into a TCB of the right layout.
func (e *Extensions) levels(found map[string][]byte) error {
	order := []string{extBL, extTEE, extSPL4, extSPL5, extSPL6, extSPL7, extSNP, extUcode}
	if e.Struct == 1 {
		order = []string{extFMC, extBL, extTEE, extSNP, extSPL5, extSPL6, extSPL7, extUcode}
	}
	for i, n := range order {
		v, err := smallInt(found, n)
		if err != nil {
			return err
		}
		e.raw[i] = v
	}
	if !e.raw.reservedZero(e.Struct == 1) {
		return fmt.Errorf("a reserved patch level is not zero: %x", e.raw[:])
	}
	e.TCB = e.raw.decode(e.Struct == 1)
	return nil
}

// smallInt takes a DER INTEGER of 0 to 255.
func smallInt(found map[string][]byte, n string) (byte, error) {
	raw, ok := found[n]
	if !ok {
		return 0, fmt.Errorf("%s.%s is missing", amdArc, n)
	}
	delete(found, n)
	var v int
	rest, err := asn1.Unmarshal(raw, &v)
	if err != nil || len(rest) != 0 || v < 0 || v > 255 {
		return 0, fmt.Errorf("%s.%s is %s, want an INTEGER of 0 to 255", amdArc, n, check.ClipHex(raw))
	}
	return byte(v), nil
}

// ia5 takes a DER IA5String.
func ia5(found map[string][]byte, n string) (string, error) {
	raw, ok := found[n]
	if !ok {
		return "", fmt.Errorf("%s.%s is missing", amdArc, n)
	}
	delete(found, n)
	var s string
	rest, err := asn1.UnmarshalWithParams(raw, &s, "ia5")
	if err != nil || len(rest) != 0 || raw[0] != asn1.TagIA5String {
		return "", fmt.Errorf("%s.%s is %s, want an IA5String", amdArc, n, check.ClipHex(raw))
	}
	return s, nil
}

// hwid takes the chip's name. The KDS writes the bytes without a DER tag; an
// OCTET STRING around them, as the specification would have it, is taken too.
func hwid(raw []byte, size int) (attest.Bytes, error) {
	if len(raw) == size+2 && raw[0] == asn1.TagOctetString && int(raw[1]) == size {
		raw = raw[2:]
	}
	if len(raw) != size {
		return nil, fmt.Errorf("hwid has %d bytes, want %d", len(raw), size)
	}
	return bytes.Clone(raw), nil
}

// endorsement is a VCEK or VLEK whose chain verified, with as little of it as
// later verifications need. It is immutable and shared between goroutines.
type endorsement struct {
	kind      string
	issuer    *issuer
	raw       rawTCB
	hwid      []byte // nil for a VLEK
	cspID     string // "" for a VCEK
	serial    string // big-endian bytes
	key       *x509.Certificate
	notBefore time.Time // latest of the chain
	notAfter  time.Time // earliest of the chain
}

// validAt reports whether every certificate of the chain is valid at t.
func (e *endorsement) validAt(t time.Time) bool {
	return !t.Before(e.notBefore) && !t.After(e.notAfter)
}

// kindOf tells a VCEK from a VLEK by its common name; "" is neither.
func kindOf(c *x509.Certificate) string {
	switch c.Subject.CommonName {
	case "SEV-VCEK":
		return VCEK
	case "SEV-VLEK":
		return VLEK
	}
	return ""
}

// fits checks that an endorsement of this kind, line, chip and TCB is the one
// that the report needs.
func fits(r *report, kind, product string, tcb rawTCB, hwid []byte) error {
	if r.version >= cpuidVersion {
		if p, ok := r.cpu.product(); !ok || p != product {
			return refuse(CheckProduct, detail{
				Err: errors.New("the report comes from a processor that the endorsement is not for"), Expected: "a processor of " + product, Got: r.cpu.String(),
			})
		}
		if err := r.checkTCBs(product); err != nil {
			return err
		}
	}
	if got := r.tcb(offReportedTCB); got != tcb {
		fmc := hasFMC(product)
		return refuse(CheckTCBCertificate, detail{
			Err: errors.New("the endorsement is for another TCB than the one reported"), Expected: tcb.decode(fmc).String(), Got: got.decode(fmc).String(),
			Hint: "bring the endorsement for the reported TCB: each TCB has a key of its own",
		})
	}
	if kind == VCEK && !r.masked() {
		id := r.chipID()
		if !bytes.Equal(id[:len(hwid)], hwid) || !allZero(id[len(hwid):]) {
			return refuse(CheckChipID, detail{
				Err: errors.New("the endorsement is for another chip"), Expected: check.ClipHex(hwid), Got: check.ClipHex(id),
			})
		}
	}
	if r.version < cpuidVersion { // until here, the endorsement may be of the wrong line
		return r.checkTCBs(product)
	}
	return nil
}

func (e *endorsement) fits(r *report) error {
	return fits(r, e.kind, e.issuer.line.product, e.raw, e.hwid)
}

// leafKey returns the certificate's P-384 key as a certificate that holds
// nothing else: what go-sev-guest is given, and small enough to remember.
func leafKey(c *x509.Certificate) (*x509.Certificate, error) {
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P384() {
		return nil, fmt.Errorf("the endorsement's key is %s, want ECDSA on P-384", keyKind(c))
	}
	return &x509.Certificate{PublicKey: k, PublicKeyAlgorithm: x509.ECDSA}, nil
}

func keyKind(c *x509.Certificate) string {
	if k, ok := c.PublicKey.(*ecdsa.PublicKey); ok {
		return "ECDSA on " + k.Params().Name
	}
	return c.PublicKeyAlgorithm.String()
}

func allZero(b []byte) bool {
	var or byte
	for _, x := range b {
		or |= x
	}
	return or == 0
}
