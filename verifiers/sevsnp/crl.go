package sevsnp

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/assay-project/assay/attest"
)

// maxCRLs is how many CRLs of one attester are looked at.
const maxCRLs = 4

// crl is a CRL that the ARK signed. It is immutable.
type crl struct {
	line       *line
	number     *big.Int // RFC 5280, section 5.2.3; nil if it has none
	thisUpdate time.Time
	nextUpdate time.Time           // zero if it has none: then it is never current
	points     []string            // of its issuing distribution point; none means that it covers everything
	revoked    map[string]struct{} // serial numbers, big-endian bytes
}

// validAt is always true: what a CRL revokes stays revoked.
func (c *crl) validAt(time.Time) bool { return true }

// names reports whether the serial number is revoked.
func (c *crl) names(serial string) bool {
	_, ok := c.revoked[serial]
	return ok
}

// covers reports whether the CRL speaks of what the issuer's own distribution
// point speaks of (RFC 5280, section 6.3.3, step b.2).
func (c *crl) covers(i *issuer) bool {
	return len(c.points) == 0 || slices.ContainsFunc(i.cert.CRLDistributionPoints, func(p string) bool { return slices.Contains(c.points, p) })
}

// olderThan reports whether the CRL was issued before another one: by its number
// (RFC 5280, section 5.2.3), then by its date.
func (c *crl) olderThan(other *crl) bool {
	if c.number != nil && other.number != nil {
		if d := c.number.Cmp(other.number); d != 0 {
			return d < 0
		}
	}
	return c.thisUpdate.Before(other.thisUpdate)
}

// revocation checks the chain against every CRL of its ARK that there is, and
// says what is known. CRLs that it verified just now are left in the bundle.
//
// What an attester brings can show that something is revoked, and can be newer
// than what the collateral holds. It cannot turn the time back: a CRL from before
// the collateral's newest never counts as current, though its own dates say so,
// for it does not know what was revoked since.
func (v *Verifier) revocation(ctx context.Context, e *endorsement, b *bundle, at time.Time) (string, error) {
	l := e.issuer.line
	state := crlState{at: at, grace: v.revoke.Grace}
	var held *crl
	var failed error
	if v.collateral != nil {
		var err error
		if held, b.held, err = v.collateralCRL(ctx, e); err != nil && attest.KindOf(err) != attest.Unavailable {
			return "", err
		} else if err != nil {
			failed = err
		}
	}
	n := 0
	for i := range b.items {
		it := &b.items[i]
		if !isCRL(it.der) || n == maxCRLs {
			continue
		}
		c, fresh, err := v.crl(it, l)
		if err != nil {
			return "", err
		}
		if c == nil {
			continue // of another root, or no CRL after all
		}
		n++
		it.used = true
		if fresh {
			b.crls = append(b.crls, freshCRL{it.digest(), c})
		}
		if err := state.consult(c, e, held); err != nil {
			return "", err
		}
	}
	if held != nil {
		if err := state.consult(held, e, nil); err != nil {
			return "", err
		}
	}
	switch {
	case state.current:
		return RevocationOK, nil
	case state.inGrace:
		return RevocationGrace, nil
	case !v.revoke.Require:
		return RevocationNotChecked, nil
	case failed != nil:
		return "", failed
	case state.stale != nil:
		return "", state.stale
	}
	return "", refuse(CheckCRLMissing, detail{
		Err: fmt.Errorf("no CRL of the ARK of %s", l.product), Hint: "bring the CRL along, or let the server's collateral hold it",
	})
}

// crlState gathers what the CRLs say.
type crlState struct {
	at      time.Time
	grace   time.Duration
	current bool
	inGrace bool
	stale   error // why a CRL did not count
}

// consult refuses what the CRL revokes, and notes whether it is current. newest is
// the collateral's own, nil for none: what is older than that only revokes.
func (s *crlState) consult(c *crl, e *endorsement, newest *crl) error {
	if c.names(string(e.issuer.cert.SerialNumber.Bytes())) {
		return refuse(CheckCRLRevokedASK, detail{
			Err: errors.New("the endorsement's issuer is revoked by the ARK"), Got: fmt.Sprintf("%.80q, serial %x", e.issuer.cert.Subject.CommonName, e.issuer.cert.SerialNumber),
			Hint: "AMD has withdrawn this key: update the host's firmware and fetch a new certificate",
		})
	}
	if c.names(e.serial) {
		return refuse(CheckCRLRevokedEndorsement, detail{
			Err: fmt.Errorf("the %s is revoked by the ARK", amdKind(e.kind)), Got: fmt.Sprintf("serial %x", e.serial),
			Hint: "AMD has withdrawn this key: update the host's firmware and fetch a new certificate",
		})
	}
	if !c.covers(e.issuer) || (newest != nil && newest.covers(e.issuer) && c.olderThan(newest)) {
		return nil
	}
	until := c.nextUpdate
	switch {
	case s.at.Before(c.thisUpdate):
	case !until.IsZero() && !s.at.After(until):
		s.current = true
		return nil
	case !until.IsZero() && !s.at.After(until.Add(s.grace)):
		s.inGrace = true
		return nil
	}
	s.stale = refuse(CheckCRLValidity, detail{
		Err:      errors.New("the newest CRL is not current"),
		Expected: fmt.Sprintf("%s to %s, and %s of grace", c.thisUpdate.UTC().Format(time.RFC3339), until.UTC().Format(time.RFC3339), s.grace),
		Got:      s.at.UTC().Format(time.RFC3339), Hint: "fetch the CRL again",
	})
	return nil
}

// collateralCRL asks the collateral for the newest CRL, and also returns its
// bytes. The stranger has no influence on these, so they are remembered at once.
func (v *Verifier) collateralCRL(ctx context.Context, e *endorsement) (*crl, []byte, error) {
	l := e.issuer.line
	der, err := v.collateral.CRL(ctx, l.product, e.kind)
	if err != nil {
		if attest.KindOf(err) == attest.Unavailable {
			return nil, nil, refuse(CheckCRLUnavailable, detail{Err: fmt.Errorf("the source of CRLs failed: %w", err), Hint: "try again later, or bring the CRL along"})
		}
		return nil, nil, nil
	}
	if der == nil {
		return nil, nil, nil
	}
	it := &item{der: der}
	c, fresh, err := v.crl(it, l)
	if err == nil && fresh {
		v.cache.crls.Put(it.digest(), c)
	}
	if c == nil || err != nil {
		return nil, nil, err
	}
	return c, der, nil
}

// crl returns the item as a verified CRL of the line's ARK, from memory or
// verified now, or nil if it does not claim to be one.
func (v *Verifier) crl(it *item, l *line) (c *crl, fresh bool, err error) {
	if c, ok := v.cache.crls.get(it.digest(), time.Time{}); ok {
		if c.line != l {
			return nil, false, nil
		}
		return c, false, nil
	}
	list, err := x509.ParseRevocationList(it.der)
	if err != nil || !bytes.Equal(list.RawIssuer, l.ark.RawSubject) {
		return nil, false, nil // what is no CRL of this ARK is of no use here, and no fault
	}
	v.cache.signatures.Add(1)
	if list.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, false, refuse(CheckCRLSignature, detail{Err: errors.New("the CRL is signed with another algorithm"), Expected: x509.SHA384WithRSAPSS.String(), Got: list.SignatureAlgorithm.String()})
	}
	if err := list.CheckSignatureFrom(l.ark); err != nil {
		return nil, false, refuse(CheckCRLSignature, detail{Err: fmt.Errorf("the CRL was not signed by the pinned ARK: %w", err)})
	}
	if c, err = newCRL(l, list); err != nil {
		return nil, false, refuse(CheckCRLExtension, detail{Err: fmt.Errorf("the CRL: %w", err)})
	}
	return c, true, nil
}

// newCRL takes from a list what later verifications need.
func newCRL(l *line, list *x509.RevocationList) (*crl, error) {
	points, err := CRLDistributionPoints(list)
	if err != nil {
		return nil, err
	}
	c := &crl{line: l, number: list.Number, thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, points: points, revoked: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
	for _, r := range list.RevokedCertificateEntries {
		// Whoever an entry's certificate issuer is, and whatever the reason: a
		// number in the ARK's list is not used any more.
		c.revoked[string(r.SerialNumber.Bytes())] = struct{}{}
	}
	return c, nil
}

// CRLDistributionPoints reads the extensions of a CRL, and returns the URIs of
// its issuing distribution point (RFC 5280, section 5.2.5); none means that it
// speaks of everything its issuer has issued. A CRL that is not complete (a delta
// CRL, one for some certificates or reasons only), and one with a critical
// extension that is not understood, is an error. Its signature is not looked at.
func CRLDistributionPoints(list *x509.RevocationList) (points []string, err error) {
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oid(27)):
			return nil, errors.New("it is a delta CRL")
		case e.Id.Equal(oid(28)):
			if points, err = distributionPoint(e.Value); err != nil {
				return nil, err
			}
		case e.Id.Equal(oid(20)), e.Id.Equal(oid(35)): // CRL number, authority key identifier
		case e.Critical:
			return nil, fmt.Errorf("critical extension %s is not understood", e.Id)
		}
	}
	return points, nil
}

// distributionPoint reads the URIs of an issuing distribution point (RFC 5280,
// section 5.2.5) that has a full name and nothing else.
func distributionPoint(der []byte) ([]string, error) {
	bad := errors.New("its issuing distribution point limits it in a way that is not understood")
	in := cryptobyte.String(der)
	var seq, point, names cryptobyte.String
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() ||
		!seq.ReadASN1(&point, tag(0).Constructed()) || !seq.Empty() ||
		!point.ReadASN1(&names, tag(0).Constructed()) || !point.Empty() || names.Empty() {
		return nil, bad
	}
	var out []string
	for !names.Empty() {
		var uri cryptobyte.String
		if !names.ReadASN1(&uri, tag(6)) {
			return nil, bad
		}
		out = append(out, string(uri))
	}
	return out, nil
}
