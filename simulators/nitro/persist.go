package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// The files of an authority.
const (
	RootFile = "root.pem" // the root certificate, for verifiers (0644)
	KeyFile  = "root.key" // its private key, PKCS#8 (0600)
	lockFile = ".lock"
)

// OpenAuthority loads the authority that is kept in a directory, or makes one
// and keeps it there. Only the root is kept: whatever is below it is made anew,
// as real hosts do every day. Processes that open the same directory at the same
// time get the same root. A key that others can read is refused, and so is a
// directory with only one of the two files.
func OpenAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	keyPath, rootPath := filepath.Join(dir, KeyFile), filepath.Join(dir, RootFile)
	haveKey, err := exists(keyPath)
	if err != nil {
		return nil, err
	}
	haveRoot, err := exists(rootPath)
	if err != nil {
		return nil, err
	}
	switch {
	case haveKey && haveRoot:
		return load(keyPath, rootPath, o)
	case haveKey:
		return nil, fmt.Errorf("nitro: authority %s has a key and no %s: restore it, or remove the directory to start another authority", dir, RootFile)
	case haveRoot:
		return nil, fmt.Errorf("nitro: authority %s has a certificate and no %s: restore it, or remove the directory to start another authority", dir, KeyFile)
	}
	a, err := NewAuthority(o)
	if err != nil {
		return nil, err
	}
	return a, a.save(keyPath, rootPath)
}

// ReadRoot returns the root certificate in a directory, without its key: what a
// process that only verifies needs.
func ReadRoot(dir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, RootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("nitro: no authority in %s: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	if _, err := parseRoot(b); err != nil {
		return nil, fmt.Errorf("nitro: authority %s: %s: %w", dir, RootFile, err)
	}
	return b, nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("nitro: authority: %w", err)
	}
	return true, nil
}

// lockDir keeps other processes out until the returned function is called.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("nitro: authority: locking %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil // closing gives the lock back
}

func load(keyPath, rootPath string, o AuthorityOptions) (*Authority, error) {
	info, err := os.Lstat(keyPath)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("nitro: %s has mode %v, want a file that only its owner can read: chmod 600 it", keyPath, info.Mode())
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("nitro: %s: %w", keyPath, err)
	}
	rootPEM, err := os.ReadFile(rootPath)
	if err != nil {
		return nil, fmt.Errorf("nitro: authority: %w", err)
	}
	cert, err := parseRoot(rootPEM)
	if err != nil {
		return nil, fmt.Errorf("nitro: %s: %w", rootPath, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("nitro: %s is not the key of %s", keyPath, rootPath)
	}
	a := o.authority()
	a.root = &node{der: cert.Raw, cert: cert, key: key}
	return a, nil
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("want one PEM block PRIVATE KEY")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("want an ECDSA P-384 key")
	}
	return key, nil
}

func parseRoot(b []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("want one PEM block CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("the certificate is not a CA")
	}
	return cert, nil
}

func (a *Authority) save(keyPath, rootPath string) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.root.key)
	if err != nil {
		return fmt.Errorf("nitro: authority: %w", err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := writeFile(keyPath, key, 0o600); err != nil {
		return err
	}
	return writeFile(rootPath, a.RootPEM(), 0o644)
}

// writeFile makes a file that is whole or not there.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("nitro: authority: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("nitro: authority: writing %s: %w", path, err)
	}
	return nil
}
