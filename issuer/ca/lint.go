package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// Object identifiers of the extensions that an SVID has (RFC 5280, section 4.2).
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// rule is one named rule of the profile.
type rule struct {
	name string
	hold func(l *linter) error
}

// linter compares a certificate, as parsed, with what it must be.
type linter struct {
	cert *x509.Certificate
	want *profile
	ca   *CA
}

// rules run in this order; the first that does not hold is reported.
// X.509 is RFC 5280, SVID is the SPIFFE X509-SVID specification.
var rules = []rule{
	{"lint_version", func(l *linter) error { return equal(l.cert.Version, 3) }},
	{"lint_serial", func(l *linter) error { // of the record, positive, 20 bytes at most (RFC 5280, 4.1.2.2)
		if s := l.cert.SerialNumber; s.Sign() <= 0 || !bytes.Equal(s.FillBytes(make([]byte, 20))[4:], l.want.serial[:]) {
			return fmt.Errorf("serial %x is not the recorded one, %x", s, l.want.serial)
		}
		return nil
	}},
	{"lint_signature_algorithm", func(l *linter) error { return equal(l.cert.SignatureAlgorithm, x509.ECDSAWithSHA256) }},
	{"lint_issuer", func(l *linter) error {
		return equalBytes(l.cert.RawIssuer, l.want.by.x509.cert.RawSubject)
	}},
	{"lint_subject", func(l *linter) error { // no name of anybody; present, so that the SAN need not be critical (RFC 5280, 4.2.1.6)
		s := l.cert.Subject
		if len(s.Names) != 1 || len(s.Organization) != 1 || s.Organization[0] != l.ca.td.Name() {
			return fmt.Errorf("subject %q, want O=%s alone", s, l.ca.td.Name())
		}
		return nil
	}},
	{"lint_key", func(l *linter) error { // the key that the evidence vouched for, byte for byte
		return equalBytes(l.cert.RawSubjectPublicKeyInfo, l.want.spki)
	}},
	{"lint_key_type", func(l *linter) error { return checkKeyType(l.cert.PublicKey) }},
	{"lint_not_before", func(l *linter) error {
		nb := l.cert.NotBefore
		if nb.After(l.want.issuedAt) || nb.Before(l.want.issuedAt.Add(-maxBackdate-time.Second)) {
			return fmt.Errorf("valid from %s, issued at %s", nb, l.want.issuedAt)
		}
		return nil
	}},
	{"lint_not_after", func(l *linter) error {
		na := l.cert.NotAfter
		if na.After(l.want.notAfter) || !na.After(l.want.issuedAt) {
			return fmt.Errorf("valid until %s, granted from %s until %s", na, l.want.issuedAt, l.want.notAfter)
		}
		return nil
	}},
	{"lint_authority_validity", func(l *linter) error { // it ends and begins within its authority and its verifier key
		a, v := l.want.by.x509.cert, l.want.by.verifier.row
		if l.cert.NotBefore.Before(a.NotBefore) || l.cert.NotAfter.After(a.NotAfter) || l.cert.NotAfter.After(v.NotAfter) {
			return fmt.Errorf("valid from %s until %s, the authority from %s until %s, the verifier key until %s",
				l.cert.NotBefore, l.cert.NotAfter, a.NotBefore, a.NotAfter, v.NotAfter)
		}
		return nil
	}},
	{"lint_extensions", (*linter).extensions},
	{"lint_san", func(l *linter) error { // SVID 2: exactly one URI, and here nothing else
		c := l.cert
		if len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) != 0 {
			return fmt.Errorf("%d URIs, %d other names, want one URI", len(c.URIs), len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses))
		}
		// Kinds of name that crypto/x509 does not show: the raw SEQUENCE must hold one element.
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(l.extension(oidSAN), &names); err != nil || len(rest) != 0 || len(names) != 1 {
			return fmt.Errorf("%d names in the extension, want one URI", len(names))
		}
		return nil
	}},
	{"lint_id", func(l *linter) error { return equal(l.cert.URIs[0].String(), l.want.id.String()) }},
	{"lint_basic_constraints", func(l *linter) error { // SVID 4.1
		if !l.cert.BasicConstraintsValid || l.cert.IsCA || !l.critical(oidBasicConstraints) {
			return errors.New("want basicConstraints, critical, CA:FALSE")
		}
		return nil
	}},
	{"lint_key_usage", func(l *linter) error { // SVID 4.3
		if l.cert.KeyUsage != x509.KeyUsageDigitalSignature || !l.critical(oidKeyUsage) {
			return errors.New("want keyUsage, critical, digitalSignature alone")
		}
		return nil
	}},
	{"lint_ext_key_usage", func(l *linter) error { // SVID 4.4
		want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if !slices.Equal(l.cert.ExtKeyUsage, want) || len(l.cert.UnknownExtKeyUsage) != 0 {
			return errors.New("want extKeyUsage serverAuth and clientAuth")
		}
		return nil
	}},
	{"lint_subject_key_id", func(l *linter) error {
		want, err := keyID(l.want.spki)
		if err != nil {
			return err
		}
		return equalBytes(l.cert.SubjectKeyId, want)
	}},
	{"lint_authority_key_id", func(l *linter) error { return equalBytes(l.cert.AuthorityKeyId, l.want.by.x509.cert.SubjectKeyId) }},
	{"lint_result", (*linter).result},
}

// lint parses a draft (lint_parse) and runs every rule,
// beginning with those of checkID about the name that is wanted. The error is of
// kind Internal and names the rule: a certificate that fails is a fault of this
// program, or of who asked it to issue that.
func (c *CA) lint(der []byte, want *profile) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, lintFault("lint_parse", err)
	}
	if err := c.check(cert, want); err != nil {
		return nil, err
	}
	return cert, nil
}

// check runs the rules on a parsed certificate.
func (c *CA) check(cert *x509.Certificate, want *profile) error {
	if name, err := checkID(want.id, c.td); err != nil {
		return lintFault(name, err)
	}
	l := &linter{cert: cert, want: want, ca: c}
	for _, r := range rules {
		if err := r.hold(l); err != nil {
			return lintFault(r.name, err)
		}
	}
	return nil
}

func lintFault(name string, err error) error {
	return &attest.Error{Kind: attest.Internal, Check: name, Err: fmt.Errorf("the certificate was not signed: %w", err)}
}

// extensions: the known ones, each once; critical exactly where the profile
// says so, since a relying party refuses a critical one that it does not know.
func (l *linter) extensions() error {
	critical := map[string]bool{
		oidKeyUsage.String(): true, oidBasicConstraints.String(): true,
		oidExtKeyUsage.String(): false, oidSAN.String(): false, oidSubjectKeyID.String(): false,
		oidAuthorityKeyID.String(): false, svid.OID().String(): false,
	}
	seen := map[string]bool{}
	for _, e := range l.cert.Extensions {
		id := e.Id.String()
		want, known := critical[id]
		switch {
		case !known:
			return fmt.Errorf("extension %s is not part of the profile", id)
		case seen[id]:
			return fmt.Errorf("extension %s is there twice", id)
		case e.Critical != want:
			return fmt.Errorf("extension %s is critical: %t", id, e.Critical)
		}
		seen[id] = true
	}
	if len(seen) != len(critical) {
		return fmt.Errorf("%d extensions, want %d", len(seen), len(critical))
	}
	return nil
}

// extension is the value of an extension, or nil.
func (l *linter) extension(id asn1.ObjectIdentifier) []byte {
	for _, e := range l.cert.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

func (l *linter) critical(id asn1.ObjectIdentifier) bool {
	for _, e := range l.cert.Extensions {
		if e.Id.Equal(id) {
			return e.Critical
		}
	}
	return false
}

// result: the attestation result is the one for this name, this key and this
// trust domain, lasts as long as the certificate, and is signed by the current
// verifier key.
func (l *linter) result() error {
	r, err := svid.ResultFrom(l.cert)
	if err != nil {
		return err
	}
	thumb, err := svid.ThumbprintOf(l.cert.PublicKey)
	if err != nil {
		return err
	}
	keyID, err := svid.ThumbprintOf(l.want.by.verifier.public)
	if err != nil {
		return err
	}
	res := r.Result
	switch {
	case r.KeyID != keyID:
		return fmt.Errorf("the result is signed by key %s, the current one is %s", r.KeyID, keyID)
	case res.Subject != l.want.id.String():
		return fmt.Errorf("the result is about %s", res.Subject)
	case res.Issuer != l.ca.td.IDString():
		return fmt.Errorf("the result is of %s", res.Issuer)
	case res.KeyThumbprint != thumb:
		return errors.New("the result is about another key")
	case res.Expiry.Before(l.cert.NotAfter):
		return fmt.Errorf("the result ends at %s, the certificate at %s", res.Expiry, l.cert.NotAfter)
	case res.Simulated != l.ca.cfg.Simulated:
		return fmt.Errorf("the result says simulated: %t", res.Simulated)
	}
	return nil
}

func equal[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

func equalBytes(got, want []byte) error {
	if len(want) == 0 || !bytes.Equal(got, want) {
		return fmt.Errorf("got %x, want %x", got, want)
	}
	return nil
}
