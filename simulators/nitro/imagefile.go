package nitro

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"

	"github.com/fxamacker/cbor/v2"
)

// ImageFile is a small enclave image file (EIF, version 4). It has the format's
// header, sections, checksum and signature, and nothing in it could boot.
type ImageFile struct {
	Kernel      []byte
	CommandLine string
	Ramdisks    [][]byte // the first is what boots, the others are the application
	Name        string   // in the metadata, which nothing measures
	Version     string

	// Certificate and Key sign the image; nil leaves it unsigned. The key is
	// ECDSA P-384.
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// ImageFileFromSeed is an unsigned image of a name: kernel, command line and first
// ramdisk are the same for every name, as they are for real images.
func ImageFileFromSeed(name string) ImageFile {
	return ImageFile{
		Kernel:      bytes.Repeat(seeded("kernel", ""), 64),
		CommandLine: "reboot=k panic=30 pci=off nomodules console=ttyS0 random.trust_cpu=on root=/dev/ram0",
		Ramdisks:    [][]byte{bytes.Repeat(seeded("boot ramdisk", ""), 32), bytes.Repeat(seeded("application", name), 128)},
		Name:        name, Version: "1.0",
	}
}

// The types of sections.
const (
	sectionKernel    = 1
	sectionCmdline   = 2
	sectionRamdisk   = 3
	sectionSignature = 4
	sectionMetadata  = 5
)

// Image is what the hypervisor measures of the file.
func (f ImageFile) Image() Image {
	measured := func(parts ...[]byte) []byte {
		sum := sha512.Sum384(bytes.Join(parts, nil))
		return extend(make([]byte, pcrSize), sum[:])
	}
	boot := [][]byte{f.Kernel, []byte(f.CommandLine)}
	var app [][]byte
	for i, r := range f.Ramdisks {
		if i == 0 {
			boot = append(boot, r)
		} else {
			app = append(app, r)
		}
	}
	i := Image{Name: f.Name, PCR1: measured(boot...), PCR2: measured(app...)}
	i.PCR0 = measured(append(boot, app...)...)
	if f.Certificate != nil {
		i.PCR8 = measured(f.Certificate.Raw)
	}
	return i
}

// Encode writes the file.
func (f ImageFile) Encode() ([]byte, error) {
	metadata, err := json.Marshal(map[string]any{
		"ImageName": f.Name, "ImageVersion": f.Version, "DockerInfo": map[string]any{}, "CustomMetadata": map[string]any{},
		"BuildMetadata": map[string]string{
			"BuildTime": "2026-01-01T00:00:00Z", "BuildTool": "teesim", "BuildToolVersion": "1", "OperatingSystem": "Linux", "KernelVersion": "simulated",
		},
	})
	if err != nil {
		return nil, err
	}
	type section struct {
		kind uint16
		data []byte
	}
	sections := []section{{sectionKernel, f.Kernel}, {sectionCmdline, []byte(f.CommandLine)}, {sectionMetadata, metadata}}
	for _, r := range f.Ramdisks {
		sections = append(sections, section{sectionRamdisk, r})
	}
	if f.Key != nil {
		signature, err := f.sign()
		if err != nil {
			return nil, err
		}
		sections = append(sections, section{sectionSignature, signature})
	}
	if len(sections) > imageSections {
		return nil, fmt.Errorf("%d sections, the format has room for %d", len(sections), imageSections)
	}
	be := binary.BigEndian
	head := make([]byte, imageHeader)
	copy(head, ".eif")
	be.PutUint16(head[4:], 4)
	be.PutUint64(head[8:], 512<<20)
	be.PutUint64(head[16:], 2)
	be.PutUint16(head[26:], uint16(len(sections)))
	var body []byte
	for i, s := range sections {
		be.PutUint64(head[28+8*i:], uint64(imageHeader+len(body)))
		be.PutUint64(head[284+8*i:], uint64(len(s.data)))
		body = be.AppendUint16(body, s.kind)
		body = be.AppendUint16(body, 0)
		body = be.AppendUint64(body, uint64(len(s.data)))
		body = append(body, s.data...)
	}
	sum := crc32.ChecksumIEEE(append(bytes.Clone(head[:imageHeader-4]), body...))
	be.PutUint32(head[imageHeader-4:], sum)
	return append(head, body...), nil
}

// imageHeader is the size of the file's header in bytes, and imageSections the
// number of sections that it has room for.
const (
	imageHeader   = 548
	imageSections = 32
)

// sign makes the signature section: byte strings in it are arrays of integers, as
// the real tool's encoder writes them.
func (f ImageFile) sign() ([]byte, error) {
	payload := cborMap(
		pair{cborText("register_index"), cborUint(0)},
		pair{cborText("register_value"), cborOctets(f.Image().PCR0)})
	protected := cborMap(pair{cborUint(1), cborInt(-35)}) // alg: ES384
	toSign := cborArray(cborText("Signature1"), cborBytes(protected), cborBytes(nil), cborBytes(payload))
	key, ok := f.Key.(*ecdsa.PrivateKey)
	if !ok || f.Certificate == nil || !key.PublicKey.Equal(f.Certificate.PublicKey) {
		return nil, errors.New("an image is signed with an ECDSA key and the certificate for it")
	}
	digest := sha512.Sum384(toSign)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	signature := append(padded(r), padded(s)...)
	message := cborArray(cborBytes(protected), cborMap(), cborBytes(payload), cborBytes(signature))
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate.Raw})
	return cborArray(cborMap(
		pair{cborText("signing_certificate"), cborOctets(certificate)},
		pair{cborText("signature"), cborOctets(message)})), nil
}

func padded(n *big.Int) []byte { return n.FillBytes(make([]byte, 48)) }

// cborOctets encodes bytes as an array of integers.
func cborOctets(b []byte) []byte {
	items := make([][]byte, len(b))
	for i, c := range b {
		items[i] = cborUint(uint64(c))
	}
	return cborArray(items...)
}

// ReadImageFile reads what Encode, or the real tool, wrote, as far as a launch
// needs it: a hypervisor measures what is there.
func ReadImageFile(b []byte) (ImageFile, error) {
	var f ImageFile
	if len(b) < imageHeader || string(b[:4]) != ".eif" {
		return f, errors.New("this is no enclave image file")
	}
	be := binary.BigEndian
	for at := imageHeader; at < len(b); {
		if len(b)-at < 12 {
			return f, fmt.Errorf("%d bytes at %d are no section", len(b)-at, at)
		}
		kind, size := be.Uint16(b[at:]), be.Uint64(b[at+4:])
		at += 12
		if size > uint64(len(b)-at) {
			return f, fmt.Errorf("the section at byte %d goes beyond the end of the file", at)
		}
		data := b[at : at+int(size)]
		at += len(data)
		switch kind {
		case sectionKernel:
			f.Kernel = data
		case sectionCmdline:
			f.CommandLine = string(data)
		case sectionRamdisk:
			f.Ramdisks = append(f.Ramdisks, data)
		case sectionMetadata:
			var m struct{ ImageName, ImageVersion string }
			if json.Unmarshal(data, &m) == nil {
				f.Name, f.Version = m.ImageName, m.ImageVersion
			}
		case sectionSignature:
			if err := f.readSignature(data); err != nil {
				return f, err
			}
		default:
			return f, fmt.Errorf("a section of type %d at byte %d", kind, at)
		}
	}
	return f, nil
}

// readSignature finds the certificate in the signature section.
func (f *ImageFile) readSignature(data []byte) error {
	octets, err := signingCertificate(data)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(octets)
	if block == nil {
		return errors.New("the signature section holds no PEM certificate")
	}
	f.Certificate, err = x509.ParseCertificate(block.Bytes)
	return err
}

// signingCertificate is the PEM text of the first signature.
func signingCertificate(section []byte) ([]byte, error) {
	var entries []struct {
		Certificate []uint16 `cbor:"signing_certificate"` // as integers: see cborOctets
	}
	if err := cbor.Unmarshal(section, &entries); err != nil || len(entries) == 0 {
		return nil, fmt.Errorf("the signature section cannot be read: %w", err)
	}
	out := make([]byte, len(entries[0].Certificate))
	for i, n := range entries[0].Certificate {
		out[i] = byte(n)
	}
	return out, nil
}
