package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// Options configure an [Authority]. The zero value is good.
type Options struct {
	Now func() time.Time // the simulated world's clock; nil = time.Now
}

// Authority is a simulated manufacturer of TPMs: a root key and an intermediate
// one, which signs the certificates of endorsement keys. It is safe for
// concurrent use.
type Authority struct {
	now                func() time.Time
	root, intermediate *node

	mu      sync.Mutex
	foreign *Authority // somebody else's, with the same names, for faults
}

// The lives of certificates. Root and intermediate are valid at every time for
// which a test may set its clock; that of an EK has no end, as with most
// manufacturers (RFC 5280, section 4.1.2.5).
func authorityValidity() (notBefore, notAfter time.Time) {
	return time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)
}

func noEnd() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

const ekCertificateAge = 400 * 24 * time.Hour // how long before the first start a machine was made

// NewAuthority makes an authority whose keys are in memory alone. OpenAuthority
// keeps them in a directory.
func NewAuthority(o Options) (*Authority, error) {
	root, intermediate, err := newChain()
	if err != nil {
		return nil, err
	}
	return newAuthority(o, root, intermediate), nil
}

func newAuthority(o Options, root, intermediate *node) *Authority {
	a := &Authority{now: o.Now, root: root, intermediate: intermediate}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// newChain makes keys and certificates of an authority.
func newChain() (root, intermediate *node, err error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: making a key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: making a key: %w", err)
	}
	b, err := caBlueprint("Simulated TPM EK Root CA", rootKey.Public(), rootKey.Public(), 1)
	if err != nil {
		return nil, nil, err
	}
	if root, err = b.issue(nil, rootKey); err != nil {
		return nil, nil, err
	}
	if b, err = caBlueprint("Simulated TPM EK Intermediate CA 1", key.Public(), rootKey.Public(), 0); err != nil {
		return nil, nil, err
	}
	intermediate, err = b.issue(root, key)
	return root, intermediate, err
}

// caBlueprint is that of a certificate which signs others.
func caBlueprint(commonName string, key, issuer crypto.PublicKey, pathLen int) (b blueprint, err error) {
	if b.subject, err = manufacturerName(commonName); err != nil {
		return b, err
	}
	if b.serial, err = serial(); err != nil {
		return b, err
	}
	b.notBefore, b.notAfter = authorityValidity()
	b.public = key
	ca, err := certificate.Constraints(true, pathLen)
	if err != nil {
		return b, err
	}
	usage, err := certificate.Usage(x509.KeyUsageCertSign | x509.KeyUsageCRLSign)
	if err != nil {
		return b, err
	}
	id, err := certificate.SubjectID(key)
	if err != nil {
		return b, err
	}
	from, err := certificate.AuthorityID(issuer)
	b.extensions = []pkix.Extension{ca, usage, id, from}
	return b, err
}

func manufacturerName(commonName string) ([]byte, error) {
	name, err := certificate.Name(certificate.Country("XX"), certificate.Organization("Assay Simulation"),
		certificate.Unit("Simulated TPMs"), certificate.CommonName(commonName))
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return name, nil
}

func serial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	b[0] = b[0]&0x3f | 0x40 // positive, and of one length
	return new(big.Int).SetBytes(b), nil
}

// RootPEM is the root certificate: what a verifier of simulated machines pins.
func (a *Authority) RootPEM() []byte { return keyfile.EncodeCertificate(a.root.cert.Raw) }

// IntermediatePEM is the certificate between the root and those of endorsement
// keys. A machine has it in NV too, as [Machine] says.
func (a *Authority) IntermediatePEM() []byte {
	return keyfile.EncodeCertificate(a.intermediate.cert.Raw)
}

// Root and Intermediate are the certificates. Do not change them.
func (a *Authority) Root() *x509.Certificate { return a.root.cert }

// Intermediate signs the certificates of endorsement keys.
func (a *Authority) Intermediate() *x509.Certificate { return a.intermediate.cert }

// RootDigest is SHA-256 of the root certificate.
func (a *Authority) RootDigest() [32]byte { return sha256.Sum256(a.root.cert.Raw) }

// another is an authority with the very same names and other keys.
func (a *Authority) another() (*Authority, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.foreign == nil {
		f, err := NewAuthority(Options{Now: a.now})
		if err != nil {
			return nil, err
		}
		a.foreign = f
	}
	return a.foreign, nil
}
