package nitro

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// The files of an authority.
const (
	RootFile = "root.pem" // the root certificate, for verifiers (0644)
	KeyFile  = "root.key" // its private key, PKCS#8 (0600)
)

// OpenAuthority loads the authority that is kept in a directory, or makes one
// and keeps it there. Only the root is kept: whatever is below it is made anew,
// as real hosts do every day. Processes that open the same directory at the same
// time get the same root. A key that others can read is refused, and so is a
// directory with only one of the two files.
func OpenAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	d, err := keyfile.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	defer d.Close()
	haveKey, err := d.Has(KeyFile)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	haveRoot, err := d.Has(RootFile)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	switch {
	case haveKey && haveRoot:
		return load(d, o)
	case haveKey:
		return nil, fmt.Errorf("nitro: authority %s has a key and no %s: restore it, or remove the directory to start another authority", dir, RootFile)
	case haveRoot:
		return nil, fmt.Errorf("nitro: authority %s has a certificate and no %s: restore it, or remove the directory to start another authority", dir, KeyFile)
	}
	a, err := NewAuthority(o)
	if err != nil {
		return nil, err
	}
	if err := a.save(d); err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	return a, nil
}

// ReadRoot returns the root certificate in a directory, without its key: what a
// process that only verifies needs.
func ReadRoot(dir string) ([]byte, error) {
	b, err := keyfile.Public(dir, RootFile)
	if err != nil {
		return nil, fmt.Errorf("nitro: %w", err)
	}
	if _, err := parseRoot(b); err != nil {
		return nil, fmt.Errorf("nitro: authority %s: %s: %w", dir, RootFile, err)
	}
	return b, nil
}

func load(d *keyfile.Dir, o AuthorityOptions) (*Authority, error) {
	keyPEM, err := d.Secret(KeyFile)
	if err != nil {
		return nil, fmt.Errorf("nitro: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("nitro: %s: %w", d.Path(KeyFile), err)
	}
	rootPEM, err := os.ReadFile(d.Path(RootFile))
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	cert, err := parseRoot(rootPEM)
	if err != nil {
		return nil, fmt.Errorf("nitro: %s: %w", d.Path(RootFile), err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("nitro: %s is not the key of %s", d.Path(KeyFile), d.Path(RootFile))
	}
	a := o.authority()
	a.root = &node{der: cert.Raw, cert: cert, key: key}
	return a, nil
}

func parseKey(content []byte) (*ecdsa.PrivateKey, error) {
	k, rest, err := keyfile.Key(content)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("want an ECDSA P-384 key")
	}
	return key, keyfile.End(rest)
}

func parseRoot(content []byte) (*x509.Certificate, error) {
	cert, rest, err := keyfile.Certificate(content)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("the certificate is not a CA")
	}
	return cert, keyfile.End(rest)
}

func (a *Authority) save(d *keyfile.Dir) error {
	key, err := keyfile.EncodeKey(a.root.key)
	if err != nil {
		return err
	}
	if err := d.Write(KeyFile, key, 0o600); err != nil {
		return err
	}
	return d.Write(RootFile, a.RootPEM(), 0o644)
}
