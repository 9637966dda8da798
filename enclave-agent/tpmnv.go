package agent

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Sizes of what is read from a TPM's own memory (NV), in bytes.
const (
	maxTPMNV      = 8 << 10 // one index: a certificate, or some of a chain
	tpmNVChunk    = 512     // every TPM gives so much at once
	maxTPMNVChunk = 1 << 10
)

// nvIndices are the NV indices that exist.
func (s *tpmSession) nvIndices() ([]tpm2.TPMHandle, error) {
	return s.handles(tpmFirstNV, tpmFirstNV|0x00ffffff)
}

// readNV reads a whole NV index, by its own empty password or by the owner's: the
// TCG's certificates can be read by everybody.
func (s *tpmSession) readNV(index tpm2.TPMHandle) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(s)
	if err != nil {
		return nil, fmt.Errorf("TPM2_NV_ReadPublic: %w", err)
	}
	about, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, nonsense("NV index %08x: %v", uint32(index), err)
	}
	if about.DataSize > maxTPMNV {
		return nil, fmt.Errorf("NV index %08x has %d bytes, at most %d are read", uint32(index), about.DataSize, maxTPMNV)
	}
	auth := tpm2.AuthHandle{Handle: index, Name: pub.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !about.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	chunk, err := s.property(tpm2.TPMPTNVBufferMax)
	if err != nil {
		return nil, err
	}
	chunk = min(max(chunk, tpmNVChunk), maxTPMNVChunk)
	out := make([]byte, 0, about.DataSize)
	for len(out) < int(about.DataSize) {
		n := min(int(about.DataSize)-len(out), int(chunk))
		r, err := tpm2.NVRead{
			AuthHandle: auth, NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size: uint16(n), Offset: uint16(len(out)),
		}.Execute(s)
		if err != nil {
			return nil, fmt.Errorf("TPM2_NV_Read of %08x: %w", uint32(index), err)
		}
		if len(r.Data.Buffer) != n {
			return nil, nonsense("TPM2_NV_Read gave %d bytes of %d", len(r.Data.Buffer), n)
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// trimDER returns the first DER value of b and what follows it. NV indices are
// often larger than the certificate in them, and filled with zeros.
func trimDER(b []byte) (der, rest []byte, err error) {
	var v asn1.RawValue
	rest, err = asn1.Unmarshal(b, &v)
	if err != nil {
		return nil, nil, err
	}
	if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagSequence || !v.IsCompound {
		return nil, nil, errors.New("no certificate is there")
	}
	return v.FullBytes, rest, nil
}

// readCertificate reads a certificate from an NV index.
func (s *tpmSession) readCertificate(index tpm2.TPMHandle) (*x509.Certificate, error) {
	b, err := s.readNV(index)
	if err != nil {
		return nil, err
	}
	der, _, err := trimDER(b)
	if err != nil {
		return nil, fmt.Errorf("NV index %08x: %w", uint32(index), err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("NV index %08x: %w", uint32(index), err)
	}
	return c, nil
}

// Certificates between the EK's and its manufacturer's root (TCG EK Credential
// Profile 2.x, section 2.2.1.5.2).
const (
	tpmChainFirst tpm2.TPMHandle = 0x01c00100
	tpmChainLast  tpm2.TPMHandle = 0x01c001ff
	// maxTPMChain bounds what is sent of them, in bytes: with the evidence and the
	// proof of a renewal they fit into a message of 64 KiB.
	maxTPMChain = 8 << 10
)

// readChain reads the certificates that a manufacturer stored beside the EK's: DER,
// one after the other, over one index or several.
func (s *tpmSession) readChain(indices []tpm2.TPMHandle) [][]byte {
	var raw []byte
	for _, h := range indices {
		if h < tpmChainFirst || h > tpmChainLast {
			continue
		}
		b, err := s.readNV(h)
		if err != nil {
			s.warn("a certificate of the TPM's manufacturer cannot be read: the server must have it", "error", err.Error())
			return nil
		}
		raw = append(raw, b...)
	}
	out, err := splitChain(raw)
	if err != nil {
		s.warn("the certificates of the TPM's manufacturer cannot be used: the server must have them", "error", err.Error())
	}
	return out
}

// splitChain takes certificates apart, up to the padding.
func splitChain(raw []byte) (out [][]byte, err error) {
	size := 0
	for len(raw) > 0 && raw[0] != 0 && raw[0] != 0xff {
		var der []byte
		if der, raw, err = trimDER(raw); err != nil {
			return out, err
		}
		if size += len(der); size > maxTPMChain {
			return out, fmt.Errorf("more than %d bytes of certificates", maxTPMChain)
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			return out, err
		}
		out = append(out, slices.Clone(der))
	}
	return out, nil
}
