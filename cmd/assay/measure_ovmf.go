package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/assay-project/assay/internal/cli"
)

// The end of an OVMF image (edk2, OvmfPkg/ResetVector): 32 bytes before the end
// stands a table of entries, which are read backwards. Each ends in its length
// (uint16, little-endian, header included) and a GUID; the last says how long the
// table is. One entry points to the SEV metadata: the pages that the host measures
// beside the firmware itself.
const (
	ovmfPage        = 4096
	ovmfTail        = 32
	ovmfEntryHeader = 18
	ovmfMaxSize     = 64 << 20
	ovmfMaxSections = 64
	ovmfMaxMeasured = 1 << 30 // bytes of all sections together
)

// GUIDs in the order of their bytes.
const (
	guidOVMFFooter    = "de82b596b21ff745baeaa366c55a082d"
	guidHashTable     = "1f3755723b3a044b927b1da6efa8d454"
	guidResetBlock    = "de71f7007e1acb4f890e68c77e2fb44e"
	guidSEVMetadata   = "666588dc4a989847a75e5585a7bf67cc"
	sevMetadataMagic  = "ASEV"
	sevMetadataHeader = 16
	sevSectionSize    = 12
)

// Types of metadata sections.
const (
	sectionMemory       = 1 // zero pages, validated before launch
	sectionSecrets      = 2
	sectionCPUID        = 3
	sectionCallingArea  = 4 // of an SVSM: zero pages without one
	sectionKernelHashes = 0x10
)

// firmware is an OVMF image that can launch an SNP guest.
type firmware struct {
	data      []byte
	resetEIP  uint32 // where virtual CPUs but the first begin
	sections  []section
	hashTable uint32 // where the hashes of kernel, initrd and command line go; 0 = nowhere
}

type section struct{ gpa, size, kind uint32 }

// gpa is where the image lies in the guest: it ends at 4 GiB.
func (f *firmware) gpa() uint64 { return 1<<32 - uint64(len(f.data)) }

func (f *firmware) checksHashes() bool {
	for _, s := range f.sections {
		if s.kind == sectionKernelHashes {
			return f.hashTable != 0
		}
	}
	return false
}

// parseFirmware reads an OVMF image. All that the measurement depends on is
// checked here: what follows computes.
func parseFirmware(b []byte) (*firmware, error) {
	switch {
	case len(b) > ovmfMaxSize:
		return nil, fmt.Errorf("it has more than %d MiB", ovmfMaxSize>>20)
	case len(b) == 0 || len(b)%ovmfPage != 0:
		return nil, fmt.Errorf("its size, %s, is not a multiple of 4096", cli.Count(len(b), "byte"))
	}
	table, err := footerTable(b)
	if err != nil {
		return nil, err
	}
	f := &firmware{data: b}
	reset, ok := table[guidResetBlock]
	if !ok || len(reset) < 4 {
		return nil, errors.New("it has no SEV-ES reset block: it was not built for SEV")
	}
	f.resetEIP = binary.LittleEndian.Uint32(reset)
	if h, ok := table[guidHashTable]; ok && len(h) >= 4 {
		f.hashTable = binary.LittleEndian.Uint32(h)
	}
	meta, ok := table[guidSEVMetadata]
	if !ok || len(meta) < 4 {
		return nil, errors.New("it has no SEV metadata: it was not built for SEV-SNP")
	}
	if f.sections, err = metadata(b, binary.LittleEndian.Uint32(meta)); err != nil {
		return nil, fmt.Errorf("its SEV metadata: %w", err)
	}
	return f, nil
}

// footerTable returns the table's entries by GUID, without their headers.
func footerTable(b []byte) (map[string][]byte, error) {
	end := len(b) - ovmfTail - ovmfEntryHeader
	footer := b[end:]
	if hex.EncodeToString(footer[2:ovmfEntryHeader]) != guidOVMFFooter {
		return nil, errors.New("it does not end in OVMF's table: is this an OVMF image (OVMF.fd, with the code)?")
	}
	size := int(binary.LittleEndian.Uint16(footer)) - ovmfEntryHeader
	if size < 0 || size > end {
		return nil, errors.New("the table at its end is longer than itself")
	}
	out := make(map[string][]byte)
	for rest := b[end-size : end]; len(rest) > 0; {
		if len(rest) < ovmfEntryHeader {
			return nil, errors.New("the table at its end has an entry that is cut short")
		}
		head := rest[len(rest)-ovmfEntryHeader:]
		n, guid := int(binary.LittleEndian.Uint16(head)), hex.EncodeToString(head[2:])
		if n < ovmfEntryHeader || n > len(rest) {
			return nil, errors.New("the table at its end has an entry of an impossible length")
		}
		if _, twice := out[guid]; twice {
			return nil, errors.New("the table at its end has an entry twice")
		}
		out[guid] = rest[len(rest)-n : len(rest)-ovmfEntryHeader]
		rest = rest[:len(rest)-n]
	}
	return out, nil
}

// metadata reads the sections that stand offset bytes before the image's end.
func metadata(b []byte, offset uint32) ([]section, error) {
	if uint64(offset) > uint64(len(b)) || offset < sevMetadataHeader {
		return nil, errors.New("it lies outside the image")
	}
	m := b[len(b)-int(offset):]
	size, version, n := binary.LittleEndian.Uint32(m[4:]), binary.LittleEndian.Uint32(m[8:]), binary.LittleEndian.Uint32(m[12:])
	switch {
	case !bytes.HasPrefix(m, []byte(sevMetadataMagic)):
		return nil, errors.New("it does not begin with ASEV")
	case version != 1:
		return nil, fmt.Errorf("version %d, want 1", version)
	case n == 0 || n > ovmfMaxSections:
		return nil, fmt.Errorf("%d sections, want 1 to %d", n, ovmfMaxSections)
	case size < sevMetadataHeader+n*sevSectionSize || uint64(size) > uint64(len(m)):
		return nil, fmt.Errorf("%d bytes do not hold its %d sections", size, n)
	}
	var out []section
	total, hashes := uint64(0), 0
	for i := range int(n) {
		raw := m[sevMetadataHeader+i*sevSectionSize:]
		s := section{binary.LittleEndian.Uint32(raw), binary.LittleEndian.Uint32(raw[4:]), binary.LittleEndian.Uint32(raw[8:])}
		if s.size == 0 || s.size%ovmfPage != 0 || s.gpa%ovmfPage != 0 {
			return nil, fmt.Errorf("section %d (%#x, %d bytes) is not made of whole pages", i, s.gpa, s.size)
		}
		switch s.kind {
		case sectionMemory, sectionCallingArea:
		case sectionSecrets, sectionCPUID:
			if s.size != ovmfPage {
				return nil, fmt.Errorf("section %d, type %d, has %d bytes, want one page", i, s.kind, s.size)
			}
		case sectionKernelHashes:
			if hashes++; s.size != ovmfPage || hashes > 1 {
				return nil, fmt.Errorf("section %d: the hashes of the kernel have one page", i)
			}
		default:
			return nil, fmt.Errorf("section %d has type %d, which is not known: its measurement would be a guess", i, s.kind)
		}
		if total += uint64(s.size); total > ovmfMaxMeasured {
			return nil, errors.New("its sections are larger than any firmware's")
		}
		out = append(out, s)
	}
	return out, nil
}
