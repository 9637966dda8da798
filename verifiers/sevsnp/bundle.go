package sevsnp

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	maxEndorsements    = 16      // items that an attester may bring
	maxEndorsementSize = 1 << 18 // bytes of each: a CRL may grow
)

// item is one thing that the attester brought or the collateral holds. It is
// hashed and parsed when that is asked for first.
type item struct {
	der    []byte
	used   bool
	hashed bool
	sum    digest
	parsed bool
	cert   *x509.Certificate // nil if it is none
}

func (it *item) digest() digest {
	if !it.hashed {
		it.sum, it.hashed = sha256.Sum256(it.der), true
	}
	return it.sum
}

// certificate parses the item, and is nil for anything but a certificate.
func (it *item) certificate() *x509.Certificate {
	if !it.parsed {
		it.parsed = true
		if !isCRL(it.der) {
			if c, err := x509.ParseCertificate(it.der); err == nil {
				it.cert = c
			}
		}
	}
	return it.cert
}

// isCRL tells a CRL from a certificate by what stands first inside: a version 3
// certificate begins with its version in an explicit tag [0] (RFC 5280, section
// 4.1), a CRL with an INTEGER or with its algorithm (section 5.1).
func isCRL(der []byte) bool {
	in := cryptobyte.String(der)
	var outer, tbs cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) {
		return false
	}
	return tbs.PeekASN1Tag(cbasn1.INTEGER) || tbs.PeekASN1Tag(cbasn1.SEQUENCE)
}

// twice returns an extension that a certificate has more than once. crypto/x509
// refuses such a certificate as a whole; this says why.
func twice(der []byte) (asn1.ObjectIdentifier, bool) {
	in := cryptobyte.String(der)
	var outer, tbs, list cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) {
		return nil, false
	}
	tag := cbasn1.Tag(3).ContextSpecific().Constructed() // extensions, the last field (RFC 5280, section 4.1)
	for !tbs.Empty() && !tbs.PeekASN1Tag(tag) {
		var field cryptobyte.String
		var t cbasn1.Tag
		if !tbs.ReadAnyASN1(&field, &t) {
			return nil, false
		}
	}
	if !tbs.ReadASN1(&list, tag) || !list.ReadASN1(&list, cbasn1.SEQUENCE) {
		return nil, false
	}
	seen := make(map[string]bool)
	for !list.Empty() {
		var ext cryptobyte.String
		var id asn1.ObjectIdentifier
		if !list.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&id) {
			return nil, false
		}
		if seen[id.String()] {
			return id, true
		}
		seen[id.String()] = true
	}
	return nil, false
}

// bundle is what one verification works with: what came along, and what it
// verified just now, which is remembered only once the report's own signature is
// known to be good.
type bundle struct {
	items []item

	leafSum   digest
	leaf      *endorsement // fresh, or nil
	issuerSum digest
	issuer    *issuer // fresh, or nil
	crls      []freshCRL

	lent    []byte // the endorsement, if the collateral gave it
	lentFor Key
	held    []byte // the CRL that the collateral gave, or nil
}

type freshCRL struct {
	sum digest
	crl *crl
}

// bring takes the endorsements in, none of them looked at yet.
func bring(ders [][]byte) (*bundle, error) {
	if len(ders) > maxEndorsements {
		return nil, refuse(CheckEndorsements, detail{
			Err: errors.New("too many endorsements"), Expected: fmt.Sprintf("at most %d", maxEndorsements), Got: fmt.Sprint(len(ders)),
		})
	}
	b := &bundle{items: make([]item, len(ders))}
	for i, der := range ders {
		if len(der) > maxEndorsementSize {
			return nil, refuse(CheckEndorsements, detail{
				Err: fmt.Errorf("endorsement %d is too large", i), Expected: fmt.Sprintf("at most %d bytes", maxEndorsementSize), Got: fmt.Sprintf("%d bytes", len(der)),
			})
		}
		b.items[i].der = der
	}
	return b, nil
}

// complete lists all that vouched for the report, and then what else came along
// while there is room: what is recorded must be readable again.
func (b *bundle) complete(e *endorsement) [][]byte {
	var out [][]byte
	add := func(der []byte) {
		known := slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, der) })
		if len(der) > 0 && !known && len(out) < maxEndorsements {
			out = append(out, der)
		}
	}
	add(b.lent)
	add(e.issuer.cert.Raw)
	add(b.held)
	for _, used := range []bool{true, false} {
		for i := range b.items {
			if b.items[i].used == used {
				add(b.items[i].der)
			}
		}
	}
	return out
}

// unused lists the items that the verification did not need. The chain's own
// issuer and root are needed, though the built-in copies were used.
func (b *bundle) unused(e *endorsement) []int {
	var out []int
	for i := range b.items {
		it := &b.items[i]
		if it.used || bytes.Equal(it.der, e.issuer.cert.Raw) || bytes.Equal(it.der, e.issuer.line.ark.Raw) {
			continue
		}
		out = append(out, i)
	}
	return out
}
