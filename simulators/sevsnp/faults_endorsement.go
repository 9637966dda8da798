package sevsnp

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
)

// extension finds one of the leaf's extensions.
func (pl *plan) extension(oid asn1.ObjectIdentifier) (*pkix.Extension, error) {
	i := slices.IndexFunc(pl.leaf.extensions, func(e pkix.Extension) bool { return e.Id.Equal(oid) })
	if i < 0 {
		return nil, fmt.Errorf("no extension %v", oid)
	}
	return &pl.leaf.extensions[i], nil
}

// without leaves an extension of the leaf out.
func without(oid asn1.ObjectIdentifier) func(*plan) error {
	return func(pl *plan) error {
		if _, err := pl.extension(oid); err != nil {
			return err
		}
		pl.leaf.extensions = slices.DeleteFunc(pl.leaf.extensions, func(e pkix.Extension) bool { return e.Id.Equal(oid) })
		return nil
	}
}

// twice writes an extension of the leaf a second time, at the end.
func twice(oid asn1.ObjectIdentifier) func(*plan) error {
	return func(pl *plan) error {
		e, err := pl.extension(oid)
		if err != nil {
			return err
		}
		pl.leaf.extensions = append(pl.leaf.extensions, *e)
		return nil
	}
}

// valued gives an extension of the leaf another value.
func valued(oid asn1.ObjectIdentifier, value []byte) func(*plan) error {
	return func(pl *plan) error {
		e, err := pl.extension(oid)
		if err != nil {
			return err
		}
		e.Value = value
		return nil
	}
}

// added adds an extension to the leaf.
func added(e pkix.Extension) func(*plan) error {
	return func(pl *plan) error {
		pl.leaf.extensions = append(pl.leaf.extensions, e)
		return nil
	}
}

// contents has the certificate say something else about the same key.
func contents(change func(*endorsement)) func(*plan) error {
	return func(pl *plan) (err error) {
		e := pl.endorsement
		change(&e)
		pl.leaf.extensions, err = e.extensions()
		return err
	}
}

// finished changes the list of endorsements.
func finished(h func(*plan, [][]byte) ([][]byte, error)) func(*plan) error {
	return func(pl *plan) error {
		pl.after = append(pl.after, h)
		return nil
	}
}

// maxItems and maxItemSize are what verifiers of ours take.
const (
	maxItems    = 16
	maxItemSize = 256 << 10
)

// endorsementFaults are wrong in what comes with the report, or in the KDS
// extensions of the leaf.
func endorsementFaults() []Fault {
	older := []Product{Milan, Genoa, Siena}
	integer := func(n int) []byte { return []byte{2, 1, byte(n)} }
	return []Fault{
		malformed("endorsements-many", "endorsements", "there are 17 endorsements").
			plan(finished(func(_ *plan, out [][]byte) ([][]byte, error) {
				for len(out) <= maxItems {
					out = append(out, slices.Clone(out[1]))
				}
				return out, nil
			})),
		malformed("endorsements-large", "endorsements", "one endorsement has 256 KiB and a byte").
			plan(finished(func(_ *plan, out [][]byte) ([][]byte, error) {
				return append(out, make([]byte, maxItemSize+1)), nil
			})),

		untrusted("endorsement-missing", "endorsement_missing", "the certificate of the signing key is not there").
			plan(finished(func(_ *plan, out [][]byte) ([][]byte, error) { return out[1:], nil })),
		untrusted("endorsement-other-kind", "endorsement_missing", "the report is signed by a VCEK, and only a VLEK's certificate is there").
			with(VCEK).plan(finished(func(pl *plan, out [][]byte) ([][]byte, error) {
			der, err := pl.chip.authority.VLEK(pl.chip.product, DefaultCSP, pl.endorsement.tcb)
			out[0] = der
			return out, err
		})),

		untrusted("extension-bl-missing", "endorsement_extensions", "the certificate has no boot loader version").plan(without(oidBootloaderSPL)),
		untrusted("extension-ucode-missing", "endorsement_extensions", "the certificate has no microcode version").plan(without(oidMicrocodeSPL)),
		untrusted("extension-hwid-missing", "endorsement_extensions", "the certificate has no hardware id").with(VCEK).plan(without(oidHWID)),
		untrusted("extension-version-missing", "endorsement_extensions", "the certificate has no structure version").plan(without(oidStructVersion)),
		untrusted("extension-product-missing", "endorsement_extensions", "the certificate has no product name").plan(without(oidProductName)),
		// Parsers that read extensions into a map, as some do, see only one of the two.
		untrusted("extension-ucode-twice", "endorsement_extensions", "the certificate has the microcode version twice").plan(twice(oidMicrocodeSPL)),
		untrusted("extension-snp-string", "endorsement_extensions", "the SNP version is an OCTET STRING").
			plan(valued(oidSNPSPL, []byte{4, 1, 0x18})),
		untrusted("extension-tee-wide", "endorsement_extensions", "the TEE version is 256").plan(valued(oidTEESPL, []byte{2, 2, 1, 0})),
		untrusted("extension-tee-negative", "endorsement_extensions", "the TEE version is -1").plan(valued(oidTEESPL, []byte{2, 1, 0xff})),
		untrusted("extension-bl-trailing", "endorsement_extensions", "a byte follows the boot loader version").
			plan(func(pl *plan) error {
				e, err := pl.extension(oidBootloaderSPL)
				if err == nil {
					e.Value = append(slices.Clone(e.Value), 0)
				}
				return err
			}),
		untrusted("extension-reserved", "endorsement_extensions", "a reserved component's version is 1").plan(valued(oidSPL5, integer(1))),
		untrusted("extension-product-utf8", "endorsement_extensions", "the product name is a UTF8String").
			plan(func(pl *plan) error {
				e, err := pl.extension(oidProductName)
				if err == nil {
					e.Value = slices.Clone(e.Value)
					e.Value[0] = asn1.TagUTF8String
				}
				return err
			}),
		untrusted("extension-hwid-short", "endorsement_extensions", "the hardware id lacks its last byte").
			with(VCEK).plan(func(pl *plan) error {
			e, err := pl.extension(oidHWID)
			if err == nil {
				e.Value = e.Value[:len(e.Value)-1]
			}
			return err
		}),
		untrusted("extension-fmc-milan", "endorsement_extensions", "the certificate has Turin's FMC version, and the product has none").
			on(older...).plan(added(pkix.Extension{Id: oidFMCSPL, Value: integer(0)})),
		untrusted("extension-fmc-missing", "endorsement_extensions", "a Turin certificate has no FMC version").
			on(Turin).plan(without(oidFMCSPL)),
		untrusted("extension-hwid-long", "endorsement_extensions", "a Turin certificate's hardware id has 64 bytes").
			on(Turin).with(VCEK).plan(func(pl *plan) error { return valued(oidHWID, pl.chip.ID())(pl) }),
		untrusted("extension-version-0", "endorsement_extensions", "a Turin certificate has structure version 0").
			on(Turin).plan(valued(oidStructVersion, integer(0))),
		untrusted("extension-version-1", "endorsement_extensions", "the certificate has Turin's structure version 1").
			on(older...).plan(valued(oidStructVersion, integer(1))),
		untrusted("extension-version-2", "endorsement_extensions", "the certificate has structure version 2, which nobody has specified").
			plan(valued(oidStructVersion, integer(2))),
	}
}

// relationFaults are certificates that are good in themselves, and another
// chip's, version's, product's or provider's than the report's.
func relationFaults() []Fault {
	cpuid := func(b [3]byte) func(*fields, Product) { return func(f *fields, _ Product) { f.cpuid = b } }
	return []Fault{
		untrusted("cpuid-other-line", "product", "the report's CPUID is of another product line than the certificate").
			launch(version(3)).fields(func(f *fields, p Product) {
			f.cpuid = Genoa.cpuid()
			if p.Line() == Genoa.Line() {
				f.cpuid = Milan.cpuid()
			}
		}),
		untrusted("cpuid-unknown", "product", "the report's CPUID is of a product without SEV-SNP").
			launch(version(3)).fields(cpuid([3]byte{0x17, 0x31, 0})),
		untrusted("product-name", "product_mismatch", "the product named in the certificate is of another line than its issuer").
			on(Milan, Genoa, Siena).launch(version(2)).plan(func(pl *plan) error {
			name := "Genoa"
			if pl.chip.product.Line() == name {
				name = Milan.vcekName()
				if pl.endorsement.key == VLEK {
					name = Milan.Line()
				}
			}
			v, err := ia5(name)
			if err != nil {
				return err
			}
			return valued(oidProductName, v)(pl)
		}),

		untrusted("tcb-other", "tcb_certificate", "the certificate is for an older SNP firmware than the report says").
			plan(contents(func(e *endorsement) { e.tcb.SNP-- })),
		untrusted("tcb-other-ucode", "tcb_certificate", "the certificate is for newer microcode than the report says").
			plan(contents(func(e *endorsement) { e.tcb.Microcode++ })),
		untrusted("tcb-other-fmc", "tcb_certificate", "the certificate is for another FMC version than the report says").
			on(Turin).plan(contents(func(e *endorsement) { e.tcb.FMC++ })),

		untrusted("chip-other", "chip_id", "the certificate is for another chip").
			with(VCEK).plan(contents(func(e *endorsement) {
			e.chipID = slices.Clone(e.chipID)
			e.chipID[0] ^= 1
		})),
		untrusted("chip-other-tail", "chip_id", "the certificate's hardware id differs in its last bit from the report's chip id").
			with(VCEK).plan(contents(func(e *endorsement) {
			e.chipID = slices.Clone(e.chipID)
			e.chipID[len(e.chipID)-1] ^= 1
		})),
		untrusted("chip-id-turin-tail", "chip_id", "a Turin report's chip id has more than its eight bytes").
			on(Turin).with(VCEK).fields(func(f *fields, _ Product) { f.chipID[63] = 1 }),

		untrusted("csp-missing", "csp_id", "the VLEK certificate names no provider").with(VLEK).plan(without(oidCSPID)),
		untrusted("csp-empty", "csp_id", "the VLEK certificate names a provider with an empty name").
			with(VLEK).plan(contents(func(e *endorsement) { e.csp = "" })),
		untrusted("csp-in-vcek", "csp_id", "the VCEK certificate names a provider").
			with(VCEK).plan(added(pkix.Extension{Id: oidCSPID, Value: append([]byte{asn1.TagIA5String, byte(len(DefaultCSP))}, DefaultCSP...)})),
	}
}
