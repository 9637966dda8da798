package nitro

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// SignerFile holds who signs images: the key and its self-signed certificate
// (0600).
const SignerFile = "signer.pem"

// OpenSigner loads the key that signs images, and its certificate, from a
// directory, or makes both and keeps them there: releases that one signer signed
// have one PCR8. The times are those of the certificate, where one is made.
func OpenSigner(dir, name string, from, until time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	d, err := keyfile.Open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("nitro: signer: %w", err)
	}
	defer d.Close()
	have, err := d.Has(SignerFile)
	if err == nil && !have {
		err = makeSigner(d, name, from, until)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("nitro: signer: %w", err)
	}
	key, cert, err := readSigner(d)
	if err != nil {
		return nil, nil, fmt.Errorf("nitro: signer: %s: %w", d.Path(SignerFile), err)
	}
	return key, cert, nil
}

func makeSigner(d *keyfile.Dir, name string, from, until time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from.UTC(), NotAfter: until.UTC()}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := keyfile.EncodeKey(key)
	if err != nil {
		return err
	}
	return d.Write(SignerFile, append(secret, keyfile.EncodeCertificate(der)...), 0o600)
}

func readSigner(d *keyfile.Dir) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	content, err := d.Secret(SignerFile)
	if err != nil {
		return nil, nil, err
	}
	secret, rest, err := keyfile.Key(content)
	if err != nil {
		return nil, nil, err
	}
	cert, rest, err := keyfile.Certificate(rest)
	if err != nil {
		return nil, nil, err
	}
	if err := keyfile.End(rest); err != nil {
		return nil, nil, err
	}
	key, ok := secret.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P384() || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("want a P-384 key and the certificate for it")
	}
	return key, cert, nil
}
