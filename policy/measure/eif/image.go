package eif

import (
	"crypto/sha512"
	"hash"
	"io"
	"time"

	"github.com/assay-project/assay/attest"
)

// Image is what an enclave image file says and yields.
type Image struct {
	Version     uint16 // of the format, 2 to 4
	Arch        string // "x86_64" or "aarch64"
	Size        int64  // bytes
	CommandLine string // the kernel's; control characters are as in the file
	Sections    []Section

	// The registers, 48 bytes each. PCR8 is nil when the image is not signed.
	PCR0, PCR1, PCR2, PCR8 attest.Bytes
	Signer                 *Signer // nil when the image is not signed

	// Name and ImageVersion are from the metadata section. Nothing measures it.
	Name, ImageVersion string
}

// Section is one part of the file.
type Section struct {
	Kind   Kind
	Offset int64 // of its header
	Size   int64 // of its data
}

// Signer is the certificate that signed the image. It is measured as it is; who
// issued it, and until when it is valid, the hardware does not ask.
type Signer struct {
	Subject             string
	NotBefore, NotAfter time.Time
	SHA256              attest.Bytes // of the DER certificate
}

// extended is a register that is extended once.
type extended struct{ hash.Hash }

func newExtended() extended { return extended{sha512.New384()} }

func (e extended) value() attest.Bytes {
	register := make([]byte, sha512.Size384)
	sum := sha512.Sum384(e.Sum(register))
	return sum[:]
}

// Measure reads an image file to its end. It returns an image, or an
// [attest.Error]: Malformed for what is no intact image file, Untrusted (check
// "eif_signature") for a signature that does not hold.
func Measure(r io.Reader) (*Image, error) {
	f := &file{r: r}
	if err := f.header(); err != nil {
		return nil, err
	}
	img := &Image{Version: f.h.version, Arch: f.h.arch()}
	whole, boot, app := newExtended(), newExtended(), newExtended()
	var signature []byte
	ramdisks := 0
	for i := range int(f.h.sections) {
		s, err := f.section(i)
		if err != nil {
			return nil, err
		}
		img.Sections = append(img.Sections, s)
		switch s.Kind {
		case Kernel:
			err = f.copy(s, whole, boot)
		case CommandLine:
			img.CommandLine, err = f.commandLine(s, whole, boot)
		case Ramdisk:
			into := app
			if ramdisks == 0 {
				into = boot
			}
			ramdisks++
			err = f.copy(s, whole, into)
		case Signature:
			signature, err = f.hold(s, maxSignature)
		case Metadata:
			err = f.metadata(s, img)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := f.end(img); err != nil {
		return nil, err
	}
	img.PCR0, img.PCR1, img.PCR2 = whole.value(), boot.value(), app.value()
	img.Size = f.at
	if signature != nil {
		if err := img.signed(signature); err != nil {
			return nil, err
		}
	}
	return img, nil
}
