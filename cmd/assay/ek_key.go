package main

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/tpms"
)

// readEK reads what names an endorsement key: its digest in hex, or a file.
func readEK(c *cobra.Command, arg string) (tpms.EK, error) {
	if ek, ok := parseEKDigest(arg); ok {
		return ek, nil
	}
	file, err := readInput(c, arg)
	if err != nil {
		return tpms.EK{}, cli.Usagef("name the EK by 64 hex digits, or give a file with its certificate, public key or public area", "%w", err)
	}
	ek, err := ekOf(file)
	if err != nil {
		return tpms.EK{}, cli.Usagef("give the EK's certificate or public key (PEM or DER), or its public area (TPMT_PUBLIC or TPM2B_PUBLIC)", "%s: %w", arg, err)
	}
	return ek, nil
}

// parseEKDigest reads 64 hex digits. All zero names nothing.
func parseEKDigest(s string) (ek tpms.EK, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ek) || tpms.EK(b) == (tpms.EK{}) {
		return ek, false
	}
	return tpms.EK(b), true
}

// ekOf is the digest of the endorsement key in a file: that of its
// SubjectPublicKeyInfo as this software writes it, since one key has several
// encodings (an EK's certificate may say RSA-OAEP).
func ekOf(file []byte) (tpms.EK, error) {
	key, _, err := parseAK(file) // the forms are those of any key of a TPM
	if err != nil {
		return tpms.EK{}, err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return tpms.EK{}, fmt.Errorf("an RSA key of %d bits is no endorsement key", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
	default:
		return tpms.EK{}, fmt.Errorf("a key of type %T is no endorsement key", key)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return tpms.EK{}, err
	}
	return sha256.Sum256(spki), nil
}
