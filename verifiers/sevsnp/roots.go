package sevsnp

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// SHA-256 of the DER of AMD's root keys (ARK), one per product line, as served by
// https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain. Pinned on
// 2026-11-22, from the copy in go-sev-guest v0.15.0; a test compares all nine
// built-in certificates with that module's.
const (
	ARKMilanSHA256 = "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"
	ARKGenoaSHA256 = "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"
	ARKTurinSHA256 = "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
)

// Each file holds the line's ARK, ASK and ASVK as AMD publishes them.
var (
	//go:embed roots/milan.pem
	milanPEM []byte
	//go:embed roots/genoa.pem
	genoaPEM []byte
	//go:embed roots/turin.pem
	turinPEM []byte
)

// builtin pairs a line's certificates with the pin of its ARK.
type builtin struct {
	product, pin string
	pem          []byte
}

func builtins() []builtin {
	return []builtin{{Milan, ARKMilanSHA256, milanPEM}, {Genoa, ARKGenoaSHA256, genoaPEM}, {Turin, ARKTurinSHA256, turinPEM}}
}

// line is what is trusted for one product line: its root, and the intermediates
// that were verified under it.
type line struct {
	product string
	ark     *x509.Certificate
	issuers []*issuer
}

// issuer is an ASK (issues VCEKs) or ASVK (issues VLEKs) that was verified under
// its line's ARK. It is immutable.
type issuer struct {
	line      *line
	kind      string // what it issues: VCEK or VLEK
	cert      *x509.Certificate
	notBefore time.Time // of the certificate and the ARK
	notAfter  time.Time
}

func (i *issuer) validAt(at time.Time) bool { return !at.Before(i.notBefore) && !at.After(i.notAfter) }

// Roots are the certificates that a chain may end in, by product line. They are
// all of AMD, or all of a simulator, and never both. The zero Roots is refused by
// [New].
type Roots struct {
	lines     map[string]*line
	simulated bool
}

// HardwareRoots returns AMD's roots for every product line, which are built in
// and pinned. Should a certificate and its pin ever disagree, the result is
// empty, and New refuses it.
func HardwareRoots() Roots {
	r := Roots{lines: make(map[string]*line)}
	for _, b := range builtins() {
		certs, err := parsePEM(b.pem)
		if err != nil {
			return Roots{}
		}
		l, err := newLine(b.product, certs)
		if err != nil {
			return Roots{}
		}
		if sum := sha256.Sum256(l.ark.Raw); hex.EncodeToString(sum[:]) != b.pin {
			return Roots{}
		}
		r.lines[b.product] = l
	}
	return r
}

// SimulatedRoots reads a simulator's roots from PEM: for each product line one
// ARK, and any number of ASKs and ASVKs under it. What a certificate is follows
// from its common name, as with AMD's: "ARK-Milan", "SEV-Milan",
// "SEV-VLEK-Milan". Each must have the form of AMD's (RSA-4096, PSS with SHA-384,
// CA), and none may hold a key of AMD's: evidence of real hardware is never
// accepted as simulated.
func SimulatedRoots(pemBytes []byte) (Roots, error) {
	certs, err := parsePEM(pemBytes)
	if err != nil {
		return Roots{}, fmt.Errorf("sevsnp: simulated roots: %w", err)
	}
	if len(certs) == 0 {
		return Roots{}, errors.New("sevsnp: simulated roots: no certificate")
	}
	own, err := ownCertificates()
	if err != nil {
		return Roots{}, err
	}
	byProduct := make(map[string][]*x509.Certificate)
	for _, c := range certs {
		if err := notAMD(c, own); err != nil {
			return Roots{}, fmt.Errorf("sevsnp: simulated roots: %w", err)
		}
		product, _, err := roleOf(c)
		if err != nil {
			return Roots{}, fmt.Errorf("sevsnp: simulated roots: %w", err)
		}
		byProduct[product] = append(byProduct[product], c)
	}
	r := Roots{lines: make(map[string]*line), simulated: true}
	for product, cs := range byProduct {
		if r.lines[product], err = newLine(product, cs); err != nil {
			return Roots{}, fmt.Errorf("sevsnp: simulated roots: %s: %w", product, err)
		}
	}
	return r, nil
}

// Simulated reports whether these are a simulator's roots.
func (r Roots) Simulated() bool { return r.simulated }

// Products lists the product lines that the roots cover, oldest first.
func (r Roots) Products() []string {
	var out []string
	for _, p := range Products() {
		if r.lines[p] != nil {
			out = append(out, p)
		}
	}
	return out
}

// Root returns the line's ARK, or nil.
func (r Roots) Root(product string) *x509.Certificate {
	if l := r.lines[product]; l != nil {
		return l.ark
	}
	return nil
}

// Issuers returns the line's ASKs (kind [VCEK]) or ASVKs (kind [VLEK]).
func (r Roots) Issuers(product, kind string) []*x509.Certificate {
	l := r.lines[product]
	if l == nil {
		return nil
	}
	var out []*x509.Certificate
	for _, i := range l.issuers {
		if i.kind == kind {
			out = append(out, i.cert)
		}
	}
	return out
}

// Fingerprints returns the SHA-256 of each ARK's DER by product line, in
// lower-case hex.
func (r Roots) Fingerprints() map[string]string {
	out := make(map[string]string, len(r.lines))
	for p, l := range r.lines {
		sum := sha256.Sum256(l.ark.Raw)
		out[p] = hex.EncodeToString(sum[:])
	}
	return out
}

// newLine sorts a line's certificates and verifies the intermediates under the
// one ARK among them.
func newLine(product string, certs []*x509.Certificate) (*line, error) {
	l := &line{product: product}
	for _, c := range certs {
		p, kind, err := roleOf(c)
		switch {
		case err != nil:
			return nil, err
		case p != product:
			return nil, fmt.Errorf("%q is of another product line", c.Subject.CommonName)
		case kind != "":
			continue
		case l.ark != nil && !bytes.Equal(l.ark.Raw, c.Raw):
			return nil, errors.New("two ARKs")
		}
		if err := checkARK(c); err != nil {
			return nil, fmt.Errorf("%q: %w", c.Subject.String(), err)
		}
		l.ark = c
	}
	if l.ark == nil {
		return nil, errors.New("no ARK")
	}
	for _, c := range certs {
		_, kind, err := roleOf(c)
		if err != nil || kind == "" {
			continue
		}
		if _, err := checkIssuer(l, c); err != nil {
			return nil, fmt.Errorf("%q: %w", c.Subject.String(), err)
		}
		if err := l.ark.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
			return nil, fmt.Errorf("%q: not signed by the ARK: %w", c.Subject.String(), err)
		}
		l.issuers = append(l.issuers, newIssuer(l, kind, c))
	}
	return l, nil
}

func newIssuer(l *line, kind string, c *x509.Certificate) *issuer {
	return &issuer{line: l, kind: kind, cert: c, notBefore: later(l.ark.NotBefore, c.NotBefore), notAfter: earlier(l.ark.NotAfter, c.NotAfter)}
}

// roleOf reads a CA's place from its common name. The kind is what it issues, ""
// for an ARK.
func roleOf(c *x509.Certificate) (product, kind string, err error) {
	cn := c.Subject.CommonName
	for _, r := range []struct{ prefix, kind string }{{"ARK-", ""}, {"SEV-VLEK-", VLEK}, {"SEV-", VCEK}} {
		name, ok := strings.CutPrefix(cn, r.prefix)
		if !ok {
			continue
		}
		for _, p := range Products() {
			if name == amdName(p) {
				return p, r.kind, nil
			}
		}
	}
	return "", "", fmt.Errorf("common name %.60q, want ARK-, SEV- or SEV-VLEK- and one of Milan, Genoa, Turin", cn)
}

// checkARK demands what AMD's roots have, and that the certificate signed
// itself.
func checkARK(c *x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 || c.KeyUsage&x509.KeyUsageCRLSign == 0:
		return errors.New("not a CA certificate with key usage keyCertSign and cRLSign")
	case !isRSA4096(c) || c.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return errors.New("not RSA-4096 with PSS and SHA-384")
	case !bytes.Equal(c.RawIssuer, c.RawSubject):
		return errors.New("not self-signed: issuer and subject differ")
	}
	if err := refusedExtension(c); err != nil {
		return err
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return fmt.Errorf("not self-signed: %w", err)
	}
	return nil
}

// checkIssuer demands what AMD's ASKs and ASVKs have, all but the signature. It
// names the check that an issuer from elsewhere fails.
func checkIssuer(l *line, c *x509.Certificate) (check string, err error) {
	switch {
	case !bytes.Equal(c.RawIssuer, l.ark.RawSubject):
		return CheckChainRoot, errors.New("the ARK is not its issuer")
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return CheckChainCA, errors.New("not a CA certificate with key usage keyCertSign")
	case !isRSA4096(c) || c.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return CheckChainAlgorithm, errors.New("not RSA-4096 with PSS and SHA-384")
	}
	return CheckChainExtension, refusedExtension(c)
}

// isRSA4096 reports whether the certificate's key is RSA of 4096 bits with the
// usual exponent.
func isRSA4096(c *x509.Certificate) bool {
	k, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && k.N.BitLen() == 4096 && k.E == 65537
}

// ownCertificates parses all the built-in ones.
func ownCertificates() ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, b := range builtins() {
		certs, err := parsePEM(b.pem)
		if err != nil {
			return nil, fmt.Errorf("sevsnp: the built-in certificates of %s: %w", b.product, err)
		}
		out = append(out, certs...)
	}
	return out, nil
}

// notAMD refuses a certificate that holds one of AMD's own keys.
func notAMD(c *x509.Certificate, amd []*x509.Certificate) error {
	for _, own := range amd {
		if bytes.Equal(c.RawSubjectPublicKeyInfo, own.RawSubjectPublicKeyInfo) {
			return fmt.Errorf("%q is a key of AMD: a simulated trust domain never accepts hardware's", own.Subject.CommonName)
		}
	}
	return nil
}

// parsePEM reads certificates and nothing else.
func parsePEM(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			if len(bytes.TrimSpace(text)) != 0 {
				return nil, errors.New("text that is not PEM")
			}
			return out, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %.40q, want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
