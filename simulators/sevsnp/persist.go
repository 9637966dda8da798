package sevsnp

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// The files of an authority of one's own.
const (
	RootsFile = "roots.pem"     // certificates, for verifiers (0644)
	KeysFile  = "authority.pem" // private keys and certificates (0600)
)

// OpenAuthority loads the authority that is kept in a directory, or makes one
// and keeps it there, which takes most of a minute: it has nine RSA-4096 keys.
// Processes that open the same directory at the same time get the same one. Keys
// that others can read are refused.
func OpenAuthority(dir string, o Options) (*Authority, error) {
	return openAuthority(dir, o, func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, rsaBits) })
}

// openAuthority is OpenAuthority with a source of keys.
func openAuthority(dir string, o Options, newKey func() (*rsa.PrivateKey, error)) (*Authority, error) {
	d, err := keyfile.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	defer d.Close()
	haveKeys, err := d.Has(KeysFile)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	haveRoots, err := d.Has(RootsFile)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	if !haveKeys {
		if haveRoots {
			return nil, fmt.Errorf("sevsnp: authority %s has certificates and no %s: restore it, or remove the directory to start another authority", dir, KeysFile)
		}
		b, err := generate(newKey)
		if err != nil {
			return nil, err
		}
		if err := d.Write(KeysFile, b, 0o600); err != nil {
			return nil, fmt.Errorf("sevsnp: authority: %w", err)
		}
	}
	a, err := load(d, o)
	if err != nil {
		return nil, err
	}
	if !haveRoots { // also when a process ended between the two files
		plain := o
		plain.AMDNames = false
		named, err := load(d, plain)
		if err != nil {
			return nil, err
		}
		if err := d.Write(RootsFile, named.RootsPEM(), 0o644); err != nil {
			return nil, fmt.Errorf("sevsnp: authority: %w", err)
		}
	}
	return a, nil
}

// ReadRoots returns the certificates in a directory, without the keys: what a
// process that only verifies needs.
func ReadRoots(dir string) ([]byte, error) {
	b, err := keyfile.Public(dir, RootsFile)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: %w", err)
	}
	rest := b
	for range 3 * len(Lines()) {
		if _, rest, err = keyfile.Certificate(rest); err != nil {
			return nil, fmt.Errorf("sevsnp: authority %s: %s, which holds %d certificates: %w", dir, RootsFile, 3*len(Lines()), err)
		}
	}
	if err := keyfile.End(rest); err != nil {
		return nil, fmt.Errorf("sevsnp: authority %s: %s: %w", dir, RootsFile, err)
	}
	return b, nil
}

// roles in the order of the file of keys.
func roles() []string { return []string{roleARK, roleASK, roleASVK} }

// generate makes keys and certificates for all lines: for each role of each line
// the key, then the certificate.
func generate(newKey func() (*rsa.PrivateKey, error)) ([]byte, error) {
	var out bytes.Buffer
	for _, name := range Lines() {
		var k keys
		for _, to := range []**rsa.PrivateKey{&k.ark, &k.ask, &k.asvk} {
			key, err := newKey()
			if err != nil {
				return nil, fmt.Errorf("sevsnp: making a key: %w", err)
			}
			*to = key
		}
		l, err := simulatedNames().line(name, k)
		if err != nil {
			return nil, err
		}
		for _, n := range []*node{l.ark, l.ask, l.asvk} {
			b, err := keyfile.EncodeKey(n.key)
			if err != nil {
				return nil, err
			}
			out.Write(b)
			out.Write(keyfile.EncodeCertificate(n.cert.Raw))
		}
	}
	return out.Bytes(), nil
}

// load reads what generate has made.
func load(d *keyfile.Dir, o Options) (*Authority, error) {
	b, err := d.Secret(KeysFile)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: %w", err)
	}
	type pair struct {
		key  *rsa.PrivateKey
		cert *x509.Certificate
	}
	found := make(map[string]pair)
	for _, name := range Lines() {
		for _, role := range roles() {
			var p pair
			if p.key, b, err = nextKey(b); err != nil {
				return nil, fmt.Errorf("sevsnp: %s: the %s key of %s: %w", d.Path(KeysFile), role, name, err)
			}
			if p.cert, b, err = keyfile.Certificate(b); err != nil {
				return nil, fmt.Errorf("sevsnp: %s: the %s certificate of %s: %w", d.Path(KeysFile), role, name, err)
			}
			found[name+role] = p
		}
	}
	if err := keyfile.End(b); err != nil {
		return nil, fmt.Errorf("sevsnp: %s: %w", d.Path(KeysFile), err)
	}
	return newAuthority(o, func(name, role string) (*rsa.PrivateKey, *x509.Certificate, error) {
		p := found[name+role]
		return p.key, p.cert, nil
	})
}
