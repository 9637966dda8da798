package nitro

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"slices"
	"time"
)

// chainFaults are wrong between the root and the leaf.
func chainFaults() []Fault {
	return []Fault{
		untrusted("foreign-root", "chain_root", "the whole chain is of another root with the same names").
			chain(func(d *draft) error {
				f, err := d.authority.foreignAuthority()
				if err != nil {
					return err
				}
				bundle, leaf, err := f.chain(d.doc.ModuleID, d.at, false)
				if err != nil {
					return err
				}
				d.use(bundle, leaf)
				return nil
			}),
		untrusted("root-missing", "chain_root", "cabundle begins with the regional certificate").
			chain(func(d *draft) error { d.cabundle = d.cabundle[1:]; return nil }),
		untrusted("chain-reversed", "chain_root", "cabundle is in the opposite order, the root last").
			chain(func(d *draft) error { slices.Reverse(d.cabundle); return nil }),
		untrusted("self-signed", "chain_root", "the leaf is self-signed and is its own cabundle").
			chain(func(d *draft) error {
				b, err := d.authority.leafBlueprint(d.doc.ModuleID, d.at)
				if err != nil {
					return err
				}
				n, err := issue(b, nil)
				if err != nil {
					return err
				}
				d.use([]*node{n}, n)
				return nil
			}),
		untrusted("chain-swapped", "chain_order", "the zonal and the instance certificate have changed places").
			chain(func(d *draft) error { d.cabundle[2], d.cabundle[3] = d.cabundle[3], d.cabundle[2]; return nil }),
		untrusted("chain-gap", "chain_issuer", "the zonal certificate is missing").
			chain(func(d *draft) error { d.cabundle = slices.Delete(d.cabundle, 2, 3); return nil }),
		untrusted("chain-other-leaf", "chain_issuer", "the leaf belongs to another instance of the same zone").
			chain(func(d *draft) error {
				_, leaf, err := d.authority.chain("i-0ffffffffffffffff-enc0199999999999999", d.at, false)
				if err != nil {
					return err
				}
				d.certificate, d.signer = slices.Clone(leaf.der), leaf.key
				return nil
			}),

		untrusted("intermediate-p256", "chain_algorithm", "the instance certificate's key is on P-256").
			plan(func(_ *draft, p *plan) (err error) {
				p.instance.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				return err
			}),
		untrusted("intermediate-p521", "chain_algorithm", "the zonal certificate's key is on P-521").
			plan(func(_ *draft, p *plan) (err error) {
				p.zonal.key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
				return err
			}),
		untrusted("intermediate-rsa", "chain_algorithm", "the instance certificate's key is RSA").
			plan(func(_ *draft, p *plan) (err error) {
				p.instance.key, err = rsa.GenerateKey(rand.Reader, 2048)
				p.leaf.signature = x509.SHA384WithRSA
				return err
			}),
		untrusted("intermediate-sha256", "chain_algorithm", "the zonal certificate is signed with SHA-256").
			plan(func(_ *draft, p *plan) error { p.zonal.signature = x509.ECDSAWithSHA256; return nil }),
		untrusted("leaf-sha256", "chain_algorithm", "the leaf certificate is signed with SHA-256").
			plan(func(_ *draft, p *plan) error { p.leaf.signature = x509.ECDSAWithSHA256; return nil }),

		untrusted("intermediate-signature", "chain_signature", "one bit of the zonal certificate's signature is flipped").
			chain(func(d *draft) error { d.cabundle[2][len(d.cabundle[2])-1] ^= 1; return nil }),
		untrusted("intermediate-forged", "chain_signature", "the instance certificate is signed by another key than its issuer's").
			plan(func(_ *draft, p *plan) (err error) { p.instance.signer, err = newKey(); return err }),
		untrusted("leaf-signature", "chain_signature", "one bit of the leaf certificate's signature is flipped").
			chain(func(d *draft) error { d.certificate[len(d.certificate)-1] ^= 1; return nil }),
		untrusted("leaf-forged", "chain_signature", "the leaf is signed by another key than its issuer's").
			plan(func(_ *draft, p *plan) (err error) { p.leaf.signer, err = newKey(); return err }),

		untrusted("intermediate-extension", "chain_extension", "the instance certificate has a critical extension that nobody knows").
			plan(func(_ *draft, p *plan) error { p.instance.critical = true; return nil }),
		untrusted("leaf-extension", "chain_extension", "the leaf has a critical extension that nobody knows").
			plan(func(_ *draft, p *plan) error { p.leaf.critical = true; return nil }),

		untrusted("intermediate-not-ca", "chain_ca", "the instance certificate is not a CA").
			plan(func(_ *draft, p *plan) error { p.instance.ca, p.instance.pathLen = false, -1; return nil }),
		untrusted("intermediate-no-constraints", "chain_ca", "the instance certificate has no basic constraints").
			plan(func(_ *draft, p *plan) error { p.instance.noConstraints = true; return nil }),
		untrusted("intermediate-no-cert-sign", "chain_ca", "the instance certificate may not sign certificates").
			plan(func(_ *draft, p *plan) error { p.instance.usage = x509.KeyUsageDigitalSignature; return nil }),

		untrusted("path-length", "chain_path_length", "the zonal certificate allows no CA below it, and one follows").
			plan(func(_ *draft, p *plan) error { p.zonal.pathLen = 0; return nil }),
		untrusted("path-extra-ca", "chain_path_length", "a CA stands below the instance certificate, which allows none").
			chain(func(d *draft) error {
				b, err := d.authority.instanceBlueprint("i-0eeeeeeeeeeeeeeee", d.at)
				if err != nil {
					return err
				}
				extra, err := issue(b, d.bundle[len(d.bundle)-1])
				if err != nil {
					return err
				}
				l, err := d.authority.leafBlueprint(d.doc.ModuleID, d.at)
				if err != nil {
					return err
				}
				leaf, err := issue(l, extra)
				if err != nil {
					return err
				}
				d.use(append(d.bundle, extra), leaf)
				return nil
			}),
	}
}

// use replaces the whole chain.
func (d *draft) use(bundle []*node, leaf *node) {
	d.bundle, d.leaf = bundle, leaf
	d.certificate, d.signer = slices.Clone(leaf.der), leaf.key
	d.cabundle = nil
	for _, n := range bundle {
		d.cabundle = append(d.cabundle, slices.Clone(n.der))
	}
}

// leafFaults are wrong in the certificate that signs documents.
func leafFaults() []Fault {
	curve := func(c elliptic.Curve) func(*draft, *plan) error {
		return func(_ *draft, p *plan) (err error) {
			p.leaf.key, err = ecdsa.GenerateKey(c, rand.Reader)
			return err
		}
	}
	return []Fault{
		untrusted("leaf-ca", "leaf_is_ca", "the leaf is a CA").
			plan(func(_ *draft, p *plan) error { p.leaf.ca = true; return nil }),
		untrusted("leaf-no-digital-signature", "leaf_key_usage", "the leaf's key usage lacks digitalSignature").
			plan(func(_ *draft, p *plan) error { p.leaf.usage = x509.KeyUsageContentCommitment; return nil }),
		untrusted("leaf-no-key-usage", "leaf_key_usage", "the leaf has no key usage at all").
			plan(func(_ *draft, p *plan) error { p.leaf.usage = 0; return nil }),
		untrusted("leaf-cert-sign", "leaf_key_usage", "the leaf's key usage allows signing certificates").
			plan(func(_ *draft, p *plan) error { p.leaf.usage |= x509.KeyUsageCertSign; return nil }),
		// No P-521 signature fits into ES384's 96 bytes: it is 96 random bytes, and
		// a verifier must have refused the curve before it looks.
		untrusted("leaf-p521", "leaf_curve", "the leaf's key is on P-521").plan(curve(elliptic.P521())),
		untrusted("leaf-p256", "leaf_curve", "the leaf's key is on P-256").plan(curve(elliptic.P256())),
	}
}

// tolerance is how far a document's time may be from the verifier's.
const tolerance = 5 * time.Minute

// timeFaults were right, or will be. The verifier's time is that of an honest
// document: Document.Timestamp as it was given to Mint.
func timeFaults() []Fault {
	minute := time.Minute
	// A leaf valid from and until the given offsets, and a document made at one.
	dated := func(from, until, at time.Duration) func(*draft, *plan) error {
		return func(d *draft, p *plan) error {
			t := d.at.UTC().Truncate(time.Second)
			p.leaf.notBefore, p.leaf.notAfter = t.Add(from), t.Add(until)
			d.doc.Timestamp = d.at.Add(at)
			return nil
		}
	}
	return []Fault{
		stale("leaf-expired", "chain_validity", "the leaf expired a minute ago").
			plan(dated(-leafLifetime, -minute, -2*minute)),
		stale("leaf-not-yet-valid", "chain_validity", "the leaf becomes valid in a minute").
			plan(dated(minute, leafLifetime, 2*minute)),
		stale("intermediate-expired", "chain_validity", "the zonal certificate expired a minute ago").
			plan(func(d *draft, p *plan) error {
				p.zonal.notAfter = d.at.UTC().Truncate(time.Second).Add(-minute)
				return nil
			}),
		stale("intermediate-not-yet-valid", "chain_validity", "the instance certificate becomes valid in a minute").
			plan(func(d *draft, p *plan) error {
				p.instance.notBefore = d.at.UTC().Truncate(time.Second).Add(minute)
				return nil
			}),
		stale("timestamp-before-leaf", "timestamp_leaf", "the document is a minute older than its leaf").
			plan(dated(-minute, leafLifetime, -2*minute)),
		stale("timestamp-after-leaf", "timestamp_leaf", "the document is a minute younger than its leaf allows").
			plan(dated(-leafLifetime, minute, 2*minute)),
		stale("timestamp-one", "timestamp_leaf", "the document was made one millisecond after 1970 began").
			payload(replace("timestamp", cborInt(1))),
		stale("document-old", "timestamp_window", "the document is six minutes old").
			plan(dated(-time.Hour, 2*time.Hour, -tolerance-minute)),
		stale("document-future", "timestamp_window", "the document was made in six minutes from now").
			plan(dated(-time.Hour, 2*time.Hour, tolerance+minute)),
	}
}
