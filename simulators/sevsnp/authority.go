package sevsnp

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"embed"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// wellKnown holds the keys and certificates of the authority that NewAuthority
// opens. They are published on purpose: see the package comment.
//
//go:embed testdata/authority
var wellKnown embed.FS

const wellKnownDir = "testdata/authority/"

// The life of root and signing certificates. AMD's live 25 years; these are
// valid at every time for which a test may set its clock.
func rootValidity() (notBefore, notAfter time.Time) {
	return time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)
}

// Lives of the certificates that are made when needed, as AMD's.
const (
	vcekLifetime = 7 * 365 * 24 * time.Hour
	vlekLifetime = 365 * 24 * time.Hour
	leafAge      = 30 * 24 * time.Hour // how old a certificate is when the simulator first shows it
)

// Options configure an [Authority]. The zero value is good.
type Options struct {
	Now func() time.Time // the simulated world's clock; nil = time.Now
	// AMDNames writes AMD's organization and the KDS's address into certificates,
	// which go-sev-guest insists on. Without it they say that they are simulated.
	// It is for comparison with that library, and no use elsewhere.
	AMDNames bool
}

// Authority is a simulated AMD: for each product line a root key (ARK), a
// signing key for chips' own keys (ASK) and one for those that providers load
// (ASVK), all RSA-4096. It is safe for concurrent use.
type Authority struct {
	now    func() time.Time
	names  names
	secret []byte // what chips' keys are derived from
	lines  map[string]*line

	mu      sync.Mutex
	foreign map[string]*line // somebody else's, by line, for faults
	leaves  map[string]*node // certificates of VCEKs and VLEKs
}

// line is one product line's chain.
type line struct {
	name           string
	ark, ask, asvk *node
}

// NewAuthority opens the well-known authority: its keys are part of this
// package, so that it starts at once, and every process and machine that uses
// it agrees on them. Anybody can sign with them. OpenAuthority makes one whose
// keys are its owner's.
func NewAuthority(o Options) (*Authority, error) {
	return newAuthority(o, func(name, role string) (*rsa.PrivateKey, *x509.Certificate, error) {
		key, err := wellKnownKey(name, role)
		if err != nil {
			return nil, nil, err
		}
		b, err := wellKnown.ReadFile(wellKnownDir + certificateFile(name, role))
		if err != nil {
			return nil, nil, fmt.Errorf("sevsnp: %w", err)
		}
		cert, _, err := keyfile.Certificate(b)
		return key, cert, err
	})
}

func wellKnownKey(name, role string) (*rsa.PrivateKey, error) {
	b, err := wellKnown.ReadFile(wellKnownDir + keyFile(name, role))
	if err != nil {
		return nil, fmt.Errorf("sevsnp: %w", err)
	}
	key, _, err := nextKey(b)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: well-known key %s of %s: %w", role, name, err)
	}
	return key, nil
}

// newAuthority builds an authority from keys and certificates that load finds.
func newAuthority(o Options, load func(name, role string) (*rsa.PrivateKey, *x509.Certificate, error)) (*Authority, error) {
	a := &Authority{
		now: o.Now, names: simulatedNames(), lines: make(map[string]*line),
		foreign: make(map[string]*line), leaves: make(map[string]*node),
	}
	if a.now == nil {
		a.now = time.Now
	}
	hash := sha512.New384()
	for _, name := range Lines() {
		l := &line{name: name}
		for _, r := range []struct {
			role string
			to   **node
		}{{roleARK, &l.ark}, {roleASK, &l.ask}, {roleASVK, &l.asvk}} {
			key, cert, err := load(name, r.role)
			if err != nil {
				return nil, err
			}
			if !key.PublicKey.Equal(cert.PublicKey) {
				return nil, fmt.Errorf("sevsnp: the %s key of %s is not that of its certificate", r.role, name)
			}
			*r.to = &node{cert: cert, key: key}
			_, _ = hash.Write(key.D.Bytes()) // a hash never fails
		}
		a.lines[name] = l
	}
	a.secret = hash.Sum(nil)
	if o.AMDNames {
		a.names = amdNames()
		for name, l := range a.lines {
			renamed, err := a.names.line(name, keys{
				ark: l.ark.key.(*rsa.PrivateKey), ask: l.ask.key.(*rsa.PrivateKey), asvk: l.asvk.key.(*rsa.PrivateKey),
			})
			if err != nil {
				return nil, err
			}
			a.lines[name] = renamed
		}
	}
	return a, nil
}

// keys are a line's three.
type keys struct{ ark, ask, asvk *rsa.PrivateKey }

// lineNumber is how AMD begins the serial numbers of a line's certificates.
func lineNumber(name string) int64 {
	return map[string]int64{"Milan": 0x10000, "Genoa": 0x20000, "Turin": 0x30000}[name]
}

// line makes the certificates of a line.
func (n names) line(name string, k keys) (*line, error) {
	b, err := n.arkBlueprint(name, k.ark)
	if err != nil {
		return nil, err
	}
	l := &line{name: name}
	if l.ark, err = b.issue(nil, k.ark); err != nil {
		return nil, err
	}
	for _, i := range []struct {
		role string
		key  *rsa.PrivateKey
		to   **node
	}{{roleASK, k.ask, &l.ask}, {roleASVK, k.asvk, &l.asvk}} {
		b, err := n.intermediateBlueprint(name, i.role, i.key, l.ark)
		if err != nil {
			return nil, err
		}
		if *i.to, err = b.issue(l.ark, i.key); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// arkBlueprint has AMD's extensions in AMD's order.
func (n names) arkBlueprint(name string, key *rsa.PrivateKey) (b blueprint, err error) {
	if b.subject, err = n.distinguishedName("ARK-" + name); err != nil {
		return b, err
	}
	b.serial = big.NewInt(lineNumber(name))
	b.notBefore, b.notAfter = rootValidity()
	b.public = key.Public()
	usage, err := certificate.Usage(x509.KeyUsageCertSign | x509.KeyUsageCRLSign)
	if err != nil {
		return b, err
	}
	id, err := certificate.SubjectID(key.Public())
	if err != nil {
		return b, err
	}
	ca, err := certificate.Constraints(true, -1)
	if err != nil {
		return b, err
	}
	crl, err := certificate.CRL(n.crlURL(name, VCEK))
	b.extensions = append(b.extensions, usage, id, ca, crl)
	return b, err
}

// intermediateBlueprint is that of an ASK or ASVK.
func (n names) intermediateBlueprint(name, role string, key *rsa.PrivateKey, ark *node) (b blueprint, err error) {
	commonName, offset, signs := "SEV-"+name, int64(1), VCEK
	if role == roleASVK {
		commonName, offset, signs = "SEV-VLEK-"+name, 0x101, VLEK
	}
	if b.subject, err = n.distinguishedName(commonName); err != nil {
		return b, err
	}
	b.serial = big.NewInt(lineNumber(name) + offset)
	b.notBefore, b.notAfter = rootValidity()
	b.public = key.Public()
	id, err := certificate.SubjectID(key.Public())
	if err != nil {
		return b, err
	}
	issuer, err := certificate.AuthorityID(ark.key.Public())
	if err != nil {
		return b, err
	}
	ca, err := certificate.Constraints(true, 0)
	if err != nil {
		return b, err
	}
	usage, err := certificate.Usage(x509.KeyUsageCertSign)
	if err != nil {
		return b, err
	}
	crl, err := certificate.CRL(n.crlURL(name, signs))
	b.extensions = append(b.extensions, id, issuer, ca, usage, crl)
	return b, err
}

// crlURL is where the CRL for a line's VCEKs or VLEKs is published.
func (n names) crlURL(name string, key SigningKey) string {
	return n.kds + "/" + string(key) + "/v1/" + name + "/crl"
}

// intermediate is the certificate that signs keys of a kind.
func (l *line) intermediate(k SigningKey) *node {
	if k == VLEK {
		return l.asvk
	}
	return l.ask
}

// RootsPEM returns the certificates of all product lines, for each the ARK, ASK
// and ASVK: what a verifier of simulated evidence is given.
func (a *Authority) RootsPEM() []byte {
	var b bytes.Buffer
	for _, name := range Lines() {
		l := a.lines[name]
		for _, n := range []*node{l.ark, l.ask, l.asvk} {
			b.Write(keyfile.EncodeCertificate(n.cert.Raw))
		}
	}
	return b.Bytes()
}

// ARKsPEM returns the roots alone, without the certificates below them.
func (a *Authority) ARKsPEM() []byte {
	var b bytes.Buffer
	for _, name := range Lines() {
		b.Write(keyfile.EncodeCertificate(a.lines[name].ark.cert.Raw))
	}
	return b.Bytes()
}

// Chain is a product line's certificates. Do not change them.
type Chain struct{ ARK, ASK, ASVK *x509.Certificate }

// Chain returns the certificates of a product's line.
func (a *Authority) Chain(p Product) Chain {
	l, ok := a.lines[p.Line()]
	if !ok {
		return Chain{}
	}
	return Chain{ARK: l.ark.cert, ASK: l.ask.cert, ASVK: l.asvk.cert}
}

// foreignLine returns a line of somebody else, with the very same names unless
// it is given others.
func (a *Authority) foreignLine(name string, n names) (*line, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := name + "\x00" + n.organization
	if l, ok := a.foreign[at]; ok {
		return l, nil
	}
	var k keys
	for _, r := range []struct {
		role string
		to   **rsa.PrivateKey
	}{{roleARK, &k.ark}, {roleASK, &k.ask}, {roleASVK, &k.asvk}} {
		key, err := wellKnownKey(foreignLine, r.role)
		if err != nil {
			return nil, err
		}
		*r.to = key
	}
	l, err := n.line(name, k)
	if err != nil {
		return nil, err
	}
	a.foreign[at] = l
	return l, nil
}
