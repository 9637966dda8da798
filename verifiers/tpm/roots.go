package tpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Providers of clouds that certify AKs, as in [attest.CloudInstance].
const (
	GCE   = "gce"
	Azure = "azure"
)

// manufacturers is the purpose of a root that EK certificates chain to. Other
// purposes are the providers.
const manufacturers = "ek"

//go:embed roots
var builtin embed.FS

// builtinPins are the SHA-256 of the DER of all built-in certificates, by file.
func builtinPins() map[string]string {
	return map[string]string{
		"roots/google-ek-ak-root.pem":         "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",
		"roots/google-ek-ak-intermediate.pem": "c84de8116dfaf5a908f21e810487791f5437e206d00ad8025050cca6bd2ff627",
		"roots/google-tpm-ek-root-1.pem":      "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf",
		"roots/google-tpm-ek-v1-2.pem":        "5d8dbcf8c8053dd8ffad711b6219355032b7122c34cac0f90ccb49def69ec504",
		"roots/google-tpm-ek-v1-3.pem":        "7132b6ea71101f6c51bb58f98c3798c19b65be510eca0344318900510b593178",
	}
}

// anchor is a certificate that a chain may end in: a pinned root, or an
// intermediate that was verified under one when the Roots were made.
type anchor struct {
	cert      *x509.Certificate
	root      *x509.Certificate
	purpose   string
	notBefore time.Time // of the certificate and what is above it
	notAfter  time.Time
}

// Roots are the certificates that a chain may end in: of TPM manufacturers, for
// EK certificates, and of clouds, for AK certificates. They are all for hardware
// (a cloud's virtual TPM counts as such), or all of a simulator, and never both.
// The zero Roots is refused by [New].
type Roots struct {
	anchors   []*anchor
	simulated bool
}

// HardwareRoots returns the built-in roots: those of Google's virtual TPMs, for
// EKs and AKs. Other manufacturers' and clouds' roots are for the operator to add
// ([Roots.WithDirectory]). Should a certificate and its pin ever disagree, the
// result is empty, and New refuses it.
func HardwareRoots() Roots {
	var certs []*x509.Certificate
	for file, pin := range builtinPins() {
		text, err := builtin.ReadFile(file)
		if err != nil {
			return Roots{}
		}
		cs, err := parseCertificates(text)
		if err != nil || len(cs) != 1 {
			return Roots{}
		}
		if fingerprint(cs[0]) != pin {
			return Roots{}
		}
		certs = append(certs, cs[0])
	}
	var r Roots
	for _, purpose := range []string{manufacturers, GCE} {
		var err error
		if r, err = r.with(purpose, certs); err != nil {
			return Roots{}
		}
	}
	return r
}

// SimulatedRoots reads the roots of a simulated manufacturer, and intermediates
// under them, from PEM. None may be a root that is known to be hardware's:
// evidence of real hardware is never accepted as simulated.
func SimulatedRoots(pemBytes []byte) (Roots, error) {
	return Roots{simulated: true}.WithManufacturers(pemBytes)
}

// WithManufacturers returns the roots and those of the PEM, which vouch for EKs.
// Certificates that did not sign themselves are intermediates, and must chain to
// one that did.
func (r Roots) WithManufacturers(pemBytes []byte) (Roots, error) {
	return r.withPEM(manufacturers, pemBytes)
}

// WithCloud returns the roots and those of the PEM, which vouch for AKs as the
// provider's ([GCE], [Azure]).
func (r Roots) WithCloud(provider string, pemBytes []byte) (Roots, error) {
	if provider != GCE && provider != Azure {
		return Roots{}, fmt.Errorf("tpm: roots of provider %.40q, want %q or %q", provider, GCE, Azure)
	}
	return r.withPEM(provider, pemBytes)
}

func (r Roots) withPEM(purpose string, file []byte) (Roots, error) {
	certs, err := parseCertificates(file)
	if err == nil && len(certs) == 0 {
		err = errors.New("no certificate")
	}
	if err == nil {
		r, err = r.with(purpose, certs)
	}
	if err != nil {
		return Roots{}, fmt.Errorf("tpm: roots: %w", err)
	}
	return r, nil
}

// WithDirectory returns the roots and those of an operator's directory. Its
// subdirectories say what they are good for: "ek" (TPM manufacturers), "gce" and
// "azure" (clouds that certify AKs). Each holds files with PEM (any number of
// certificates) or DER (one), roots and intermediates alike, named *.pem, *.crt,
// *.cer or *.der; texts (*.md, *.txt) may lie beside them. Anything else is an
// error: a root that is not read must not look as if it were.
func (r Roots) WithDirectory(dir fs.FS) (Roots, error) {
	byPurpose := make(map[string][]*x509.Certificate)
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		where, file := path.Split(name)
		purpose := path.Clean(where)
		switch ext := strings.ToLower(path.Ext(file)); {
		case name == "." || d.IsDir() && purpose == "." && slices.Contains([]string{manufacturers, GCE, Azure}, file):
			return nil
		case d.IsDir():
			return fmt.Errorf("%s: unknown directory, want %s, %s or %s", name, manufacturers, GCE, Azure)
		case ext == ".md" || ext == ".txt":
			return nil
		case purpose == ".":
			return fmt.Errorf("%s: put it into %s, %s or %s, to say what it is good for", name, manufacturers, GCE, Azure)
		case ext != ".pem" && ext != ".crt" && ext != ".cer" && ext != ".der":
			return fmt.Errorf("%s: want a file *.pem, *.crt, *.cer or *.der", name)
		}
		b, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		certs, err := parseCertificates(b)
		if err == nil && len(certs) == 0 {
			err = errors.New("no certificate")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		byPurpose[purpose] = append(byPurpose[purpose], certs...)
		return nil
	})
	if err == nil && len(byPurpose) == 0 {
		err = errors.New("no certificate")
	}
	for _, purpose := range []string{manufacturers, GCE, Azure} {
		if err == nil {
			r, err = r.with(purpose, byPurpose[purpose])
		}
	}
	if err != nil {
		return Roots{}, fmt.Errorf("tpm: directory of roots: %w", err)
	}
	return r, nil
}

// with adds certificates for one purpose: roots first, then what chains to them.
func (r Roots) with(purpose string, certs []*x509.Certificate) (Roots, error) {
	out := Roots{anchors: slices.Clone(r.anchors), simulated: r.simulated}
	var rest []*x509.Certificate
	for _, c := range certs {
		if err := r.admissible(c); err != nil {
			return Roots{}, fmt.Errorf("%q: %w", c.Subject.String(), err)
		}
		if !bytes.Equal(c.RawIssuer, c.RawSubject) {
			rest = append(rest, c)
			continue
		}
		if err := checkSelfSigned(c); err != nil {
			return Roots{}, fmt.Errorf("%q: %w", c.Subject.String(), err)
		}
		out.add(&anchor{cert: c, root: c, purpose: purpose, notBefore: c.NotBefore, notAfter: c.NotAfter})
	}
	for len(rest) > 0 {
		var later []*x509.Certificate
		for _, c := range rest {
			above, err := out.issuerOf(c, purpose)
			if err != nil {
				return Roots{}, fmt.Errorf("%q: %w", c.Subject.String(), err)
			}
			if above == nil {
				later = append(later, c)
				continue
			}
			out.add(&anchor{cert: c, root: above.root, purpose: purpose, notBefore: latest(above.notBefore, c.NotBefore), notAfter: earliest(above.notAfter, c.NotAfter)})
		}
		if len(later) == len(rest) {
			return Roots{}, fmt.Errorf("%q: it is not self-signed, and %q is not there", rest[0].Subject.String(), rest[0].Issuer.String())
		}
		rest = later
	}
	return out, nil
}

// issuerOf finds the anchor that issued an intermediate. One of the issuer's name
// that did not sign it is an error.
func (r Roots) issuerOf(c *x509.Certificate, purpose string) (*anchor, error) {
	var failed error
	for _, a := range r.anchors {
		if a.purpose != purpose || !bytes.Equal(a.cert.RawSubject, c.RawIssuer) {
			continue
		}
		err := checkCA(c, a.cert, 0)
		if err == nil {
			return a, nil
		}
		failed = err
	}
	return nil, failed
}

func (r *Roots) add(a *anchor) {
	for _, have := range r.anchors {
		if have.purpose == a.purpose && bytes.Equal(have.cert.Raw, a.cert.Raw) {
			return
		}
	}
	r.anchors = append(r.anchors, a)
}

// admissible refuses hardware's keys among a simulator's.
func (r Roots) admissible(c *x509.Certificate) error {
	if !r.simulated {
		return nil
	}
	hardware := errors.New("this is a certificate of hardware: a simulated trust domain never accepts hardware's")
	sum := fingerprint(c)
	for _, k := range KnownRoots() {
		if k.SHA256 == sum {
			return hardware
		}
	}
	for _, a := range HardwareRoots().anchors {
		if bytes.Equal(a.cert.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) {
			return hardware
		}
	}
	return nil
}

// checkSelfSigned demands of a root what is demanded of every CA, and that it
// signed itself.
func checkSelfSigned(c *x509.Certificate) error {
	if err := checkCA(c, c, 0); err != nil {
		return fmt.Errorf("as a root: %w", err)
	}
	return nil
}

// Simulated reports whether these are a simulator's roots.
func (r Roots) Simulated() bool { return r.simulated }

// Root describes a pinned root, for people.
type Root struct {
	Purpose  string // "ek", "gce" or "azure"
	Subject  string
	SHA256   string // of the DER, lower-case hex
	NotAfter time.Time
	// Known is the root's name where [KnownRoots] has its fingerprint, or "".
	Known string
}

// List describes the pinned roots (not the intermediates under them), sorted by
// purpose and subject.
func (r Roots) List() []Root {
	known := make(map[string]string)
	for _, k := range KnownRoots() {
		known[k.SHA256] = k.Vendor + ": " + k.Name
	}
	var out []Root
	for _, a := range r.anchors {
		if a.cert == a.root {
			sum := fingerprint(a.cert)
			out = append(out, Root{Purpose: a.purpose, Subject: a.cert.Subject.String(), SHA256: sum, NotAfter: a.cert.NotAfter, Known: known[sum]})
		}
	}
	slices.SortFunc(out, func(a, b Root) int {
		return strings.Compare(a.Purpose+"\x00"+a.Subject+a.SHA256, b.Purpose+"\x00"+b.Subject+b.SHA256)
	})
	return out
}

// of lists the anchors for a purpose with that subject.
func (r Roots) of(purpose string, subject []byte) []*anchor {
	var out []*anchor
	for _, a := range r.anchors {
		if a.purpose == purpose && bytes.Equal(a.cert.RawSubject, subject) {
			out = append(out, a)
		}
	}
	return out
}

// providers lists the clouds whose roots are known.
func (r Roots) providers() []string {
	var out []string
	for _, p := range []string{GCE, Azure} {
		if slices.ContainsFunc(r.anchors, func(a *anchor) bool { return a.purpose == p }) {
			out = append(out, p)
		}
	}
	return out
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// parseCertificates reads a file of certificates: PEM and nothing else, or one in
// DER.
func parseCertificates(file []byte) ([]*x509.Certificate, error) {
	if len(file) > 0 && file[0] == 0x30 {
		c, err := x509.ParseCertificate(file)
		if err != nil {
			return nil, err
		}
		return []*x509.Certificate{c}, nil
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		block, file = pem.Decode(file)
		if block == nil {
			if len(bytes.TrimSpace(file)) != 0 {
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

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
