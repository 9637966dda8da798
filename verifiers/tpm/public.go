package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Attributes of an object, Part 2, section 8.3 (TPMA_OBJECT).
const (
	attrFixedTPM            = 1 << 1
	attrSTClear             = 1 << 2
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18

	attrReserved = 1<<0 | 1<<3 | 0xf<<12 | 0xfff<<20
)

// public is a decoded TPMT_PUBLIC of an RSA or ECC key. It is immutable, and
// shares no memory with what it was decoded from: the cache keeps it.
type public struct {
	alg     uint16
	nameAlg uint16
	attrs   uint32

	symmetric  uint16 // algNull, or algAES
	symBits    uint16
	scheme     uint16
	schemeHash uint16
	bits       uint16 // RSA
	curve      uint16 // ECC

	name []byte           // nameAlg and digest of the area
	key  crypto.PublicKey // nil on a curve that is not known here
	spki []byte           // DER of key
}

var errNotSupported = errors.New("not supported")

// parsePublic decodes a TPMT_PUBLIC, to the last byte (Part 2, section 12.2.4).
func parsePublic(b []byte) (*public, error) {
	r := &reader{b: b}
	p := &public{alg: r.u16(), nameAlg: r.u16(), attrs: r.u32()}
	r.sized(64) // authPolicy: who may use the key is between the TPM and its owner
	if !r.bad && p.attrs&attrReserved != 0 {
		return nil, fmt.Errorf("reserved attributes are set: 0x%08x", p.attrs)
	}
	h, ok := hashOf(p.nameAlg)
	if !r.bad && !ok {
		return nil, fmt.Errorf("name algorithm %s: %w", algName(p.nameAlg), errNotSupported)
	}
	var err error
	switch {
	case r.bad:
	case p.alg == algRSA:
		err = p.readRSA(r)
	case p.alg == algECC:
		err = p.readECC(r)
	default:
		err = fmt.Errorf("key type %s: %w", algName(p.alg), errNotSupported)
	}
	if err != nil {
		return nil, err
	}
	if !r.done() {
		return nil, errStructure
	}
	d := h.New()
	d.Write(b) // never fails
	p.name = d.Sum(binary.BigEndian.AppendUint16(nil, p.nameAlg))
	if p.key == nil {
		return p, nil
	}
	if p.spki, err = x509.MarshalPKIXPublicKey(p.key); err != nil {
		return nil, fmt.Errorf("the key: %w", err)
	}
	return p, nil
}

// readSymmetric reads a TPMT_SYM_DEF_OBJECT.
func (p *public) readSymmetric(r *reader) error {
	switch p.symmetric = r.u16(); p.symmetric {
	case algNull:
	case algAES:
		p.symBits = r.u16()
		if mode := r.u16(); !r.bad && (mode != algCFB || p.symBits != 128 && p.symBits != 256) {
			return fmt.Errorf("AES-%d in mode %s: %w", p.symBits, algName(mode), errNotSupported)
		}
	default:
		if !r.bad {
			return fmt.Errorf("symmetric %s: %w", algName(p.symmetric), errNotSupported)
		}
	}
	return nil
}

// readScheme reads a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: none, or one of those
// given. RSAES has no hash.
func (p *public) readScheme(r *reader, known ...uint16) error {
	p.scheme = r.u16()
	switch {
	case r.bad || p.scheme == algNull:
		return nil
	case !slices.Contains(known, p.scheme):
		return fmt.Errorf("scheme %s: %w", algName(p.scheme), errNotSupported)
	case p.scheme != algRSAES:
		p.schemeHash = r.u16()
	}
	return nil
}

func (p *public) readRSA(r *reader) error {
	if err := p.readSymmetric(r); err != nil {
		return err
	}
	if err := p.readScheme(r, algRSASSA, algRSAPSS, algOAEP, algRSAES); err != nil {
		return err
	}
	p.bits = r.u16()
	exponent := r.u32()
	n := r.sized(512)
	switch {
	case r.bad:
		return nil
	case exponent != 0 && exponent != 65537: // 0 stands for 65537
		return fmt.Errorf("RSA exponent %d: %w", exponent, errNotSupported)
	case p.bits == 0 || p.bits%8 != 0 || len(n) != int(p.bits/8) || n[0]&0x80 == 0 || n[len(n)-1]&1 == 0:
		return fmt.Errorf("the modulus does not have the %d bits that the key says", p.bits)
	}
	p.key = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	return nil
}

func (p *public) readECC(r *reader) error {
	if err := p.readSymmetric(r); err != nil {
		return err
	}
	if err := p.readScheme(r, algECDSA, algECDH); err != nil {
		return err
	}
	p.curve = r.u16()
	if kdf := r.u16(); !r.bad && kdf != algNull { // Part 2, section 12.2.3.6: none is used
		return fmt.Errorf("key derivation %s: %w", algName(kdf), errNotSupported)
	}
	x, y := r.sized(66), r.sized(66)
	c := curveOf(p.curve)
	if r.bad || c == nil {
		return nil
	}
	size := (c.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return errors.New("a coordinate is longer than the curve's field")
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // SEC 1, section 2.3.3: uncompressed
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	k, err := ecdsa.ParseUncompressedPublicKey(c, point)
	if err != nil {
		return fmt.Errorf("the point is not on the curve: %w", err)
	}
	p.key = k
	return nil
}

func curveOf(id uint16) elliptic.Curve {
	switch id {
	case curveP256:
		return elliptic.P256()
	case curveP384:
		return elliptic.P384()
	case curveP521:
		return elliptic.P521()
	}
	return nil
}

// curveName is a curve as people write it.
func curveName(id uint16) string {
	if c := curveOf(id); c != nil {
		return c.Params().Name
	}
	return fmt.Sprintf("curve 0x%04x", id)
}

// has reports whether all of the attributes are set.
func (p *public) has(attrs uint32) bool { return p.attrs&attrs == attrs }

// digest is SHA-256 of the key's DER SubjectPublicKeyInfo.
func (p *public) digest() [32]byte { return sha256.Sum256(p.spki) }

// primaryOf reports whether a qualified name is that of this key as a primary of
// the hierarchy: nameAlg‖H(handle‖Name) (Part 1, section 16).
func (p *public) primaryOf(hierarchy uint32, qualified []byte) bool {
	return string(qualified) == string(primaryName(p.nameAlg, p.name, hierarchy))
}

// primaryName is the qualified name of a primary.
func primaryName(nameAlg uint16, name []byte, hierarchy uint32) []byte {
	h, ok := hashOf(nameAlg)
	if !ok {
		return nil
	}
	d := h.New()
	d.Write(binary.BigEndian.AppendUint32(nil, hierarchy)) // never fails
	d.Write(name)
	return d.Sum(binary.BigEndian.AppendUint16(nil, nameAlg))
}

// primary reports whether the key is a primary of any hierarchy.
func (p *public) primary(qualified []byte) bool {
	for _, h := range []uint32{handleEndorsement, handleOwner, handlePlatform, handleNull} {
		if p.primaryOf(h, qualified) {
			return true
		}
	}
	return false
}
