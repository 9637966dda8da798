package nitro

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// Lifetimes observed on EC2. A root lives 30 years, and one of AWS's was made
// in 2019; a simulated root is five years old when it is made, so that
// documents can be minted for moments in the past.
const (
	rootLifetime     = 262993 * time.Hour
	rootAge          = 5 * 365 * 24 * time.Hour
	regionalLifetime = 481 * time.Hour // 20 days and an hour
	regionalAge      = 4 * 24 * time.Hour
	zonalLifetime    = 137 * time.Hour // between 133 and 144
	zonalAge         = 12 * time.Hour
	instanceLifetime = 24 * time.Hour
	instanceAge      = 30 * time.Minute
	leafLifetime     = 3 * time.Hour
	leafBackdate     = 3 * time.Second
)

// leafRenewal is how long before a leaf expires it is replaced.
const leafRenewal = 5 * time.Minute

// maxCached bounds each of the certificate caches.
const maxCached = 64

// DefaultRegion is the region of an authority that names none.
const DefaultRegion = "us-east-1"

// AuthorityOptions configure an [Authority]. The zero value is good.
type AuthorityOptions struct {
	Region string           // as in certificate names; "" = DefaultRegion
	Now    func() time.Time // the simulated hardware's clock; nil = time.Now
}

// Authority is a simulated AWS Nitro Enclaves PKI: root, regional, zonal and
// instance certificates and the enclaves' leaves, all ECDSA P-384 with SHA-384.
// The root is fixed; what is below it is made when a document needs it, valid
// at that document's time, and kept for the next one. It is safe for concurrent
// use.
type Authority struct {
	region string
	now    func() time.Time
	root   *node

	mu        sync.Mutex
	regional  []*node
	zonal     []*node
	instances map[string][]*node // by instance id
	leaves    map[string]*node   // by module id
	defaults  string             // module id of documents that name none
	foreign   *Authority         // somebody else's root, for faults
}

// NewAuthority makes an authority with a fresh root, in memory only.
func NewAuthority(o AuthorityOptions) (*Authority, error) {
	a := o.authority()
	now := a.now().UTC().Truncate(time.Second)
	subject, err := certificate.Name(
		certificate.Country("US"), certificate.Organization("Assay simulator"),
		certificate.Unit("Simulated"), certificate.CommonName("simulated.nitro-enclaves"),
	)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	serial, err := randomSerial(16)
	if err != nil {
		return nil, err
	}
	a.root, err = issue(blueprint{
		subject: subject, serial: serial, key: key,
		notBefore: now.Add(-rootAge), notAfter: now.Add(rootLifetime - rootAge),
		ca: true, pathLen: -1, layout: layoutRoot, usageCritical: true, identifiers: true,
		usage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (o AuthorityOptions) authority() *Authority {
	a := &Authority{
		region: o.Region, now: o.Now,
		instances: make(map[string][]*node), leaves: make(map[string]*node),
	}
	if a.region == "" {
		a.region = DefaultRegion
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// Root returns the simulated root certificate. Do not change it.
func (a *Authority) Root() *x509.Certificate { return a.root.cert }

// RootPEM returns the root certificate as one PEM block: what a verifier of
// simulated evidence is given.
func (a *Authority) RootPEM() []byte {
	return keyfile.EncodeCertificate(a.root.der)
}

// Region is the simulated AWS region.
func (a *Authority) Region() string { return a.region }

// covers reports whether the certificate is valid from a moment until later.
func (n *node) covers(from, until time.Time) bool {
	return !from.Before(n.cert.NotBefore) && !until.After(n.cert.NotAfter)
}

// plan holds the blueprints of the four certificates below the root, top down,
// before they are made.
type plan struct{ regional, zonal, instance, leaf blueprint }

// plan writes the blueprints for an enclave's documents at a time.
func (a *Authority) plan(moduleID string, at time.Time) (*plan, error) {
	p := new(plan)
	for _, f := range []func() error{
		func() (err error) { p.regional, err = a.regionalBlueprint(at); return },
		func() (err error) { p.zonal, err = a.zonalBlueprint(at); return },
		func() (err error) { p.instance, err = a.instanceBlueprint(InstanceOf(moduleID), at); return },
		func() (err error) { p.leaf, err = a.leafBlueprint(moduleID, at); return },
	} {
		if err := f(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// build makes the whole chain of a plan afresh: the certificates below the
// root, top down, and the leaf.
func (p *plan) build(root *node) (bundle []*node, leaf *node, err error) {
	bundle = []*node{root}
	parent := root
	for _, b := range []blueprint{p.regional, p.zonal, p.instance} {
		n, err := issue(b, parent)
		if err != nil {
			return nil, nil, err
		}
		bundle = append(bundle, n)
		parent = n
	}
	leaf, err = issue(p.leaf, parent)
	if err != nil {
		return nil, nil, err
	}
	return bundle, leaf, nil
}

func (a *Authority) regionalBlueprint(at time.Time) (blueprint, error) {
	id, err := randomHex(8)
	if err != nil {
		return blueprint{}, err
	}
	return newBlueprint(layoutUpper, at.Add(-regionalAge), regionalLifetime, 2, 16,
		certificate.Country("US"), certificate.Organization("Assay simulator"),
		certificate.Unit("Simulated"),
		certificate.CommonName(id+"."+a.region+".simulated.nitro-enclaves"))
}

func (a *Authority) zonalBlueprint(at time.Time) (blueprint, error) {
	id, err := randomHex(8)
	if err != nil {
		return blueprint{}, err
	}
	return newBlueprint(layoutUpper, at.Add(-zonalAge), zonalLifetime, 1, 16,
		certificate.CommonName(id+".zonal."+a.region+".simulated.nitro-enclaves"),
		certificate.Unit("Simulated"), certificate.Organization("Assay simulator"),
		certificate.Country("US"), certificate.State("WA"), certificate.Locality("Seattle"))
}

func (a *Authority) instanceBlueprint(instanceID string, at time.Time) (blueprint, error) {
	b, err := newBlueprint(layoutInstance, at.Add(-instanceAge), instanceLifetime, 0, 20,
		a.placed(instanceID+"."+a.region+".simulated.nitro-enclaves")...)
	b.usage = x509.KeyUsageCertSign
	b.crl = ""
	return b, err
}

func (a *Authority) leafBlueprint(moduleID string, at time.Time) (blueprint, error) {
	b, err := newBlueprint(layoutLeaf, at.Add(-leafBackdate), leafLifetime+leafBackdate, -1, 16,
		a.placed(clipName(moduleID)+"."+a.region+".simulated")...)
	b.ca = false
	b.crl = ""
	b.usage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	b.usageCritical = false
	// As on EC2: the enclave's own id, eight bytes, then the time in seconds.
	if _, enc, ok := strings.Cut(moduleID, "-enc"); ok {
		if id, herr := hex.DecodeString(enc); herr == nil && len(id) == 8 && id[0] < 0x80 && id[0] > 0 {
			s := new(big.Int).SetBytes(id)
			s.Lsh(s, 64)
			b.serial = s.Add(s, big.NewInt(at.Unix()))
		}
	}
	return b, err
}

// placed is the name of what runs on a host: AWS writes the place before the
// organization there, and the state in full.
func (a *Authority) placed(commonName string) []certificate.Attribute {
	return []certificate.Attribute{
		certificate.Country("US"), certificate.State("Washington"), certificate.Locality("Seattle"),
		certificate.Organization("Assay simulator"), certificate.Unit("Simulated"), certificate.CommonName(commonName),
	}
}

func newBlueprint(l layout, notBefore time.Time, lifetime time.Duration, pathLen, serialSize int, name ...certificate.Attribute) (blueprint, error) {
	subject, err := certificate.Name(name...)
	if err != nil {
		return blueprint{}, err
	}
	key, err := newKey()
	if err != nil {
		return blueprint{}, err
	}
	serial, err := randomSerial(serialSize)
	if err != nil {
		return blueprint{}, err
	}
	crl, err := randomUUID()
	if err != nil {
		return blueprint{}, err
	}
	notBefore = notBefore.UTC().Truncate(time.Second)
	return blueprint{
		subject: subject, serial: serial, key: key, layout: l,
		notBefore: notBefore, notAfter: notBefore.Add(lifetime),
		ca: true, pathLen: pathLen, usageCritical: true, identifiers: true,
		usage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		crl:   "http://crl.nitro-enclaves.simulated.invalid/crl/" + crl + ".crl",
	}, nil
}

// chain returns certificates for an enclave's documents at a time: from the
// caches where one covers the next leaf's life, else made. A fresh leaf is made
// on demand; it replaces the cached one.
func (a *Authority) chain(moduleID string, at time.Time, freshLeaf bool) (bundle []*node, leaf *node, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	until := at.Add(leafLifetime)
	pick := func(list []*node, parent *node) *node {
		for _, n := range list {
			if n.issuer == parent && n.covers(at, until) {
				return n
			}
		}
		return nil
	}
	add := func(list *[]*node, parent *node, b blueprint, err error) (*node, error) {
		if err != nil {
			return nil, err
		}
		n, err := issue(b, parent)
		if err != nil {
			return nil, err
		}
		if len(*list) >= maxCached {
			*list = (*list)[1:]
		}
		*list = append(*list, n)
		return n, nil
	}
	regional := pick(a.regional, a.root)
	if regional == nil {
		b, err := a.regionalBlueprint(at)
		if regional, err = add(&a.regional, a.root, b, err); err != nil {
			return nil, nil, err
		}
	}
	zonal := pick(a.zonal, regional)
	if zonal == nil {
		b, err := a.zonalBlueprint(at)
		if zonal, err = add(&a.zonal, regional, b, err); err != nil {
			return nil, nil, err
		}
	}
	id := InstanceOf(moduleID)
	list := a.instances[id]
	instance := pick(list, zonal)
	if instance == nil {
		b, err := a.instanceBlueprint(id, at)
		if instance, err = add(&list, zonal, b, err); err != nil {
			return nil, nil, err
		}
		bound(a.instances)
		a.instances[id] = list
	}
	leaf = a.leaves[moduleID]
	if freshLeaf || leaf == nil || leaf.issuer != instance || !leaf.covers(at, at.Add(leafRenewal)) {
		b, err := a.leafBlueprint(moduleID, at)
		if err != nil {
			return nil, nil, err
		}
		if leaf, err = issue(b, instance); err != nil {
			return nil, nil, err
		}
		bound(a.leaves)
		a.leaves[moduleID] = leaf
	}
	return []*node{a.root, regional, zonal, instance}, leaf, nil
}

// bound forgets a cache that has grown too large.
func bound[V any](m map[string]V) {
	if len(m) >= maxCached {
		clear(m)
	}
}

// foreignAuthority is another simulated PKI with the very same names.
func (a *Authority) foreignAuthority() (*Authority, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.foreign == nil {
		f, err := NewAuthority(AuthorityOptions{Region: a.region, Now: a.now})
		if err != nil {
			return nil, fmt.Errorf("nitro: a foreign root: %w", err)
		}
		a.foreign = f
	}
	return a.foreign, nil
}

// defaultModule is the module id of documents that name none; one per
// authority, so that such documents share a leaf.
func (a *Authority) defaultModule(at time.Time) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.defaults == "" {
		id, err := NewModuleID("", at)
		if err != nil {
			return "", err
		}
		a.defaults = id
	}
	return a.defaults, nil
}
