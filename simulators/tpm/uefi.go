package tpm

import (
	"embed"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// uefiCertificates are those of the simulated firmware's secure-boot variables.
// Nobody has their keys any more: they sign nothing, they are only measured.
//
//go:embed testdata/uefi
var uefiCertificates embed.FS

// The certificates of the secure-boot variables.
const (
	certPK   = "pk"     // the platform's owner
	certKEK  = "kek"    // who may change the databases
	certDB   = "db"     // whose programs may start: signs shim and systemd-boot
	certShim = "vendor" // built into shim: signs GRUB and the kernel
)

func uefiCertificate(name string) ([]byte, error) {
	b, err := uefiCertificates.ReadFile("testdata/uefi/" + name + ".der")
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return b, nil
}

// guid is an EFI_GUID in the byte order of memory.
type guid [16]byte

func newGUID(a uint32, b, c uint16, d [8]byte) (g guid) {
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], d[:])
	return g
}

// GUIDs of the UEFI specification (sections 3.3, 32.4.1 and 32.6.1), and shim's.
func globalVariable() guid {
	return newGUID(0x8be4df61, 0x93ca, 0x11d2, [8]byte{0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c})
}

func securityDatabase() guid {
	return newGUID(0xd719b2cb, 0x3d3a, 0x4596, [8]byte{0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
}

func shimLock() guid {
	return newGUID(0x605dab50, 0xe046, 0x4300, [8]byte{0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23})
}

func listX509() guid {
	return newGUID(0xa5c059a1, 0x94e4, 0x4aa7, [8]byte{0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72})
}

func listSHA256() guid {
	return newGUID(0xc1c41626, 0x504c, 0x4092, [8]byte{0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28})
}

// owner is whose entries of the signature databases are.
func owner() guid {
	return newGUID(0x53494d55, 0x4c41, 0x5445, [8]byte{0x80, 0, 0, 0, 0, 0, 0, 1})
}

// utf16le is a string as UEFI has it, without an end mark.
func utf16le(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// utf16z is the same with an end mark.
func utf16z(s string) []byte { return append(utf16le(s), 0, 0) }

// variable is UEFI_VARIABLE_DATA (Firmware Profile, section 10.2.6).
func variable(g guid, name string, data []byte) []byte {
	out := append([]byte{}, g[:]...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(utf16.Encode([]rune(name)))))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	out = append(out, utf16le(name)...)
	return append(out, data...)
}

// signatureList is EFI_SIGNATURE_LIST (UEFI specification, section 32.4.1), of
// entries of one size.
func signatureList(kind guid, entries ...[]byte) []byte {
	size := 16
	if len(entries) > 0 {
		size += len(entries[0])
	}
	out := append([]byte{}, kind[:]...)
	out = binary.LittleEndian.AppendUint32(out, uint32(28+size*len(entries)))
	out = binary.LittleEndian.AppendUint32(out, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(size))
	for _, e := range entries {
		out = append(out, signature(e)...)
	}
	return out
}

// signature is EFI_SIGNATURE_DATA.
func signature(entry []byte) []byte {
	g := owner()
	return append(append([]byte{}, g[:]...), entry...)
}

// Device path nodes (UEFI specification, section 10.3).
func filePath(path string) []byte {
	name := utf16z(path)
	node := append([]byte{0x04, 0x04}, binary.LittleEndian.AppendUint16(nil, uint16(4+len(name)))...)
	return append(append(node, name...), endOfPath()...)
}

func pciPath(device byte) []byte {
	acpi := []byte{0x02, 0x01, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0} // PciRoot(0)
	return append(append(acpi, 0x01, 0x01, 6, 0, 0, device), endOfPath()...)
}

func endOfPath() []byte { return []byte{0x7f, 0xff, 4, 0} }

// imageLoad is UEFI_IMAGE_LOAD_EVENT (Firmware Profile, section 10.2.3). Where it
// was loaded is not measured.
func imageLoad(size int, path []byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, 0x7e000000)
	out = binary.LittleEndian.AppendUint64(out, uint64(size))
	out = binary.LittleEndian.AppendUint64(out, 0)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(path)))
	return append(out, path...)
}
