package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// endorsement is one certificate or CRL that the user brought along.
type endorsement struct {
	name string // "FILE", or "FILE#2" for the second of several
	cert *x509.Certificate
	crl  *x509.RevocationList
	raw  []byte // DER
	used bool
	why  string // why it was not used
}

// readEndorsements reads files of DER or PEM, each with certificates, CRLs or
// both. What a file holds is found by parsing, never from its name.
func readEndorsements(c *cobra.Command, files []string) ([]*endorsement, error) {
	var out []*endorsement
	for _, f := range files {
		b, err := readInput(c, f)
		if err != nil {
			return nil, err
		}
		es, err := parseEndorsements(f, b)
		if err != nil {
			return nil, cli.Usagef("--endorsement takes certificates and CRLs, in DER or PEM", "--endorsement %s: %w", f, err)
		}
		out = append(out, es...)
	}
	return out, nil
}

func parseEndorsements(name string, b []byte) ([]*endorsement, error) {
	if block, _ := pem.Decode(b); block == nil {
		e := &endorsement{name: name, raw: b}
		var err error
		if e.cert, err = x509.ParseCertificate(b); err == nil {
			return []*endorsement{e}, nil
		}
		if e.crl, err = x509.ParseRevocationList(b); err == nil {
			return []*endorsement{e}, nil
		}
		return nil, errors.New("this is neither PEM nor a DER certificate or CRL")
	}
	var out []*endorsement
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		e := &endorsement{name: fmt.Sprintf("%s#%d", name, len(out)+1), raw: block.Bytes}
		var err error
		switch block.Type {
		case "CERTIFICATE":
			e.cert, err = x509.ParseCertificate(block.Bytes)
		case "X509 CRL":
			e.crl, err = x509.ParseRevocationList(block.Bytes)
		default:
			err = fmt.Errorf("PEM block %q is not used here", block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", len(out)+1, err)
		}
		out = append(out, e)
	}
	if len(out) == 1 {
		out[0].name = name
	}
	return out, nil
}

// lenientEndorsement is one that came with the evidence: a stranger's, so that
// one which cannot be read is the verifier's to judge, and no mistake of the
// user's.
func lenientEndorsement(name string, der []byte) *endorsement {
	e := &endorsement{name: name, raw: der}
	if c, err := x509.ParseCertificate(der); err == nil {
		e.cert = c
	} else if l, err := x509.ParseRevocationList(der); err == nil {
		e.crl = l
	}
	return e
}
