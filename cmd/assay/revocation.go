package main

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

// Revocation checks the CRLs that the user brought against a chain that has
// already been verified. Nothing is fetched: which CRL counts, and how fresh it
// has to be, is the user's to decide, and an offline tool has to work offline.
//
// A CRL belongs to the chain when a certificate of the chain is its issuer: same
// name, and same key identifier where the CRL names one (RFC 5280, section
// 5.2.1). One that does not belong is left unused. One that belongs has to be
// right: signature by an issuer that may sign CRLs, no critical extension that
// is not understood, and within thisUpdate and nextUpdate at the time of
// verification. Anything else is an error, because a CRL that was meant to be
// checked and silently was not is worse than none.
//
// The state that results:
//
//	ok           every certificate that names a CRL distribution point is covered
//	partial      some of them are
//	not_checked  none is
//	failed       a certificate is revoked, or a CRL that belongs is not right
//
// Not every authority publishes CRLs. AWS does for the regional and the zonal
// certificate, and not for the instance's (24 hours) and the enclave's (3 hours).
type revocation struct {
	State  string
	Detail string
}

// The states.
const (
	revocationOK      = "ok"
	revocationPartial = "partial"
	revocationNone    = "not_checked"
	revocationFailed  = "failed"
)

// checkRevocation takes a verified chain, root first. It marks the endorsements
// that it used. The named checks are crl_signature, crl_extension,
// crl_validity, crl_revoked, and crl for what is required and missing.
func checkRevocation(chain []*x509.Certificate, endorsements []*endorsement, at time.Time, require bool) (revocation, error) {
	covered := make([]bool, len(chain))
	for _, e := range endorsements {
		if e.crl == nil {
			continue
		}
		i := issuerOf(chain, e.crl)
		if i < 0 {
			e.why = "no certificate of the chain issued this CRL"
			continue
		}
		if i+1 >= len(chain) {
			e.why = "the chain holds no certificate of the authority that issued this CRL"
			continue
		}
		belongs, err := checkCRL(e, chain[i], chain[i+1], at)
		if err != nil {
			e.used = true
			return revocation{revocationFailed, attest.CheckOf(err)}, err
		}
		if belongs {
			e.used, covered[i+1] = true, true
		}
	}
	return coverage(chain, covered, require)
}

// issuerOf finds the CRL's issuer in the chain, or -1.
func issuerOf(chain []*x509.Certificate, crl *x509.RevocationList) int {
	return slices.IndexFunc(chain, func(c *x509.Certificate) bool {
		if !bytes.Equal(c.RawSubject, crl.RawIssuer) {
			return false
		}
		return len(crl.AuthorityKeyId) == 0 || len(c.SubjectKeyId) == 0 || bytes.Equal(crl.AuthorityKeyId, c.SubjectKeyId)
	})
}

// checkCRL checks one CRL by issuer for the certificate that it issued. It
// reports false for a CRL that turns out to speak of other certificates.
func checkCRL(e *endorsement, issuer, subject *x509.Certificate, at time.Time) (belongs bool, err error) {
	crl := e.crl
	if err := crl.CheckSignatureFrom(issuer); err != nil {
		return false, &attest.Error{
			Kind: attest.Untrusted, Check: "crl_signature",
			Err: fmt.Errorf("%s is not signed by the authority that it names: %w", e.name, err),
		}
	}
	scope, err := crlScope(crl.Extensions, subject)
	if err != nil {
		return false, &attest.Error{
			Kind: attest.Untrusted, Check: "crl_extension", Err: fmt.Errorf("%s: %w", e.name, err),
			Hint: "give a complete CRL for all certificates of its issuer",
		}
	}
	if !scope {
		e.why = "it covers another distribution point than the certificate names"
		return false, nil
	}
	if crl.NextUpdate.IsZero() || at.Before(crl.ThisUpdate) || at.After(crl.NextUpdate) {
		return false, &attest.Error{
			Kind: attest.Stale, Check: "crl_validity",
			Err:      fmt.Errorf("%s does not speak for the time of verification", e.name),
			Expected: "thisUpdate ≤ " + stamp(at) + " ≤ nextUpdate",
			Got:      stamp(crl.ThisUpdate) + " to " + stamp(crl.NextUpdate),
			Hint:     "give the CRL of that time, or none: revocation is then reported as not_checked",
		}
	}
	for _, r := range crl.RevokedCertificateEntries {
		for _, x := range r.Extensions {
			if x.Critical {
				return false, &attest.Error{
					Kind: attest.Untrusted, Check: "crl_extension",
					Err: fmt.Errorf("%s: an entry has the critical extension %s, which is not understood", e.name, x.Id),
				}
			}
		}
		if r.SerialNumber.Cmp(subject.SerialNumber) == 0 {
			return false, &attest.Error{
				Kind: attest.Untrusted, Check: "crl_revoked",
				Err: fmt.Errorf("the certificate %q was revoked by its issuer at %s", subject.Subject.CommonName, stamp(r.RevocationTime)),
				Got: "serial " + subject.SerialNumber.Text(16),
			}
		}
	}
	return true, nil
}

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// crlScope reads the critical extensions of a CRL (RFC 5280, section 5.2). The
// only one that is understood is an issuing distribution point that is nothing
// but the place where the CRL is published: the certificate has to name the
// same place, or the CRL is another partition's.
func crlScope(extensions []pkix.Extension, subject *x509.Certificate) (bool, error) {
	for _, x := range extensions {
		switch {
		case x.Id.Equal(oidIssuingDistributionPoint):
			urls, err := distributionPoint(x.Value)
			if err != nil {
				return false, err
			}
			if !slices.ContainsFunc(urls, func(u string) bool { return slices.Contains(subject.CRLDistributionPoints, u) }) {
				return false, nil
			}
		case x.Critical:
			return false, fmt.Errorf("it has the critical extension %s, which is not understood", x.Id)
		}
	}
	return true, nil
}

// distributionPoint returns the URLs of an issuing distribution point, and
// refuses one that limits what the CRL speaks of in any other way.
func distributionPoint(der []byte) ([]string, error) {
	var idp struct {
		Name struct {
			Full []asn1.RawValue `asn1:"optional,tag:0"`
		} `asn1:"optional,tag:0"`
		OnlyUser       bool           `asn1:"optional,tag:1"`
		OnlyCA         bool           `asn1:"optional,tag:2"`
		OnlyReasons    asn1.BitString `asn1:"optional,tag:3"`
		Indirect       bool           `asn1:"optional,tag:4"`
		OnlyAttributes bool           `asn1:"optional,tag:5"`
	}
	rest, err := asn1.Unmarshal(der, &idp)
	if err != nil || len(rest) > 0 {
		return nil, errors.New("its issuing distribution point cannot be read")
	}
	if idp.OnlyUser || idp.OnlyCA || idp.OnlyReasons.BitLength > 0 || idp.Indirect || idp.OnlyAttributes {
		return nil, errors.New("it speaks of only some certificates or reasons, or for another issuer (issuing distribution point)")
	}
	var urls []string
	for _, n := range idp.Name.Full {
		if n.Class == asn1.ClassContextSpecific && n.Tag == 6 { // uniformResourceIdentifier
			urls = append(urls, string(n.Bytes))
		}
	}
	if len(urls) == 0 {
		return nil, errors.New("its issuing distribution point has no URL")
	}
	return urls, nil
}

// coverage sums up which certificates below the root were looked up.
func coverage(chain []*x509.Certificate, covered []bool, require bool) (revocation, error) {
	var have, named int
	var missing []string
	for i := 1; i < len(chain); i++ {
		switch {
		case covered[i]:
			have++
			named++
		case len(chain[i].CRLDistributionPoints) > 0:
			named++
			missing = append(missing, fmt.Sprintf("%s (%s)", chain[i].Subject.CommonName, strings.Join(chain[i].CRLDistributionPoints, " ")))
		}
	}
	r := revocation{State: revocationOK, Detail: fmt.Sprintf("%s of %d that have a CRL are not revoked; %s published none",
		cli.Count(have, "certificate"), named, cli.Count(len(chain)-1-named, "certificate"))}
	switch {
	case named == 0:
		r = revocation{revocationNone, "no certificate of the chain names a CRL"}
	case have == 0:
		r = revocation{revocationNone, fmt.Sprintf("no CRL was given (--endorsement FILE); %s of the chain name one", cli.Count(named, "certificate"))}
	case len(missing) > 0:
		r = revocation{revocationPartial, fmt.Sprintf("%d of %s that name a CRL were looked up", have, cli.Count(named, "certificate"))}
	}
	if !require || r.State == revocationOK {
		return r, nil
	}
	e := &attest.Error{Kind: attest.Unavailable, Check: "crl", Err: errors.New("revocation is required and could not be checked: " + r.Detail)}
	if len(missing) > 0 {
		e.Hint = "fetch and give with --endorsement: " + strings.Join(missing, ", ")
	} else {
		e.Hint = "this chain cannot satisfy --require-crl"
	}
	return r, e
}
