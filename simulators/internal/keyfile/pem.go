package keyfile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// The kinds of PEM block (RFC 7468).
const (
	kindKey         = "PRIVATE KEY" // PKCS #8
	kindCertificate = "CERTIFICATE"
)

// Key takes a private key off the beginning of a file's content.
func Key(content []byte) (key crypto.Signer, rest []byte, err error) {
	der, rest, err := next(content, kindKey)
	if err != nil {
		return nil, nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, err
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("want a key that can sign, not a %T", k)
	}
	return key, rest, nil
}

// Certificate takes a certificate off the beginning of a file's content.
func Certificate(content []byte) (cert *x509.Certificate, rest []byte, err error) {
	der, rest, err := next(content, kindCertificate)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, err
	}
	return cert, rest, nil
}

// End is an error unless nothing is left of a file's content.
func End(rest []byte) error {
	if len(bytes.TrimSpace(rest)) != 0 {
		return errors.New("there is something after the last PEM block")
	}
	return nil
}

func next(content []byte, kind string) (der, rest []byte, err error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != kind {
		return nil, nil, fmt.Errorf("want a PEM block %s", kind)
	}
	return block.Bytes, rest, nil
}

// EncodeKey is what Key reads.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: kindKey, Bytes: der}), nil
}

// EncodeCertificate is what Certificate reads.
func EncodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kindCertificate, Bytes: der})
}
