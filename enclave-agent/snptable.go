package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// A host can give its guest certificates along with an extended report, as a
// table (AMD publication 56421, "GHCB Standardization", section 4.1.8.1): entries
// of a GUID, an offset and a length, both little-endian, closed by one of zeros,
// and then what they point to.
const (
	snpTableEntry = 24
	maxSNPTable   = 256 << 10
	// maxSNPEntries is more than any host's table has.
	maxSNPEntries = 16
)

// The GUIDs of what a verifier can use, in the order of their bytes.
const (
	guidARK  = "c0b406a4a803495297433fb6014cd0ae"
	guidASK  = "4ab7b379bbac4fe4a02f05aef327c782" // or the ASVK
	guidVCEK = "63da758de6644564adc5f4b93be8accd"
	guidVLEK = "a8074bc2a25a483eaae639c045a0b8a1"
	guidCRL  = "92f81bc358114d3d97ffd19f88dc67ea"
)

// splitTable returns the table's certificates and CRLs as DER, in its order.
// Hosts store PEM too, and leave entries empty. Entries under other GUIDs, of
// which vendors have their own, are left out. A table of zeros has none.
func splitTable(table []byte) ([][]byte, error) {
	if len(table) > maxSNPTable {
		return nil, fmt.Errorf("the host's certificate table has %d bytes, at most %d are read", len(table), maxSNPTable)
	}
	var out [][]byte
	for at := 0; at < len(table); at += snpTableEntry {
		if at+snpTableEntry > len(table) || at/snpTableEntry > maxSNPEntries {
			return nil, errors.New("the host's certificate table has no end")
		}
		entry := table[at : at+snpTableEntry]
		if bytes.Equal(entry, make([]byte, snpTableEntry)) {
			return out, nil
		}
		from, size := uint64(binary.LittleEndian.Uint32(entry[16:])), uint64(binary.LittleEndian.Uint32(entry[20:]))
		if from+size > uint64(len(table)) {
			return nil, fmt.Errorf("entry %d of the host's certificate table lies outside of it", at/snpTableEntry)
		}
		switch hex.EncodeToString(entry[:16]) {
		case guidARK, guidASK, guidVCEK, guidVLEK, guidCRL:
			items, err := derItems(table[from : from+size])
			if err != nil {
				return nil, fmt.Errorf("entry %d of the host's certificate table: %w", at/snpTableEntry, err)
			}
			out = append(out, items...)
		}
	}
	if len(table) > 0 {
		return nil, errors.New("the host's certificate table has no end")
	}
	return nil, nil
}

// derItems returns the DER that one entry holds, as it is or in PEM blocks.
func derItems(b []byte) ([][]byte, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("-----BEGIN ")) {
		if len(b) == 0 {
			return nil, nil
		}
		return [][]byte{bytes.Clone(b)}, nil
	}
	var out [][]byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			if len(bytes.Trim(b, " \t\r\n\x00")) != 0 {
				return nil, errors.New("text that is not PEM")
			}
			return out, nil
		}
		if block.Type != "CERTIFICATE" && block.Type != "X509 CRL" {
			return nil, fmt.Errorf("a PEM block %q", clip(block.Type))
		}
		out = append(out, block.Bytes)
	}
}
