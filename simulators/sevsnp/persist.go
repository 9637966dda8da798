package sevsnp

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// The files of an authority of one's own.
const (
	RootsFile = "roots.pem"     // certificates, for verifiers (0644)
	KeysFile  = "authority.pem" // private keys and certificates (0600)
	lockFile  = ".lock"
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
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	keysPath, rootsPath := filepath.Join(dir, KeysFile), filepath.Join(dir, RootsFile)
	haveKeys, err := exists(keysPath)
	if err != nil {
		return nil, err
	}
	haveRoots, err := exists(rootsPath)
	if err != nil {
		return nil, err
	}
	if !haveKeys {
		if haveRoots {
			return nil, fmt.Errorf("sevsnp: authority %s has certificates and no %s: restore it, or remove the directory to start another authority", dir, KeysFile)
		}
		b, err := generate(newKey)
		if err != nil {
			return nil, err
		}
		if err := writeFile(keysPath, b, 0o600); err != nil {
			return nil, err
		}
	}
	a, err := load(keysPath, o)
	if err != nil {
		return nil, err
	}
	if !haveRoots { // also when a process ended between the two files
		plain := o
		plain.AMDNames = false
		named, err := load(keysPath, plain)
		if err != nil {
			return nil, err
		}
		if err := writeFile(rootsPath, named.RootsPEM(), 0o644); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// ReadRoots returns the certificates in a directory, without the keys: what a
// process that only verifies needs.
func ReadRoots(dir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, RootsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sevsnp: no authority in %s: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	for n, rest := 0, b; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if want := 3 * len(Lines()); n != want || len(bytes.TrimSpace(rest)) != 0 {
				return nil, fmt.Errorf("sevsnp: authority %s: %s has %d certificates, want %d and nothing else", dir, RootsFile, n, want)
			}
			return b, nil
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("sevsnp: authority %s: %s: %w", dir, RootsFile, err)
		}
	}
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
			b, err := marshalKey(n.key)
			if err != nil {
				return nil, err
			}
			out.Write(b)
			out.Write(marshalCertificate(n.cert.Raw))
		}
	}
	return out.Bytes(), nil
}

// load reads what generate has made.
func load(path string, o Options) (*Authority, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("sevsnp: %s has mode %v, want a file that only its owner can read: chmod 600 it", path, info.Mode())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
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
				return nil, fmt.Errorf("sevsnp: %s: the %s key of %s: %w", path, role, name, err)
			}
			if p.cert, b, err = nextCertificate(b); err != nil {
				return nil, fmt.Errorf("sevsnp: %s: the %s certificate of %s: %w", path, role, name, err)
			}
			found[name+role] = p
		}
	}
	if len(bytes.TrimSpace(b)) != 0 {
		return nil, fmt.Errorf("sevsnp: %s has something after the last certificate", path)
	}
	return newAuthority(o, func(name, role string) (*rsa.PrivateKey, *x509.Certificate, error) {
		p := found[name+role]
		return p.key, p.cert, nil
	})
}

func nextKey(b []byte) (*rsa.PrivateKey, []byte, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, nil, errors.New("want a PEM block PRIVATE KEY")
	}
	key, err := parseKey(pem.EncodeToMemory(block))
	return key, rest, err
}

func nextCertificate(b []byte) (*x509.Certificate, []byte, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, nil, errors.New("want a PEM block CERTIFICATE")
	}
	cert, err := parseCertificate(pem.EncodeToMemory(block))
	return cert, rest, err
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("sevsnp: authority: %w", err)
	}
	return true, nil
}

// lockDir keeps other processes out until the returned function is called.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: authority: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("sevsnp: authority: locking %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil // closing gives the lock back
}

// writeFile makes a file that is whole or not there.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("sevsnp: authority: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("sevsnp: authority: writing %s: %w", path, err)
	}
	return nil
}
