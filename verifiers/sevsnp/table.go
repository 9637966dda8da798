package sevsnp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/assay-project/assay/verifiers/internal/check"
)

// The certificate table of an extended report (AMD 56421, GHCB standardization):
// entries of a GUID, an offset from the table's start and a length, both uint32
// little-endian, closed by an entry of zeros; then the certificates.
const (
	tableEntrySize = 24
	maxTableSize   = 1 << 18
	maxTableItems  = maxEndorsements
)

// GUIDs of what a table can hold, in the order of their bytes.
const (
	guidARK  = "c0b406a4a803495297433fb6014cd0ae"
	guidASK  = "4ab7b379bbac4fe4a02f05aef327c782" // or the ASVK
	guidVCEK = "63da758de6644564adc5f4b93be8accd"
	guidVLEK = "a8074bc2a25a483eaae639c045a0b8a1"
	guidCRL  = "92f81bc358114d3d97ffd19f88dc67ea"
)

// ParseCertTable splits a host's certificate table into certificates and CRLs, in
// the table's order, as DER; hosts store PEM as well. Entries with other GUIDs,
// of which there are vendors' own, are left out. An empty table has none. The
// result is as untrusted as the table.
//
// The error is an *attest.Error, check "cert_table".
func ParseCertTable(table []byte) ([][]byte, error) {
	if len(table) > maxTableSize {
		return nil, refuse(CheckCertTable, detail{Err: errors.New("the table is too large"), Expected: fmt.Sprintf("at most %d bytes", maxTableSize), Got: fmt.Sprintf("%d bytes", len(table))})
	}
	if len(table) == 0 {
		return nil, nil
	}
	end, err := tableHeader(table)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for at := 0; at < end; at += tableEntrySize {
		entry := table[at : at+tableEntrySize]
		from, size := uint64(binary.LittleEndian.Uint32(entry[16:])), uint64(binary.LittleEndian.Uint32(entry[20:]))
		if size == 0 {
			continue // it holds nothing, wherever that is
		}
		if from < uint64(end+tableEntrySize) || from+size > uint64(len(table)) {
			return nil, refuse(CheckCertTable, detail{
				Err:      fmt.Errorf("entry %d lies outside the table's certificates", at/tableEntrySize),
				Expected: fmt.Sprintf("between %d and %d", end+tableEntrySize, len(table)), Got: fmt.Sprintf("%d to %d", from, from+size),
			})
		}
		switch hex.EncodeToString(entry[:16]) {
		case guidARK, guidASK, guidVCEK, guidVLEK, guidCRL:
			items, err := ders(table[from : from+size])
			if err != nil {
				return nil, refuse(CheckCertTable, detail{Err: fmt.Errorf("entry %d: %w", at/tableEntrySize, err)})
			}
			out = append(out, items...)
		}
	}
	return out, nil
}

// tableHeader returns where the closing entry stands.
func tableHeader(table []byte) (end int, err error) {
	for end = 0; ; end += tableEntrySize {
		if end+tableEntrySize > len(table) {
			return 0, refuse(CheckCertTable, detail{Err: errors.New("the table's header is not closed by an entry of zeros")})
		}
		if allZero(table[end : end+tableEntrySize]) {
			return end, nil
		}
		if end/tableEntrySize == maxTableItems {
			return 0, refuse(CheckCertTable, detail{Err: errors.New("too many entries"), Expected: fmt.Sprintf("at most %d", maxTableItems)})
		}
	}
}

// ders returns the items of one entry: the DER that it is, or that of each PEM
// block in it. An entry without bytes holds none.
func ders(b []byte) ([][]byte, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("-----BEGIN ")) {
		if len(b) == 0 {
			return nil, nil
		}
		return [][]byte{bytes.Clone(b)}, nil
	}
	var out [][]byte
	for {
		var block *pem.Block
		block, b = pem.Decode(b)
		if block == nil {
			if len(bytes.Trim(b, " \t\r\n\x00")) != 0 {
				return nil, errors.New("text that is not PEM")
			}
			return out, nil
		}
		if block.Type != "CERTIFICATE" && block.Type != "X509 CRL" {
			return nil, fmt.Errorf("PEM block %.40q, want CERTIFICATE or X509 CRL", block.Type)
		}
		if len(block.Bytes) == 0 {
			return nil, errors.New("an empty PEM block")
		}
		out = append(out, block.Bytes)
	}
}

// ParseEndorsements reads certificates and CRLs from a file: one as DER, or any
// number as PEM. The result is as untrusted as the file.
//
// The error is an *attest.Error, check "encoding".
func ParseEndorsements(file []byte) ([][]byte, error) {
	items, err := ders(file)
	if err == nil && len(items) == 0 {
		err = errors.New("nothing there")
	}
	if err == nil && items[0][0] != tagSequence {
		err = errors.New("neither PEM nor DER")
	}
	if err != nil {
		return nil, refuse(CheckEncoding, detail{
			Err: fmt.Errorf("no certificate and no CRL: %w", err), Expected: "DER, or PEM blocks CERTIFICATE and X509 CRL", Got: check.ClipHex(file),
		})
	}
	return items, nil
}

// tagSequence begins every certificate and CRL in DER.
const tagSequence = 0x30

// ParseExtendedReport splits an extended report, which is a report with the
// host's certificate table behind it, into the evidence's body and its
// endorsements. A report alone is one with an empty table.
//
// The error is an *attest.Error, check "size" or "cert_table".
func ParseExtendedReport(b []byte) (report []byte, endorsements [][]byte, err error) {
	if len(b) < ReportSize {
		return nil, nil, refuse(CheckSize, detail{Err: errors.New("no report"), Expected: fmt.Sprintf("at least %d bytes", ReportSize), Got: fmt.Sprintf("%d bytes", len(b))})
	}
	endorsements, err = ParseCertTable(b[ReportSize:])
	if err != nil {
		return nil, nil, err
	}
	return bytes.Clone(b[:ReportSize]), endorsements, nil
}
