package tpm

import (
	"crypto"
	"encoding/binary"
)

// Event types (PC Client Platform Firmware Profile, section 10.4.1).
const (
	evPostCode          = 0x00000001
	evNoAction          = 0x00000003
	evSeparator         = 0x00000004
	evEventTag          = 0x00000006
	evSCRTMVersion      = 0x00000008
	evIPL               = 0x0000000d
	evVariableDriver    = 0x80000001
	evVariableBoot      = 0x80000002
	evBootApplication   = 0x80000003
	evBootDriver        = 0x80000004
	evGPT               = 0x80000006
	evAction            = 0x80000007
	evFirmwareBlob      = 0x80000008
	evHandoffTables     = 0x80000009
	evVariableAuthority = 0x800000e0
)

// event is one entry of the log: what was hashed, and what the log says of it.
type event struct {
	pcr      uint32
	kind     uint32
	measured []byte
	data     []byte
}

func (e event) digest(bank crypto.Hash) []byte {
	if e.kind == evNoAction { // never extended; its digests are zero
		return make([]byte, bank.Size())
	}
	h := bank.New()
	_, _ = h.Write(e.measured) // a hash never fails
	return h.Sum(nil)
}

// algorithm is a bank's TPM_ALG_ID.
func algorithm(bank crypto.Hash) uint16 {
	if bank == crypto.SHA384 {
		return 0x000c
	}
	return 0x000b
}

// encodeLog writes the crypto-agile format, little-endian: a first entry in the
// format of TPM 1.2, the specification ID event, says which banks each of the
// following has digests for (Firmware Profile, sections 10.2 and 10.4.5.1).
func encodeLog(events []event) []byte {
	spec := append([]byte("Spec ID Event03\x00"),
		0, 0, 0, 0, // platform class: client
		0, 2, 0, // specification 2.0, errata 0
		2, // UINTN has 64 bits
	)
	spec = binary.LittleEndian.AppendUint32(spec, uint32(len(Banks())))
	for _, b := range Banks() {
		spec = binary.LittleEndian.AppendUint16(spec, algorithm(b))
		spec = binary.LittleEndian.AppendUint16(spec, uint16(b.Size()))
	}
	spec = append(spec, 0) // no vendor information
	out := binary.LittleEndian.AppendUint32(nil, 0)
	out = binary.LittleEndian.AppendUint32(out, evNoAction)
	out = append(out, make([]byte, 20)...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(spec)))
	out = append(out, spec...)
	for _, e := range events {
		out = binary.LittleEndian.AppendUint32(out, e.pcr)
		out = binary.LittleEndian.AppendUint32(out, e.kind)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(Banks())))
		for _, b := range Banks() {
			out = binary.LittleEndian.AppendUint16(out, algorithm(b))
			out = append(out, e.digest(b)...)
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(e.data)))
		out = append(out, e.data...)
	}
	return out
}
