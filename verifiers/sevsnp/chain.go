package sevsnp

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// maxAttempts bounds the RSA verifications that one report's endorsements can
// cost: of candidates, and of issuers for each.
const maxAttempts = 4

// endorse finds the endorsement for the report and verifies its chain. What it
// verified itself is left in the bundle and not remembered yet.
func (v *Verifier) endorse(ctx context.Context, r *report, b *bundle, at time.Time) (*endorsement, error) {
	for i := range b.items {
		it := &b.items[i]
		if e, ok := v.cache.leaves.get(it.digest(), at); ok && e.kind == r.signingKey && e.fits(r) == nil {
			v.cache.hits.Add(1)
			it.used = true
			return e, nil
		}
	}
	e, brought := v.pick(ctx, r, b, at)
	if brought == nil && e != nil {
		v.cache.misses.Add(1)
		return e, nil
	}
	e, held := v.fromCollateral(ctx, r, b, at)
	switch {
	case e != nil:
		return e, nil
	case brought != nil: // what was brought came closest
		return nil, brought
	case held != nil:
		return nil, held
	}
	return nil, refuse(CheckEndorsementMissing, detail{
		Err: fmt.Errorf("no %s certificate for this report", amdKind(r.signingKey)), Got: fmt.Sprintf("%d endorsements, none of them a certificate of this kind", len(b.items)),
		Hint: "let the host fill the certificate table, bring the certificate along, or add the chip to the server's collateral",
	})
}

// amdKind is the signing key as AMD writes it.
func amdKind(kind string) string {
	if kind == VLEK {
		return "VLEK"
	}
	return "VCEK"
}

// candidate is an endorsement whose form and content fit, and whose signature
// nobody has checked.
type candidate struct {
	item    *item
	cert    *x509.Certificate
	ext     *Extensions
	key     *x509.Certificate
	issuers []possible
}

// possible is an issuer by name: one that is trusted, or one that came along.
type possible struct {
	trusted *issuer
	item    *item
	line    *line
}

// pick verifies the endorsement among those that came along. Those that fit are
// tried in order; the error is the one of the candidate that came furthest, or
// nil if there was none.
func (v *Verifier) pick(ctx context.Context, r *report, b *bundle, at time.Time) (*endorsement, error) {
	var best error
	furthest, attempts := -1, 0
	note := func(stage int, err error) {
		if stage > furthest {
			furthest, best = stage, err
		}
	}
	for i := range b.items {
		c := b.items[i].certificate()
		if c == nil {
			if id, dup := twice(b.items[i].der); dup {
				note(stageForm, refuse(CheckEndorsementExtensions, detail{Err: fmt.Errorf("endorsement %d has extension %s twice", i, id)}))
			}
			continue
		}
		if kindOf(c) != r.signingKey {
			continue
		}
		cand, stage, err := v.consider(ctx, r, &b.items[i], b)
		if err != nil {
			note(stage, err)
			continue
		}
		if attempts++; attempts > maxAttempts {
			break
		}
		e, err := v.verifyChain(r, cand, b, at)
		if err == nil {
			return e, nil
		}
		note(stageChain, err)
	}
	return nil, best
}

// Stages of [Verifier.consider], by how far a candidate came.
const (
	stageForm = iota
	stageIssuer
	stageFit
	stageChain
)

// consider checks everything of a candidate that costs no signature
// verification.
func (v *Verifier) consider(ctx context.Context, r *report, it *item, b *bundle) (cand *candidate, stage int, err error) {
	c := it.certificate()
	cand = &candidate{item: it, cert: c}
	if cand.ext, err = ParseExtensions(c); err != nil {
		return nil, stageForm, err
	}
	if err = checkNames(r.signingKey, cand.ext); err != nil {
		return nil, stageForm, err
	}
	if err = v.findIssuers(ctx, cand, r.signingKey, b); err != nil {
		return nil, stageIssuer, err
	}
	if cand.key, err = checkLeaf(c); err != nil {
		return nil, stageIssuer, err
	}
	product := cand.issuers[0].line.product
	if cand.ext.Product != product {
		return nil, stageIssuer, refuse(CheckProductMismatch, detail{
			Err: errors.New("the endorsement's product is not of its issuer's line"), Expected: amdName(product), Got: fmt.Sprintf("%.40q", cand.ext.ProductName),
		})
	}
	if err = fits(r, r.signingKey, product, cand.ext.raw, cand.ext.HWID); err != nil {
		return nil, stageFit, err
	}
	return cand, stageChain, nil
}

// checkNames demands the name of the chip in a VCEK and the name of the provider
// in a VLEK, and not the other.
func checkNames(kind string, e *Extensions) error {
	switch {
	case kind == VCEK && e.hasCSP:
		return refuse(CheckCSPID, detail{Err: errors.New("a VCEK names no cloud provider"), Expected: "no csp_id", Got: fmt.Sprintf("%.60q", e.CSPID)})
	case kind == VLEK && e.CSPID == "":
		return refuse(CheckCSPID, detail{Err: errors.New("the VLEK does not say which cloud provider it was loaded for"), Expected: "csp_id"})
	case kind == VLEK && e.HWID != nil:
		return refuse(CheckCSPID, detail{Err: errors.New("a VLEK names no chip"), Expected: "no hwid", Got: check.ClipHex(e.HWID)})
	case kind == VCEK && e.HWID == nil:
		return refuse(CheckEndorsementExtensions, detail{Err: fmt.Errorf("the VCEK does not name its chip: %s.%s is missing", amdArc, extHWID)})
	}
	return nil
}

// checkLeaf demands what every VCEK and VLEK has in common.
func checkLeaf(c *x509.Certificate) (*x509.Certificate, error) {
	if c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, refuse(CheckChainCA, detail{Err: errors.New("the endorsement is a CA"), Expected: "CA false", Got: fmt.Sprintf("CA %t", c.IsCA)})
	}
	if c.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, refuse(CheckChainAlgorithm, detail{
			Err: errors.New("the endorsement is signed with another algorithm"), Expected: x509.SHA384WithRSAPSS.String(), Got: c.SignatureAlgorithm.String(),
		})
	}
	key, err := leafKey(c)
	if err != nil {
		return nil, refuse(CheckChainAlgorithm, detail{Err: err})
	}
	if err := refusedExtension(c); err != nil {
		return nil, refuse(CheckChainExtension, detail{Err: fmt.Errorf("the endorsement: %w", err)})
	}
	return key, nil
}

// findIssuers collects the certificates with the name of the endorsement's
// issuer: trusted ones first, then ones that came along or that the collateral
// holds, and that name a pinned ARK as their own issuer.
func (v *Verifier) findIssuers(ctx context.Context, cand *candidate, kind string, b *bundle) error {
	name := cand.cert.RawIssuer
	otherKind := false
	for _, p := range Products() {
		l := v.roots.lines[p]
		if l == nil {
			continue
		}
		for _, i := range l.issuers {
			if !bytes.Equal(i.cert.RawSubject, name) {
				continue
			}
			if i.kind != kind {
				otherKind = true
				continue
			}
			cand.issuers = append(cand.issuers, possible{trusted: i, line: l})
		}
	}
	for i := range b.items {
		if p, k, ok := v.possible(&b.items[i], name); ok && k == kind {
			cand.issuers = append(cand.issuers, p)
		} else if ok {
			otherKind = true
		}
	}
	if src, ok := v.collateral.(IssuerSource); ok {
		for _, der := range src.Issuers(ctx, cand.ext.Product, kind) {
			if p, k, ok := v.possible(&item{der: der}, name); ok && k == kind {
				cand.issuers = append(cand.issuers, p)
			}
		}
	}
	if len(cand.issuers) > maxAttempts {
		cand.issuers = cand.issuers[:maxAttempts]
	}
	switch {
	case len(cand.issuers) > 0:
		return nil
	case otherKind:
		return refuse(CheckChainIssuer, detail{
			Err: fmt.Errorf("a %s was issued by the wrong kind of key", amdKind(kind)), Expected: "an ASK for a VCEK, an ASVK for a VLEK", Got: fmt.Sprintf("%.120q", cand.cert.Issuer.String()),
		})
	}
	hint := "the report comes from a simulator or from an unknown product; a root is pinned, never taken from the evidence"
	if v.roots.simulated {
		hint = "this verifier knows simulated roots only; check which simulator made the report"
	}
	return refuse(CheckChainRoot, detail{
		Err: errors.New("the endorsement's issuer is not under a pinned root"), Expected: v.pins, Got: fmt.Sprintf("%.160q", cand.cert.Issuer.String()), Hint: hint,
	})
}

// possible returns an ASK or ASVK of the name whose own issuer has the name of a
// pinned ARK. Whether that signed it is checked when it is needed.
func (v *Verifier) possible(it *item, name []byte) (p possible, kind string, ok bool) {
	c := it.certificate()
	if c == nil || !bytes.Equal(c.RawSubject, name) {
		return possible{}, "", false
	}
	product, kind, err := roleOf(c)
	l := v.roots.lines[product]
	if err != nil || kind == "" || l == nil || !bytes.Equal(c.RawIssuer, l.ark.RawSubject) || trusts(l, c) {
		return possible{}, "", false
	}
	return possible{item: it, line: l}, kind, true
}

// trusts reports whether the certificate is one of the line's own.
func trusts(l *line, c *x509.Certificate) bool {
	for _, i := range l.issuers {
		if bytes.Equal(i.cert.Raw, c.Raw) {
			return true
		}
	}
	return false
}

// verifyChain verifies a candidate's signature and validity under the first of
// its possible issuers that signed it.
func (v *Verifier) verifyChain(r *report, cand *candidate, b *bundle, at time.Time) (*endorsement, error) {
	c := cand.cert
	var refused error // by the first, which is the likeliest
	for _, p := range cand.issuers {
		i, fresh, err := v.issuer(p, at)
		if err != nil {
			if refused == nil {
				refused = err
			}
			continue
		}
		v.cache.signatures.Add(1)
		if err := i.cert.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
			if refused == nil {
				refused = refuse(CheckChainSignature, detail{Err: fmt.Errorf("the endorsement was not signed by its issuer: %w", err), Got: fmt.Sprintf("%.120q", c.Issuer.String())})
			}
			continue
		}
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return nil, refuseValidity("the endorsement", c, at)
		}
		if !i.validAt(at) {
			return nil, refuseIssuerValidity(i, at)
		}
		e := &endorsement{
			kind: r.signingKey, issuer: i, raw: cand.ext.raw, hwid: cand.ext.HWID, cspID: cand.ext.CSPID,
			serial: string(c.SerialNumber.Bytes()), key: cand.key,
			notBefore: later(i.notBefore, c.NotBefore), notAfter: earlier(i.notAfter, c.NotAfter),
		}
		cand.item.used = true
		b.leaf, b.leafSum = e, cand.item.digest()
		if p.item != nil {
			p.item.used = true
			if fresh {
				b.issuer, b.issuerSum = i, p.item.digest()
			}
		}
		return e, nil
	}
	return nil, refused
}

// issuer returns a trusted issuer, one that is remembered, or one that it
// verifies under the line's ARK.
func (v *Verifier) issuer(p possible, at time.Time) (i *issuer, fresh bool, err error) {
	if p.trusted != nil {
		return p.trusted, false, nil
	}
	if i, ok := v.cache.issuers.get(p.item.digest(), at); ok {
		return i, false, nil
	}
	c := p.item.certificate()
	if name, err := checkIssuer(p.line, c); err != nil {
		return nil, false, refuse(name, detail{Err: fmt.Errorf("the issuer that came along: %w", err), Got: fmt.Sprintf("%.120q", c.Subject.String())})
	}
	v.cache.signatures.Add(1)
	if err := p.line.ark.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return nil, false, refuse(CheckChainSignature, detail{Err: fmt.Errorf("the issuer that came along was not signed by the pinned ARK: %w", err), Got: fmt.Sprintf("%.120q", c.Subject.String())})
	}
	_, kind, err := roleOf(c)
	if err != nil {
		return nil, false, refuse(CheckChainIssuer, detail{Err: err})
	}
	return newIssuer(p.line, kind, c), true, nil
}

// fromCollateral asks the operator's collateral. A version 2 report does not say
// which product it is from, so that every line whose TCB layout fits is asked
// for.
func (v *Verifier) fromCollateral(ctx context.Context, r *report, b *bundle, at time.Time) (*endorsement, error) {
	if v.collateral == nil {
		return nil, nil
	}
	var last, failed error
	for _, product := range v.roots.Products() {
		if r.version >= cpuidVersion {
			if p, ok := r.cpu.product(); !ok || p != product {
				continue
			}
		}
		if r.checkTCBs(product) != nil {
			continue
		}
		key := Key{Product: product, SigningKey: r.signingKey, ChipID: bytes.Clone(r.chipID()), TCB: r.tcb(offReportedTCB).decode(hasFMC(product))}
		der, err := v.collateral.Endorsement(ctx, key)
		if err != nil && attest.KindOf(err) == attest.Unavailable {
			failed = refuse(CheckEndorsementUnavailable, detail{Err: fmt.Errorf("the source of endorsements failed: %w", err), Hint: "try again later, or bring the certificate along"})
			continue
		}
		if err != nil || der == nil {
			continue
		}
		it := &item{der: der}
		if e, ok := v.cache.leaves.get(it.digest(), at); ok && e.kind == r.signingKey && e.fits(r) == nil {
			v.cache.hits.Add(1)
			b.lent, b.lentFor = der, key
			return e, nil
		}
		if c := it.certificate(); c == nil || kindOf(c) != r.signingKey {
			last = refuse(CheckEndorsementMissing, detail{Err: fmt.Errorf("the collateral holds no %s certificate under this name", amdKind(r.signingKey)), Got: check.ClipHex(der)})
			continue
		}
		cand, _, err := v.consider(ctx, r, it, b)
		if err != nil {
			last = err
			continue
		}
		e, err := v.verifyChain(r, cand, b, at)
		if err == nil {
			v.cache.misses.Add(1)
			b.lent, b.lentFor = der, key
			return e, nil
		}
		last = err
	}
	if last == nil {
		last = failed
	}
	return nil, last
}

// refusedExtension refuses what is not evaluated here: a critical extension
// must not be ignored (RFC 5280, section 4.2), and constraints on names and
// policies would constrain what follows. AMD's certificates have none of them.
func refusedExtension(c *x509.Certificate) error {
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oid(15)), e.Id.Equal(oid(19)): // key usage, basic constraints
		case e.Id.Equal(oid(30)), e.Id.Equal(oid(36)), e.Id.Equal(oid(54)), e.Id.Equal(oid(33)):
			return fmt.Errorf("extension %s (constraint on names or policies) is not accepted", e.Id)
		case e.Critical:
			return fmt.Errorf("critical extension %s is not understood", e.Id)
		}
	}
	return nil
}

// oid is an object identifier of certificate extensions, 2.5.29.n.
func oid(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, n} }

func refuseIssuerValidity(i *issuer, at time.Time) error {
	if at.Before(i.cert.NotBefore) || at.After(i.cert.NotAfter) {
		return refuseValidity("the endorsement's issuer", i.cert, at)
	}
	return refuseValidity("the root", i.line.ark, at)
}

func refuseValidity(what string, c *x509.Certificate, at time.Time) error {
	hint := "bring a fresh endorsement; a recorded report is verified with the time at which it was recorded"
	if at.Before(c.NotBefore) {
		hint = "check the clock of this machine"
	}
	return refuse(CheckChainValidity, detail{
		Err:      fmt.Errorf("%s is not valid at this time", what),
		Expected: c.NotBefore.UTC().Format(time.RFC3339) + " to " + c.NotAfter.UTC().Format(time.RFC3339),
		Got:      at.UTC().Format(time.RFC3339), Hint: hint,
	})
}
