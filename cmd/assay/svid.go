package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/svid"
)

func svidCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "svid",
		Short: "Look at an attested SVID, or verify it",
		Long: `An attested SVID is an X.509-SVID whose certificate also carries the signed
result of the attestation behind it, or a JWT-SVID that tells of it. These
commands need no server.`,
		Example: `  assay svid inspect svid.pem
  assay svid verify --bundle bundle.json --verifier-keys verifier-keys.cbor --verifier-root verifier-root.pem svid.pem`,
	}
	c.AddCommand(svidVerifyCommand(now), svidInspectCommand())
	return c
}

// parseChain reads certificates, leaf first, from PEM or from one DER. Other
// PEM blocks, such as the private key in a file that holds both, are left
// alone.
func parseChain(name string, b []byte) ([]*x509.Certificate, error) {
	bad := func(err error) ([]*x509.Certificate, error) {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "chain_parse", Err: fmt.Errorf("%s: %w", name, err),
			Hint: "give the SVID's certificate chain, leaf first, as PEM",
		}
	}
	if block, _ := pem.Decode(b); block == nil {
		cert, err := x509.ParseCertificate(b)
		if err != nil {
			return bad(errors.New("this is neither PEM nor a DER certificate"))
		}
		return []*x509.Certificate{cert}, nil
	}
	var chain []*x509.Certificate
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
		case "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			// Other programs read these as certificates, and would see another first one.
			return bad(fmt.Errorf("a PEM block %s: write CERTIFICATE", block.Type))
		default:
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return bad(err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return bad(errors.New("no PEM block CERTIFICATE"))
	}
	return chain, nil
}

// certificate describes a certificate in JSON.
type certificate struct {
	SPIFFEID  *string `json:"spiffe_id"`
	Serial    string  `json:"serial"`
	Subject   string  `json:"subject"`
	Issuer    string  `json:"issuer"`
	NotBefore string  `json:"not_before"`
	NotAfter  string  `json:"not_after"`
	Key       string  `json:"key"`
}

func describe(c *x509.Certificate) certificate {
	out := certificate{
		Serial: serialHex(c.SerialNumber), Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		NotBefore: stamp(c.NotBefore), NotAfter: stamp(c.NotAfter), Key: keyName(c.PublicKey),
	}
	if id, err := x509svid.IDFromCert(c); err == nil {
		s := id.String()
		out.SPIFFEID = &s
	}
	return out
}

// serialHex writes a serial number as the ledger does: Assay's have 16 bytes,
// and those among them that begin with a zero byte keep it.
func serialHex(n *big.Int) string {
	b := n.Bytes()
	if len(b) >= 12 && len(b) < 16 {
		b = n.FillBytes(make([]byte, 16))
	}
	return hex.EncodeToString(b)
}

// name is the SPIFFE ID, or the serial number of what has none.
func (c certificate) name() *string {
	if c.SPIFFEID != nil {
		return c.SPIFFEID
	}
	return &c.Serial
}

func (c certificate) facts() []cli.Fact {
	id := "none"
	if c.SPIFFEID != nil {
		id = *c.SPIFFEID
	}
	return []cli.Fact{
		{Name: "spiffe id", Value: id},
		{Name: "serial", Value: c.Serial},
		{Name: "issuer", Value: c.Issuer},
		{Name: "valid from", Value: c.NotBefore},
		{Name: "valid until", Value: c.NotAfter},
		{Name: "key", Value: c.Key},
	}
}

// silently keeps an error's exit code, and prints nothing: it was in the JSON.
func silently(err error) error {
	if err == nil {
		return nil
	}
	return &cli.Silent{Code: cli.ExitCode(err)}
}

// tokenFacts describe a token.
func tokenFacts(audience []string, issuer, id string, issued, expiry time.Time, key, serial string) []cli.Fact {
	return []cli.Fact{
		{Name: "audience", Value: strings.Join(audience, " ")},
		{Name: "issuer", Value: issuer},
		{Name: "token id", Value: id},
		{Name: "issued", Value: stamp(issued)},
		{Name: "expires", Value: stamp(expiry)},
		{Name: "key id", Value: key},
		{Name: "for svid", Value: serial},
	}
}

// printResult prints an attestation result.
func printResult(p *cli.Page, r *svid.Result) {
	key := "none: it is in a token"
	if r.KeyThumbprint != (svid.Thumbprint{}) {
		key = r.KeyThumbprint.String()
	}
	p.Facts(
		cli.Fact{Name: "subject", Value: r.Subject},
		cli.Fact{Name: "issuer", Value: r.Issuer},
		cli.Fact{Name: "status", Value: r.Status.String()},
		cli.Fact{Name: "tee", Value: string(r.Platform)},
		cli.Fact{Name: "simulated", Value: yesNo(r.Simulated)},
		cli.Fact{Name: "policy", Value: r.Policy},
		cli.Fact{Name: "policy digest", Value: r.PolicyDigest.String()},
		cli.Fact{Name: "evidence made", Value: stamp(r.EvidenceTime)},
		cli.Fact{Name: "result issued", Value: stamp(r.IssuedAt)},
		cli.Fact{Name: "result expires", Value: stamp(r.Expiry)},
		cli.Fact{Name: "verifier", Value: r.VerifierID.Developer + ", " + r.VerifierID.Build},
		cli.Fact{Name: "key thumbprint", Value: key},
		cli.Fact{Name: "evidence digest", Value: r.EvidenceDigest.String() + " (salted)"},
	)
	p.Title("Trustworthiness (AR4SI)")
	var rows [][]string
	for i, claim := range r.Vector {
		if claim != 0 {
			about := svid.Aspect(i)
			rows = append(rows, []string{about.String(), claim.Tier().String(), fmt.Sprint(claim), claim.Meaning(about)})
		}
	}
	p.Table([]string{"aspect", "tier", "claim", "meaning"}, rows)
	if len(r.Measurements) > 0 {
		p.Title("Published measurements")
		rows = nil
		for _, name := range measurementOrder(r.Measurements) {
			rows = append(rows, []string{name, r.Measurements[name].String()})
		}
		p.Table(nil, rows)
	}
	if len(r.Attributes) > 0 {
		p.Title("Attributes")
		rows = nil
		for _, k := range sortedKeys(r.Attributes) {
			rows = append(rows, []string{k, r.Attributes[k]})
		}
		p.Table(nil, rows)
	}
}

// looksLikeJSON tells a SPIFFE bundle from PEM.
func looksLikeJSON(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 0 && b[0] == '{'
}
