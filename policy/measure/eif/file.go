package eif

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/assay-project/assay/attest"
)

// Sizes of the format, in bytes, and what is held of a section in memory.
const (
	headerSize        = 548
	sectionHeaderSize = 12
	maxSections       = 32
	maxSection        = 64 << 30
	maxCommandLine    = 64 << 10
	maxSignature      = 64 << 10
	maxMetadata       = 1 << 20
)

// Kind is the type of a section.
type Kind uint16

// The kinds of sections.
const (
	Kernel      Kind = 1
	CommandLine Kind = 2
	Ramdisk     Kind = 3
	Signature   Kind = 4
	Metadata    Kind = 5
)

var kindNames = []string{"invalid", "kernel", "cmdline", "ramdisk", "signature", "metadata"}

// String names the kind.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("type %d", uint16(k))
}

// header is the file's header. All numbers are big-endian.
type header struct {
	version, flags uint16
	sections       uint16
	offsets, sizes [maxSections]uint64
	crc            uint32
}

func (h *header) arch() string {
	if h.flags&1 != 0 {
		return "aarch64"
	}
	return "x86_64"
}

// file reads an image from front to back, and sums up what it reads.
type file struct {
	r    io.Reader
	h    header
	at   int64
	crc  uint32 // of everything but the header's own checksum
	seen [6]int // by kind
}

func malformed(check, expected, got string, err error) error {
	return &attest.Error{
		Kind: attest.Malformed, Check: check, Err: err, Expected: expected, Got: got,
		Hint: "an enclave image is what `nitro-cli build-enclave` writes",
	}
}

// read fills p, or says where the file ends.
func (f *file) read(p []byte, what string) error {
	n, err := io.ReadFull(f.r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return f.short(what, int64(len(p)), int64(n))
	}
	if err != nil {
		return fmt.Errorf("cannot read the %s at byte %d: %w", what, f.at, err)
	}
	f.at += int64(n)
	return nil
}

func (f *file) short(what string, want, got int64) error {
	return malformed("eif_size", fmt.Sprintf("%d bytes of the %s at byte %d", want, what, f.at), fmt.Sprint(got),
		errors.New("the file ends too early"))
}

func (f *file) header() error {
	var b [headerSize]byte
	if err := f.read(b[:], "header"); err != nil {
		return err
	}
	if string(b[:4]) != ".eif" {
		return malformed("eif_magic", ".eif", fmt.Sprintf("%q", b[:4]), errors.New("this is no enclave image"))
	}
	be := binary.BigEndian
	f.h = header{version: be.Uint16(b[4:]), flags: be.Uint16(b[6:]), sections: be.Uint16(b[26:]), crc: be.Uint32(b[544:])}
	for i := range maxSections {
		f.h.offsets[i] = be.Uint64(b[28+8*i:])
		f.h.sizes[i] = be.Uint64(b[284+8*i:])
	}
	f.crc = crc32.ChecksumIEEE(b[:headerSize-4])
	switch {
	case f.h.version < 2 || f.h.version > 4:
		return malformed("eif_version", "2, 3 or 4", fmt.Sprint(f.h.version), errors.New("this version of the format is not known"))
	case f.h.sections == 0 || f.h.sections > maxSections:
		return malformed("eif_sections", fmt.Sprintf("1 to %d", maxSections), fmt.Sprint(f.h.sections), errors.New("the number of sections"))
	}
	return nil
}

// section reads the header of section i. Where it is, and how long, is said twice
// in the file; the two must agree, or the loader's view of it could be another.
func (f *file) section(i int) (Section, error) {
	s := Section{Offset: f.at}
	var b [sectionHeaderSize]byte
	if err := f.read(b[:], fmt.Sprintf("header of section %d", i)); err != nil {
		return s, err
	}
	f.crc = crc32.Update(f.crc, crc32.IEEETable, b[:])
	s.Kind = Kind(binary.BigEndian.Uint16(b[:]))
	size := binary.BigEndian.Uint64(b[4:])
	switch {
	case s.Kind < Kernel || s.Kind > Metadata:
		return s, malformed("eif_section_type", "1 to 5", s.Kind.String(), fmt.Errorf("section %d at byte %d", i, s.Offset))
	case f.h.offsets[i] != uint64(s.Offset):
		return s, malformed("eif_section_offset", fmt.Sprint(s.Offset), fmt.Sprint(f.h.offsets[i]), fmt.Errorf("the header places section %d elsewhere than behind the one before it", i))
	case f.h.sizes[i] != size:
		return s, malformed("eif_section_size", fmt.Sprint(f.h.sizes[i]), fmt.Sprint(size), fmt.Errorf("file header and section header disagree on the size of section %d", i))
	case size > maxSection:
		return s, malformed("eif_section_size", fmt.Sprintf("at most %d", int64(maxSection)), fmt.Sprint(size), fmt.Errorf("section %d at byte %d", i, s.Offset))
	}
	s.Size = int64(size)
	f.seen[s.Kind]++
	if s.Kind != Ramdisk && f.seen[s.Kind] > 1 {
		return s, malformed("eif_sections", "one", fmt.Sprint(f.seen[s.Kind]), fmt.Errorf("the image has a second %s section", s.Kind))
	}
	return s, nil
}

// copy passes a section's data to all of w.
func (f *file) copy(s Section, w ...io.Writer) error {
	n, err := io.Copy(io.MultiWriter(append(slices.Clone(w), (*checksum)(&f.crc))...), io.LimitReader(f.r, s.Size))
	if err != nil {
		return fmt.Errorf("cannot read the %s section at byte %d: %w", s.Kind, s.Offset, err)
	}
	if n != s.Size {
		return f.short(s.Kind.String()+" section", s.Size, n)
	}
	f.at += n
	return nil
}

// hold returns a section's data, where it has a plausible size.
func (f *file) hold(s Section, most int64, w ...io.Writer) ([]byte, error) {
	if s.Size > most {
		return nil, malformed("eif_section_size", fmt.Sprintf("at most %d", most), fmt.Sprint(s.Size), fmt.Errorf("the %s section at byte %d", s.Kind, s.Offset))
	}
	var b buffer
	if err := f.copy(s, append(slices.Clone(w), &b)...); err != nil {
		return nil, err
	}
	return b, nil
}

func (f *file) commandLine(s Section, w ...io.Writer) (string, error) {
	b, err := f.hold(s, maxCommandLine, w...)
	return string(b), err
}

// metadata reads the image's name. Nothing measures the section, so that a
// fault in it is no reason to refuse the image.
func (f *file) metadata(s Section, img *Image) error {
	b, err := f.hold(s, maxMetadata)
	if err != nil {
		return err
	}
	var m struct {
		Name    string `json:"ImageName"`
		Version string `json:"ImageVersion"`
	}
	if json.Unmarshal(b, &m) == nil {
		img.Name, img.ImageVersion = m.Name, m.Version
	}
	return nil
}

// end checks that the file ends here, is whole, and can be launched at all.
func (f *file) end(img *Image) error {
	var one [1]byte
	switch _, err := io.ReadFull(f.r, one[:]); {
	case err == nil:
		return malformed("eif_trailing", "the end of the file", "more", fmt.Errorf("bytes follow the last section, at byte %d", f.at))
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("cannot read the file at byte %d: %w", f.at, err)
	}
	if f.crc != f.h.crc {
		return malformed("eif_crc", fmt.Sprintf("%08x", f.h.crc), fmt.Sprintf("%08x", f.crc), errors.New("the file is damaged: its checksum does not hold"))
	}
	for _, k := range []Kind{Kernel, CommandLine, Ramdisk} {
		if f.seen[k] == 0 {
			return malformed("eif_sections", k.String(), "none", fmt.Errorf("the image has no %s section", k))
		}
	}
	return nil
}

// checksum is a CRC-32 (IEEE 802.3) as a writer.
type checksum uint32

func (c *checksum) Write(p []byte) (int, error) {
	*c = checksum(crc32.Update(uint32(*c), crc32.IEEETable, p))
	return len(p), nil
}

// buffer collects what is written.
type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
