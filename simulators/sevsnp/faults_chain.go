package sevsnp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// certify has the leaf certify another key, which then signs the reports.
func (pl *plan) certify(k crypto.Signer) {
	pl.key = k
	pl.leaf.public = k.Public()
}

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

// chainFaults are wrong between the root and the leaf.
func chainFaults() []Fault {
	leafKey := func(make func() (crypto.Signer, error)) func(*plan) error {
		return func(pl *plan) error {
			k, err := make()
			if err == nil {
				pl.certify(k)
			}
			return err
		}
	}
	curve := func(c elliptic.Curve) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
	}
	return []Fault{
		untrusted("foreign-names", "chain_root", "the whole chain is of another root, with other names").
			plan(func(pl *plan) error {
				a := pl.chip.authority
				n := a.names
				n.organization = "Somebody else"
				return pl.foreign(n)
			}),
		untrusted("self-signed", "chain_root", "the leaf has signed itself").
			plan(func(pl *plan) error { pl.leaf.issuer, pl.leaf.signer = pl.leaf.subject, pl.key; return nil }),

		untrusted("leaf-sha256", "chain_algorithm", "the leaf is signed with SHA-256").
			plan(func(pl *plan) error { pl.leaf.algorithm = x509.SHA256WithRSAPSS; return nil }),
		untrusted("leaf-pkcs1", "chain_algorithm", "the leaf is signed with PKCS #1 v1.5 padding").
			plan(func(pl *plan) error { pl.leaf.algorithm = x509.SHA384WithRSA; return nil }),
		untrusted("leaf-p256", "chain_algorithm", "the leaf's key is on P-256").plan(leafKey(curve(elliptic.P256()))),
		untrusted("leaf-p521", "chain_algorithm", "the leaf's key is on P-521").plan(leafKey(curve(elliptic.P521()))),
		untrusted("leaf-rsa", "chain_algorithm", "the leaf's key is RSA").
			plan(leafKey(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })),
		untrusted("ask-p384", "chain_algorithm", "the signing key (ASK or ASVK) is on P-384").intermediate().
			plan(func(pl *plan) error {
				k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
				if err != nil {
					return err
				}
				return pl.replaceASK(func(b *blueprint) error { b.public, pl.askKey = k.Public(), k; return nil })
			}),
		untrusted("ask-sha256", "chain_algorithm", "the certificate of the ASK or ASVK is signed with SHA-256").intermediate().
			plan(askChange(func(_ *plan, b *blueprint) error { b.algorithm = x509.SHA256WithRSAPSS; return nil })),

		untrusted("leaf-ca", "chain_ca", "the leaf is a CA").
			plan(func(pl *plan) error {
				e, err := certificate.Constraints(true, -1)
				pl.leaf.extensions = append(pl.leaf.extensions, e)
				return err
			}),
		untrusted("ask-not-ca", "chain_ca", "the certificate of the ASK or ASVK is no CA's").intermediate().
			plan(askChange(func(_ *plan, b *blueprint) error {
				e, err := certificate.Constraints(false, -1)
				for i := range b.extensions {
					if b.extensions[i].Id.Equal(certificate.OIDConstraints) {
						b.extensions[i] = e
					}
				}
				return err
			})),

		untrusted("leaf-extension", "chain_extension", "the leaf has a critical extension that nobody knows").
			plan(added(pkix.Extension{Id: certificate.OIDUnknown, Critical: true, Value: []byte{5, 0}})),
		untrusted("ask-extension", "chain_extension", "the certificate of the ASK or ASVK has a critical extension that nobody knows").intermediate().
			plan(askChange(func(_ *plan, b *blueprint) error {
				b.extensions = append(b.extensions, pkix.Extension{Id: certificate.OIDUnknown, Critical: true, Value: []byte{5, 0}})
				return nil
			})),

		untrusted("foreign-root", "chain_signature", "the whole chain is of another root with the very same names").
			plan(func(pl *plan) error { return pl.foreign(pl.chip.authority.names) }),
		untrusted("leaf-forged", "chain_signature", "the leaf is signed by another key than its issuer's").
			plan(func(pl *plan) error {
				k, err := wellKnownKey(foreignLine, roleASK)
				pl.leaf.signer = k
				return err
			}),
		untrusted("leaf-other-signer", "chain_signature", "the leaf is signed by the key for the other kind of keys, in its issuer's name").
			plan(func(pl *plan) error {
				other := VLEK
				if pl.endorsement.key == VLEK {
					other = VCEK
				}
				pl.leaf.signer = pl.line.intermediate(other).key
				return nil
			}),
		untrusted("leaf-signature", "chain_signature", "one bit of the leaf's signature is flipped").
			plan(finished(func(_ *plan, out [][]byte) ([][]byte, error) {
				out[0][len(out[0])-1] ^= 1
				return out, nil
			})),
		untrusted("ask-forged", "chain_signature", "the certificate of the ASK or ASVK is signed by another key than the root's").intermediate().
			plan(func(pl *plan) error {
				root, err := wellKnownKey(foreignLine, roleARK)
				if err != nil {
					return err
				}
				k, err := wellKnownKey(foreignLine, roleASK)
				if err != nil {
					return err
				}
				return pl.replaceASK(func(b *blueprint) error {
					b.public, pl.askKey, b.signer = k.Public(), k, root
					return nil
				})
			}),

		stale("leaf-expired", "chain_validity", "the leaf expired a minute ago").
			plan(func(pl *plan) error { pl.leaf.notAfter = pl.chip.authority.now().Add(-time.Minute); return nil }),
		stale("leaf-not-yet-valid", "chain_validity", "the leaf becomes valid in a minute").
			plan(func(pl *plan) error {
				// A second more makes up for the fraction that certificates have not.
				pl.leaf.notBefore = pl.chip.authority.now().Add(time.Minute + time.Second)
				return nil
			}),
		stale("ask-expired", "chain_validity", "the certificate of the ASK or ASVK expired a minute ago").intermediate().
			plan(askChange(func(pl *plan, b *blueprint) error {
				b.notAfter = pl.chip.authority.now().Add(-time.Minute)
				return nil
			})),
		stale("ask-not-yet-valid", "chain_validity", "the certificate of the ASK or ASVK becomes valid in a minute").intermediate().
			plan(askChange(func(pl *plan, b *blueprint) error {
				b.notBefore = pl.chip.authority.now().Add(time.Minute + time.Second)
				return nil
			})),
	}
}

// foreign puts the leaf under somebody else's chain.
func (pl *plan) foreign(n names) (err error) {
	pl.line, err = pl.chip.authority.foreignLine(pl.line.name, n)
	return err
}

// replaceASK makes the certificate of the ASK or ASVK anew, with a change.
func (pl *plan) replaceASK(change func(*blueprint) error) error {
	role := roleASK
	if pl.endorsement.key == VLEK {
		role = roleASVK
	}
	key, ok := pl.line.intermediate(pl.endorsement.key).key.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("the %s key is not RSA", role)
	}
	b, err := pl.chip.authority.names.intermediateBlueprint(pl.line.name, role, key, pl.line.ark)
	if err != nil {
		return err
	}
	pl.ask = &b
	return change(&b)
}

func askChange(change func(*plan, *blueprint) error) func(*plan) error {
	return func(pl *plan) error {
		return pl.replaceASK(func(b *blueprint) error { return change(pl, b) })
	}
}

// crlFaults bring a CRL with something wrong about it, or that says that
// something is revoked.
func crlFaults() []Fault {
	crl := func(change func(*plan, *crlPlan) error) func(*plan) error {
		return func(pl *plan) error {
			pl.crl = pl.chip.authority.newCRLPlan()
			return change(pl, pl.crl)
		}
	}
	return []Fault{
		untrusted("crl-foreign", "crl_signature", "the CRL is signed by somebody else's root with the same name").
			plan(crl(func(pl *plan, c *crlPlan) error {
				l, err := pl.chip.authority.foreignLine(pl.line.name, pl.chip.authority.names)
				if err == nil {
					c.issuer = l.ark
				}
				return err
			})),
		untrusted("crl-signature", "crl_signature", "one bit of the CRL's signature is flipped").
			plan(crl(func(_ *plan, c *crlPlan) error { c.flip = true; return nil })),

		untrusted("crl-missing", "crl_missing", "there is no CRL").revocation().
			plan(func(pl *plan) error { pl.crl = nil; return nil }),
		untrusted("crl-other-line", "crl_missing", "the CRL is of another product line's root").revocation().
			plan(crl(func(pl *plan, c *crlPlan) error {
				name := "Genoa"
				if pl.line.name == name {
					name = "Milan"
				}
				c.issuer = pl.chip.authority.lines[name].ark
				return nil
			})),

		stale("crl-expired", "crl_validity", "the CRL should have been replaced a minute ago").revocation().
			plan(crl(func(pl *plan, c *crlPlan) error {
				c.nextUpdate = pl.chip.authority.now().Add(-time.Minute)
				return nil
			})),
		stale("crl-not-yet-valid", "crl_validity", "the CRL becomes valid in a minute").revocation().
			plan(crl(func(pl *plan, c *crlPlan) error {
				c.thisUpdate = pl.chip.authority.now().Add(time.Minute + time.Second)
				return nil
			})),

		untrusted("ask-revoked", "crl_revoked_ask", "the certificate of the ASK or ASVK is revoked").
			plan(crl(func(pl *plan, c *crlPlan) error {
				c.revoked = []*big.Int{big.NewInt(7), pl.line.intermediate(pl.endorsement.key).cert.SerialNumber}
				return nil
			})),
		// Real endorsement certificates all have the serial number zero; this one has
		// a number of its own, so that it alone is revoked.
		untrusted("leaf-revoked", "crl_revoked_endorsement", "the certificate of the VCEK or VLEK is revoked").
			plan(crl(func(pl *plan, c *crlPlan) error {
				pl.leaf.serial = big.NewInt(revokedSerial)
				c.revoked = []*big.Int{big.NewInt(7), pl.leaf.serial}
				return nil
			})),
	}
}

// revokedSerial is the serial number of an endorsement certificate that is to be
// revoked.
const revokedSerial = 0x5eed0001
