package sevsnp

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// The GUIDs under which a certificate table lists its parts (AMD publication
// 56421, "GHCB Standardization", section 4.1.8.1). The ASVK goes under the
// ASK's.
const (
	guidVCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
	guidVLEK = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
	guidASK  = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
	guidARK  = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
	guidCRL  = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"
)

// tableEntrySize is a GUID, an offset and a length, little-endian.
const tableEntrySize = 24

// table lays the endorsements out as a host does: entries, one of zeros, then
// what they point to. Whatever is no CRL and not recognised as an authority's
// certificate goes under the leaf's GUID.
func (pl *plan) table(items [][]byte) ([]byte, error) {
	head := make([]byte, (len(items)+1)*tableEntrySize)
	body := []byte{}
	for i, item := range items {
		guid, err := guidBytes(pl.guid(item))
		if err != nil {
			return nil, err
		}
		entry := head[i*tableEntrySize:]
		copy(entry, guid)
		binary.LittleEndian.PutUint32(entry[16:], uint32(len(head)+len(body)))
		binary.LittleEndian.PutUint32(entry[20:], uint32(len(item)))
		body = append(body, item...)
	}
	return append(head, body...), nil
}

func (pl *plan) guid(item []byte) string {
	if _, err := x509.ParseRevocationList(item); err == nil {
		return guidCRL
	}
	if c, err := x509.ParseCertificate(item); err == nil {
		switch {
		case strings.HasPrefix(c.Subject.CommonName, "ARK-"):
			return guidARK
		case strings.HasPrefix(c.Issuer.CommonName, "ARK-"):
			return guidASK
		}
	}
	if pl.endorsement.key == VLEK {
		return guidVLEK
	}
	return guidVCEK
}

// guidBytes writes a GUID in the order of its text (RFC 9562), as hosts do.
func guidBytes(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("sevsnp: GUID %.40q", s)
	}
	return b, nil
}
