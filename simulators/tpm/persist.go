package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"fmt"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// The files of an authority.
const (
	RootFile = "root.pem"      // the root certificate, for verifiers (0644)
	KeysFile = "authority.pem" // private keys and certificates (0600)
)

// OpenAuthority loads the authority that is kept in a directory, or makes one
// and keeps it there. Processes that open the same directory at the same time
// get the same one. Keys that others can read are refused.
func OpenAuthority(dir string, o Options) (*Authority, error) {
	d, err := keyfile.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("tpm: authority: %w", err)
	}
	defer d.Close()
	haveKeys, err := d.Has(KeysFile)
	if err != nil {
		return nil, fmt.Errorf("tpm: authority: %w", err)
	}
	haveRoot, err := d.Has(RootFile)
	if err != nil {
		return nil, fmt.Errorf("tpm: authority: %w", err)
	}
	if !haveKeys {
		if haveRoot {
			return nil, fmt.Errorf("tpm: authority %s has a root certificate and no %s: restore it, or remove the directory to start another authority", dir, KeysFile)
		}
		b, err := generate()
		if err != nil {
			return nil, err
		}
		if err := d.Write(KeysFile, b, 0o600); err != nil {
			return nil, fmt.Errorf("tpm: authority: %w", err)
		}
	}
	a, err := load(d, o)
	if err != nil {
		return nil, err
	}
	if !haveRoot { // also when a process ended between the two files
		if err := d.Write(RootFile, a.RootPEM(), 0o644); err != nil {
			return nil, fmt.Errorf("tpm: authority: %w", err)
		}
	}
	return a, nil
}

// ReadRoot returns the root certificate in a directory, without the keys: what a
// process that only verifies needs.
func ReadRoot(dir string) ([]byte, error) {
	b, err := keyfile.Public(dir, RootFile)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	_, rest, err := keyfile.Certificate(b)
	if err == nil {
		err = keyfile.End(rest)
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: authority %s: %s: %w", dir, RootFile, err)
	}
	return b, nil
}

// generate makes the file of keys: for root and intermediate the key, then the
// certificate.
func generate() ([]byte, error) {
	root, intermediate, err := newChain()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, n := range []*node{root, intermediate} {
		b, err := keyfile.EncodeKey(n.key)
		if err != nil {
			return nil, fmt.Errorf("tpm: %w", err)
		}
		out.Write(b)
		out.Write(keyfile.EncodeCertificate(n.cert.Raw))
	}
	return out.Bytes(), nil
}

// load reads what generate has made.
func load(d *keyfile.Dir, o Options) (*Authority, error) {
	b, err := d.Secret(KeysFile)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	var nodes [2]*node
	for i, name := range []string{"root", "intermediate"} {
		var (
			key  crypto.Signer
			cert *x509.Certificate
		)
		if key, b, err = keyfile.Key(b); err != nil {
			return nil, fmt.Errorf("tpm: %s: the %s key: %w", d.Path(KeysFile), name, err)
		}
		if cert, b, err = keyfile.Certificate(b); err != nil {
			return nil, fmt.Errorf("tpm: %s: the %s certificate: %w", d.Path(KeysFile), name, err)
		}
		public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !public.Equal(cert.PublicKey) {
			return nil, fmt.Errorf("tpm: %s: the %s key is not that of its certificate", d.Path(KeysFile), name)
		}
		nodes[i] = &node{cert: cert, key: key}
	}
	if err := keyfile.End(b); err != nil {
		return nil, fmt.Errorf("tpm: %s: %w", d.Path(KeysFile), err)
	}
	if err := nodes[1].cert.CheckSignatureFrom(nodes[0].cert); err != nil {
		return nil, fmt.Errorf("tpm: %s: the intermediate certificate is not the root's: %w", d.Path(KeysFile), err)
	}
	return newAuthority(o, nodes[0], nodes[1]), nil
}
