package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// maxChainFile bounds a file of certificates, in bytes.
const maxChainFile = 64 << 10

func authorityCSRCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "csr ID",
		Short: "Print the certificate request of an X.509 authority that waits for the upstream CA",
		Long: `Print the certificate request (PKCS #10, PEM) of an X.509 authority that waits for
the upstream CA. The CA must take the subject alternative name from the request,
and make a certificate of a subordinate CA: CA:TRUE, keyCertSign.`,
		Example: `  assay authority csr 3f1a0c55d2b94e70 > assay.csr`,
		Args:    cobra.ExactArgs(1),
	}
	socket := adminFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := ask(c, openAuthorities, *socket, (*authorities).GetAuthorityCSR, &assayv1.GetAuthorityCSRRequest{Id: args[0]}, (*authorities).refused)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(c.OutOrStdout(), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.GetCsr()})))
		return err
	}
	return c
}

func authorityImportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "import ID FILE",
		Short: "Hand in what the upstream CA made of a request",
		Long: `Hand in what the upstream CA made of a request: a PEM file with the certificate,
and those between it and the CA that is configured, if there are any. The server
checks that SVIDs below it will verify, and says what the CA must change if not.
From then on the authority is published, and signs after the propagation time.`,
		Example: `  assay authority import 3f1a0c55d2b94e70 intermediate.pem`,
		Args:    cobra.ExactArgs(2),
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		text, err := cli.ReadFile(args[1], maxChainFile)
		if err != nil {
			return cli.Usagef("", "cannot read the certificates: %w", err)
		}
		req := &assayv1.ImportAuthorityRequest{Id: args[0]}
		if req.Chain, err = certificatesIn(text); err != nil {
			return cli.Usagef("the certificate itself first, in PEM, and nothing else", "%s: %w", args[1], err)
		}
		r, err := ask(c, openAuthorities, *socket, (*authorities).ImportAuthority, req, (*authorities).refused)
		if err != nil {
			return err
		}
		return told(c, *output, r, "imported and published")
	}
	return c
}

// certificatesIn reads PEM certificates, at least one and nothing else: their DER.
func certificatesIn(text []byte) (out [][]byte, err error) {
	for len(bytes.TrimSpace(text)) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("there is something that is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block %.40q, want CERTIFICATE", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, block.Bytes)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return out, nil
}
