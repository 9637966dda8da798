package sevsnp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// certify has the leaf certify another key, which then signs the reports.
func (pl *plan) certify(k crypto.Signer) {
	pl.key = k
	pl.leaf.public = k.Public()
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
