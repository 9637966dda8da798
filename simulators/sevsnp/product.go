package sevsnp

import (
	"crypto/sha512"
	"fmt"
	"strings"
)

// Product is a generation of EPYC processors.
type Product string

// The products that can be simulated. Siena stands for Zen 4c (Bergamo and
// Siena), whose certificates are of the Genoa line.
const (
	Milan Product = "milan"
	Genoa Product = "genoa"
	Siena Product = "siena"
	Turin Product = "turin"
)

// Products lists all of them.
func Products() []Product { return []Product{Milan, Genoa, Siena, Turin} }

// Lines lists the product lines, which have a root each, as AMD writes them in
// certificates and URLs.
func Lines() []string { return []string{"Milan", "Genoa", "Turin"} }

// ParseProduct reads a product's name in either case; "bergamo" is Siena.
func ParseProduct(s string) (Product, error) {
	switch p := Product(strings.ToLower(s)); p {
	case Milan, Genoa, Siena, Turin:
		return p, nil
	case "bergamo":
		return Siena, nil
	default:
		return "", fmt.Errorf("sevsnp: product %.40q: want milan, genoa, siena or turin", s)
	}
}

// Line is the product line whose root vouches for the product's chips.
func (p Product) Line() string {
	switch p {
	case Milan:
		return "Milan"
	case Genoa, Siena:
		return "Genoa"
	case Turin:
		return "Turin"
	default:
		return ""
	}
}

// vcekName is the product name in a chip's certificate: Milan's has the
// stepping, the later ones have not. A VLEK's has none at all.
func (p Product) vcekName() string {
	if p == Milan {
		return "Milan-B0"
	}
	return p.Line()
}

// cpuid is family, model and stepping as a report of version 3 has them.
func (p Product) cpuid() [3]byte {
	switch p {
	case Genoa:
		return [3]byte{0x19, 0x11, 0x01}
	case Siena:
		return [3]byte{0x19, 0xa0, 0x02}
	case Turin:
		return [3]byte{0x1a, 0x02, 0x01}
	case Milan:
		return [3]byte{0x19, 0x01, 0x01}
	default:
		return [3]byte{}
	}
}

// turinLayout reports whether the product has Turin's structures: a TCB version
// with the FMC, a chip id of eight bytes, and version 1 of the certificate's
// extensions (AMD publication 57230, tables 11 to 13).
func (p Product) turinLayout() bool { return p == Turin }

// chipIDSize is the length of the chip's own id.
func (p Product) chipIDSize() int {
	if p.turinLayout() {
		return 8
	}
	return 64
}

// DefaultTCB is what a well kept host of the product ran in 2025.
func (p Product) DefaultTCB() TCB {
	switch p {
	case Genoa:
		return TCB{Bootloader: 10, SNP: 23, Microcode: 84}
	case Siena:
		return TCB{Bootloader: 10, SNP: 27, Microcode: 27}
	case Turin:
		return TCB{FMC: 1, Bootloader: 1, TEE: 1, SNP: 4, Microcode: 81}
	case Milan:
		return TCB{Bootloader: 4, SNP: 24, Microcode: 219}
	default:
		return TCB{}
	}
}

// defaultFirmware goes with DefaultTCB.
func (p Product) defaultFirmware() Firmware {
	build := map[Product]uint8{Milan: 29, Genoa: 40, Siena: 49, Turin: 65}[p]
	return Firmware{Major: 1, Minor: 55, Build: build}
}

// defaultVersion is the report version of such a host.
func (p Product) defaultVersion() uint32 {
	if p == Turin {
		return 5
	}
	return 3
}

// TCB is a version of the trusted computing base, component by component (AMD
// publication 56860, section 2.2). FMC exists on Turin only.
type TCB struct {
	FMC, Bootloader, TEE, SNP, Microcode uint8
}

// bytes is TCB_VERSION as a report has it, in the product's layout.
func (t TCB) bytes(p Product) [8]byte {
	if p.turinLayout() {
		return [8]byte{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	return [8]byte{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
}

// String writes the components in the order of AMD's URLs.
func (t TCB) String() string {
	return fmt.Sprintf("fmc %d, bl %d, tee %d, snp %d, ucode %d", t.FMC, t.Bootloader, t.TEE, t.SNP, t.Microcode)
}

// Firmware is a version of the SNP firmware.
type Firmware struct{ Major, Minor, Build uint8 }

// SigningKey is the kind of key that signs a chip's reports.
type SigningKey string

// The two kinds: the chip's own versioned chip endorsement key, and the
// versioned loaded endorsement key that a cloud provider loads into its chips.
const (
	VCEK SigningKey = "vcek"
	VLEK SigningKey = "vlek"
)

// MeasurementFromSeed derives a plausible launch measurement from a name: the
// same name gives the same 48 bytes everywhere.
func MeasurementFromSeed(name string) []byte {
	sum := sha512.Sum384([]byte("assay simulated guest\x00measurement\x00" + name))
	return sum[:]
}
