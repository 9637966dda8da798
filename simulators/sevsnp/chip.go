package sevsnp

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"fmt"
	"math/big"
	"slices"
)

// maxCached bounds the cache of endorsement certificates.
const maxCached = 4096

// DefaultCSP is the provider of a VLEK that names none, in the form that AMD
// gives the names of real ones.
const DefaultCSP = "CN=cc-simulated-1.invalid"

// Chip is one processor with its secure processor (AMD-SP). The same authority,
// product and seed make the same chip everywhere.
type Chip struct {
	authority *Authority
	product   Product
	id        []byte // its own: 64 bytes, 8 on Turin
}

// Chip makes the chip of a seed, which is any name.
func (a *Authority) Chip(p Product, seed string) (*Chip, error) {
	if p.Line() == "" {
		return nil, fmt.Errorf("sevsnp: there is no product %.40q", p)
	}
	sum := sha512.Sum512([]byte("assay simulated chip\x00" + string(p) + "\x00" + seed))
	return &Chip{authority: a, product: p, id: sum[:p.chipIDSize()]}, nil
}

// Product is the chip's.
func (c *Chip) Product() Product { return c.product }

// ID is CHIP_ID as a report has it: 64 bytes, on Turin the last 56 zero.
func (c *Chip) ID() []byte {
	out := make([]byte, 64)
	copy(out, c.id)
	return out
}

// HWID is the id as a certificate and the KDS have it: 64 bytes, 8 on Turin.
func (c *Chip) HWID() []byte { return slices.Clone(c.id) }

// VCEK returns the certificate of the chip's own key at a TCB, in DER.
func (c *Chip) VCEK(t TCB) ([]byte, error) {
	n, err := c.authority.leaf(endorsement{product: c.product, key: VCEK, tcb: t, chipID: c.id})
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.cert.Raw), nil
}

// VLEK returns the certificate of a provider's key for a product at a TCB, in
// DER. Real ones are the provider's secret to fetch.
func (a *Authority) VLEK(p Product, csp string, t TCB) ([]byte, error) {
	n, err := a.leaf(endorsement{product: p, key: VLEK, tcb: t, csp: csp})
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.cert.Raw), nil
}

// seed is what the key is derived from: whatever the endorsement says, but the
// stepping of chips of one line.
func (e endorsement) seed() string {
	return fmt.Sprintf("%s %s %x %q %v", e.key, e.product.Line(), e.chipID, e.csp, e.tcb.bytes(e.product))
}

// blueprint writes the certificate of a key that is derived from what it says.
// The serial number is zero, as all real ones have it.
func (a *Authority) blueprint(e endorsement) (b blueprint, key *ecdsa.PrivateKey, err error) {
	if _, ok := a.lines[e.product.Line()]; !ok {
		return b, nil, fmt.Errorf("sevsnp: there is no product %.40q", e.product)
	}
	k, err := deriveKey(a.secret, e.seed())
	if err != nil {
		return b, nil, err
	}
	commonName, lifetime := "SEV-VCEK", vcekLifetime
	if e.key == VLEK {
		commonName, lifetime = "SEV-VLEK", vlekLifetime
	}
	if b.subject, err = a.names.distinguishedName(commonName); err != nil {
		return b, nil, err
	}
	b.serial = new(big.Int)
	b.notBefore = a.now().Add(-leafAge)
	b.notAfter = b.notBefore.Add(lifetime)
	b.public = k.Public()
	b.extensions, err = e.extensions()
	return b, k, err
}

// leaf returns the certificate for an endorsement, with its key: the one that
// was made before while it is valid, else a new one.
func (a *Authority) leaf(e endorsement) (*node, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, now := e.seed(), a.now()
	if n, ok := a.leaves[at]; ok && !now.Before(n.cert.NotBefore) && now.Before(n.cert.NotAfter) {
		return n, nil
	}
	b, key, err := a.blueprint(e)
	if err != nil {
		return nil, err
	}
	n, err := b.issue(a.lines[e.product.Line()].intermediate(e.key), key)
	if err != nil {
		return nil, err
	}
	if len(a.leaves) >= maxCached {
		clear(a.leaves)
	}
	a.leaves[at] = n
	return n, nil
}
