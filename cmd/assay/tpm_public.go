package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Identifiers of the TCG Algorithm Registry, and permanent handles (TPM 2.0
// Library, Part 2, sections 6.3 and 7.4).
const (
	tpmRSA    = 0x0001
	tpmSHA256 = 0x000b
	tpmNull   = 0x0010
	tpmRSASSA = 0x0014
	tpmECDSA  = 0x0018
	tpmECC    = 0x0023
)

// Attributes of an attestation key (Part 2, section 8.3): those that every one has,
// and those that templates differ in.
const (
	akAttributes    = 1<<1 | 1<<4 | 1<<5 | 1<<16 | 1<<18 // fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign
	userWithAuth    = 1 << 6
	adminWithPolicy = 1 << 7
	noDA            = 1 << 10
)

// parseAK reads an attestation key in the forms in which tools write it: PEM or DER
// of a public key or certificate (a certificate from NV memory may have zeros behind
// it), TPMT_PUBLIC, or TPM2B_PUBLIC. area is the TPMT_PUBLIC where the file has one.
func parseAK(file []byte) (key crypto.PublicKey, area []byte, err error) {
	if block, rest := pem.Decode(file); block != nil {
		if more, _ := pem.Decode(rest); more != nil && block.Type != "CERTIFICATE" {
			return nil, nil, errors.New("more than one key")
		}
		switch block.Type {
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "CERTIFICATE":
			key, err = certificateKey(block.Bytes)
		default:
			err = fmt.Errorf("PEM block %.40q, want PUBLIC KEY or CERTIFICATE", block.Type)
		}
		return key, nil, err
	}
	if len(file) > 0 && file[0] == 0x30 {
		if key, err = x509.ParsePKIXPublicKey(file); err != nil {
			key, err = certificateKey(file)
		}
		return key, nil, err
	}
	area = file
	if len(file) > 2 && int(binary.BigEndian.Uint16(file)) == len(file)-2 {
		area = file[2:]
	}
	if key, err = publicKey(area); err != nil {
		return nil, nil, fmt.Errorf("this is no public key: want PEM, DER, TPMT_PUBLIC or TPM2B_PUBLIC: %w", err)
	}
	return key, area, nil
}

func certificateKey(der []byte) (crypto.PublicKey, error) {
	c, err := x509.ParseCertificate(trimDER(der))
	if err != nil {
		return nil, err
	}
	return c.PublicKey, nil
}

// trimDER drops what lies behind a DER structure when it is padding: certificates
// in a TPM's NV memory are as long as their index.
func trimDER(b []byte) []byte {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	if err != nil || len(bytes.Trim(rest, "\x00")) != 0 && len(bytes.Trim(rest, "\xff")) != 0 {
		return b
	}
	return b[:len(b)-len(rest)]
}

// publicKey is the key of a TPMT_PUBLIC.
func publicKey(area []byte) (key crypto.PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil {
			key, err = nil, fmt.Errorf("go-tpm fails on it: %v", p)
		}
	}()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(public), area) {
		return nil, errors.New("something follows it")
	}
	if key, err = tpm2.Pub(*public); err != nil {
		return nil, err
	}
	// go-tpm takes a point as it is; x509 writes none that is not on its curve.
	if _, err := x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, err
	}
	return key, nil
}

// rebuiltArea is a TPMT_PUBLIC around a key that came without one.
type rebuiltArea struct {
	area []byte
	// exact says that it is the TPM's own: the quote's signer names it. Otherwise its
	// attributes are made up, and say nothing of the key.
	exact bool
}

// rebuildArea looks for the public area that an attestation key has in its TPM. The
// quote holds the qualified name of the key that signed it, which for a primary is
// H(hierarchy ‖ H(area)) (Part 1, section 16): of the templates that are common, the
// one that gives this name is the key's, as surely as the hash is one. Where none
// does, the first stands in.
func rebuildArea(key crypto.PublicKey, scheme, hash uint16, signer []byte) (rebuiltArea, error) {
	var first []byte
	for _, optional := range []uint32{userWithAuth, userWithAuth | noDA, 0, noDA, userWithAuth | adminWithPolicy, userWithAuth | adminWithPolicy | noDA} {
		for _, exponent := range []uint32{0, 65537} {
			area, err := akArea(key, akAttributes|optional, scheme, hash, exponent)
			if err != nil {
				return rebuiltArea{}, err
			}
			if first == nil {
				first = area
			}
			name := nameOf(area)
			for _, hierarchy := range []tpm2.TPMHandle{tpm2.TPMRHEndorsement, tpm2.TPMRHOwner, tpm2.TPMRHPlatform, tpm2.TPMRHNull} {
				if bytes.Equal(nameOf(append(binary.BigEndian.AppendUint32(nil, uint32(hierarchy)), name...)), signer) {
					return rebuiltArea{area, true}, nil
				}
			}
		}
	}
	return rebuiltArea{first, false}, nil
}

// nameOf is SHA-256's identifier and the digest.
func nameOf(b []byte) []byte {
	h := sha256.Sum256(b)
	return append(binary.BigEndian.AppendUint16(nil, tpmSHA256), h[:]...)
}

// akArea writes the TPMT_PUBLIC of an attestation key (Part 2, section 12.2.4).
func akArea(key crypto.PublicKey, attributes uint32, scheme, hash uint16, exponent uint32) ([]byte, error) {
	u16 := func(b []byte, v ...uint16) []byte {
		for _, x := range v {
			b = binary.BigEndian.AppendUint16(b, x)
		}
		return b
	}
	sized := func(b, v []byte) []byte {
		return append(u16(b, uint16(len(v))), v...)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() > 8192 {
			return nil, fmt.Errorf("a key of %d bits", k.N.BitLen())
		}
		b := binary.BigEndian.AppendUint32(u16(nil, tpmRSA, tpmSHA256), attributes)
		b = u16(sized(b, nil), tpmNull, scheme, hash, uint16(k.N.BitLen()))
		return sized(binary.BigEndian.AppendUint32(b, exponent), k.N.Bytes()), nil
	case *ecdsa.PublicKey:
		curve := map[elliptic.Curve]uint16{elliptic.P256(): 3, elliptic.P384(): 4, elliptic.P521(): 5}[k.Curve]
		point, err := k.Bytes()
		if curve == 0 || err != nil {
			return nil, errors.New("a key on a curve that is not known")
		}
		half := (len(point) - 1) / 2
		b := binary.BigEndian.AppendUint32(u16(nil, tpmECC, tpmSHA256), attributes)
		b = u16(sized(b, nil), tpmNull, scheme, hash, curve, tpmNull)
		return sized(sized(b, point[1:1+half]), point[1+half:]), nil
	}
	return nil, fmt.Errorf("a key of type %T", key)
}

// tpmSignature returns a signature as TPMT_SIGNATURE. Tools also write the bare
// RSASSA signature, and ECDSA's in DER: both then with SHA-256, which is what AKs
// of tools that do so sign with.
func tpmSignature(sig []byte, key crypto.PublicKey) ([]byte, error) {
	if len(sig) > 4 {
		if s := binary.BigEndian.Uint16(sig); s == tpmRSASSA || s == 0x0016 || s == tpmECDSA {
			return sig, nil
		}
	}
	be := func(v ...int) []byte {
		var b []byte
		for _, x := range v {
			b = binary.BigEndian.AppendUint16(b, uint16(x))
		}
		return b
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if len(sig) == k.Size() && k.Size() <= 1024 {
			return slices.Concat(be(tpmRSASSA, tpmSHA256, len(sig)), sig), nil
		}
	case *ecdsa.PublicKey:
		var rs struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(sig, &rs); err == nil && len(rest) == 0 && rs.R.Sign() > 0 && rs.S.Sign() > 0 && max(rs.R.BitLen(), rs.S.BitLen()) <= 528 {
			size := (k.Curve.Params().BitSize + 7) / 8
			r, s := rs.R.Bytes(), rs.S.Bytes()
			if len(r) <= size && len(s) <= size {
				r, s = rs.R.FillBytes(make([]byte, size)), rs.S.FillBytes(make([]byte, size))
			}
			return slices.Concat(be(tpmECDSA, tpmSHA256, len(r)), r, be(len(s)), s), nil
		}
	}
	return nil, errors.New("this is no signature by that key: want a TPMT_SIGNATURE, a bare RSASSA signature, or ECDSA in DER")
}
