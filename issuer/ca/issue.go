package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// Issued is what an attestation earned.
type Issued struct {
	Reference string // names the record
	Sequence  uint64 // of the record in its chain
	SVIDs     []SVID // in the order of the keys
}

// SVID is one X.509-SVID.
type SVID struct {
	Key                 int // index into the challenge's keys
	ID                  spiffeid.ID
	Chain               [][]byte // DER, leaf first, without the trust anchor
	Serial              string   // lower-case hex, as in the ledger
	NotBefore, NotAfter time.Time
	Result              []byte // the attestation result inside the leaf: a CWT
}

// Issue signs what a record allows, and spends the record. It signs all of it
// or returns an error: a record whose issuance failed stays an issuance without
// SVIDs, and the agent attests again. The steps, for each key:
//
//  1. the profile: name, serial and key from the record; NotAfter the earliest
//     of the grant's, the authority's and the verifier key's
//  2. the attestation result, signed by the verifier key
//  3. the certificate without a signature, parsed, and linted
//  4. the linted bytes, signed by the authority
//
// Errors are of kind Internal, or Unavailable where no authority can sign now, or
// its key cannot be reached; see [CA.lint] for the rules' names.
func (c *CA) Issue(_ context.Context, r *ledger.Recorded) (*Issued, error) {
	if err := r.Spend(); err != nil {
		return nil, internal("issue_record", err)
	}
	if r.TrustDomain() != c.td.Name() {
		return nil, internal("issue_trust_domain", fmt.Errorf("the record is of %s, this is the authority of %s", r.TrustDomain(), c.td.Name()))
	}
	if r.Claims().Simulated != c.cfg.Simulated {
		return nil, internal("issue_kind", errors.New("the evidence is of the other kind (hardware, simulated) than the trust domain"))
	}
	issuances := r.Issuances()
	if len(issuances) == 0 {
		return nil, internal("issue_record", errors.New("the record allows nothing"))
	}
	with, err := c.signsWith()
	if err != nil {
		return nil, err
	}
	out := &Issued{Reference: r.Reference(), Sequence: r.Sequence()}
	for _, is := range issuances {
		s, err := c.issueOnce(r, is, with)
		for range 3 { // others have just taken their place
			if !errors.Is(err, errSuperseded) {
				break
			}
			if with, err = c.signsWith(); err == nil {
				s, err = c.issueOnce(r, is, with)
			}
		}
		if errors.Is(err, errSuperseded) {
			c.lookSoon() // by a clock that has gone back an authority of before signs: Run opens it again
		}
		if err != nil {
			return nil, err
		}
		out.SVIDs = append(out.SVIDs, s)
	}
	if c.cfg.Results != nil {
		for i, is := range issuances {
			c.cfg.Results.KeepCertificate(is.Serial, out.SVIDs[i].Chain[0])
		}
	}
	return out, nil
}

// pair is what SVIDs are signed with: an X.509 authority, and a verifier key for
// the results in them.
type pair struct{ x509, verifier *authority }

// signsWith are the authorities that sign now. It takes no lock and reads no
// database. The checks:
//
//	authority_not_ready  Unavailable: they wait for the propagation time, or for somebody
//	authority_expired    Unavailable: they have ended
func (c *CA) signsWith() (pair, error) {
	s, now := c.now.Load(), c.cfg.Now()
	p := pair{c.signer(s, store.X509, now), c.signer(s, store.Verifier, now)}
	switch {
	case p.x509 == nil:
		return pair{}, c.notReady(s, store.X509, now)
	case p.verifier == nil:
		return pair{}, c.notReady(s, store.Verifier, now)
	}
	return p, nil
}

// issueOnce is issue, counted as a use of both authorities.
func (c *CA) issueOnce(r *ledger.Recorded, is ledger.Issuance, with pair) (SVID, error) {
	p, err := c.profile(r, is, with)
	if err != nil {
		return SVID{}, err
	}
	for _, a := range []*authority{with.x509, with.verifier} {
		done, err := a.use(p.notAfter)
		if err != nil {
			return SVID{}, err
		}
		defer done()
	}
	return c.issue(r, is, p)
}

func (c *CA) issue(r *ledger.Recorded, is ledger.Issuance, p *profile) (SVID, error) {
	cwt, err := c.appraise(r, is, p)
	if err != nil {
		return SVID{}, err
	}
	ext, err := svid.Extension(cwt)
	if err != nil {
		return SVID{}, err
	}
	draft, err := p.draft(ext, p.by.x509.cert)
	if err != nil {
		return SVID{}, internal("issue_certificate", err)
	}
	leaf, err := c.sign(draft, p)
	if err != nil {
		return SVID{}, err
	}
	return SVID{
		Key: is.Key, ID: p.id, Chain: p.by.x509.chain(leaf), Serial: hex.EncodeToString(is.Serial[:]),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Result: cwt,
	}, nil
}

// chain is what is handed out with a certificate of the authority: those between
// it and the trust anchor, which the bundle has.
func (a *authority) chain(leaf *x509.Certificate) [][]byte {
	out := [][]byte{leaf.Raw}
	for _, above := range a.certs[:len(a.certs)-1] {
		out = append(out, above.Raw)
	}
	return out
}

// profile says what the SVID will be.
func (c *CA) profile(r *ledger.Recorded, is ledger.Issuance, with pair) (*profile, error) {
	id, err := spiffeid.FromString(is.Identity.SPIFFEID)
	if err != nil {
		return nil, internal("issue_id", err)
	}
	key, err := x509.ParsePKIXPublicKey(is.SPKI)
	if err != nil {
		return nil, internal("issue_key", err)
	}
	if err := checkKeyType(key); err != nil {
		return nil, internal("issue_key", err)
	}
	at := r.Time().UTC()
	p := &profile{
		by: with, id: id, serial: is.Serial, spki: is.SPKI, key: key, issuedAt: at,
		notBefore: later(at.Add(-c.cfg.Backdate), with.x509.cert.NotBefore).Truncate(time.Second),
		notAfter:  is.NotAfter.UTC(),
	}
	for _, limit := range []time.Time{with.x509.cert.NotAfter, with.verifier.row.NotAfter} {
		if limit.Before(p.notAfter) {
			p.notAfter = limit
		}
	}
	p.notAfter = p.notAfter.Truncate(time.Second)
	if !p.notAfter.After(c.cfg.Now()) {
		return nil, internal("issue_validity", fmt.Errorf("the SVID would end at %s", p.notAfter.Format(time.RFC3339)))
	}
	return p, nil
}

// appraise makes the attestation result and signs it with the verifier key.
func (c *CA) appraise(r *ledger.Recorded, is ledger.Issuance, p *profile) ([]byte, error) {
	d := r.Decision()
	a := svid.Appraisal{
		Claims: r.Claims(), Policy: fmt.Sprintf("%s@%d", d.Bundle, d.Revision),
		Ownership: d.Ownership, Pinned: d.Pinned(), Publish: r.Publish(), Attributes: is.Identity.Attributes, EvidenceDigest: r.EvidenceDigest(),
	}
	if copy(a.PolicyDigest[:], d.Digest) != len(a.PolicyDigest) {
		return nil, internal("issue_policy", fmt.Errorf("the policy's digest has %d bytes", len(d.Digest)))
	}
	res, err := svid.Appraise(a, p.id, p.key, p.issuedAt, p.notAfter, c.td.Name())
	if err != nil {
		return nil, err
	}
	cwt, err := res.Sign(p.by.verifier.signer)
	if err != nil {
		return nil, signing("issue_result", err)
	}
	return cwt, nil
}

// sign lints a draft, whose signature counts for nothing, and then signs exactly
// the bytes that were linted with the authority's key.
func (c *CA) sign(draft []byte, p *profile) (*x509.Certificate, error) {
	linted, err := c.lint(draft, p)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(linted.RawTBSCertificate) // lint_signature_algorithm: ecdsa-with-SHA256
	sig, err := p.by.x509.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, signing("issue_certificate", err)
	}
	// Certificate (RFC 5280, section 4.1): the signed bytes, the algorithm, the signature.
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: linted.RawTBSCertificate}, pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}})
	if err != nil {
		return nil, internal("issue_certificate", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, internal("issue_certificate", err)
	}
	if !bytes.Equal(leaf.RawTBSCertificate, linted.RawTBSCertificate) {
		return nil, internal("issue_certificate", errors.New("what was signed is not what was linted"))
	}
	// A signer that errs (a fault, a token that holds another key) must not err unseen.
	if err := leaf.CheckSignatureFrom(p.by.x509.cert); err != nil {
		return nil, internal("issue_signature", err)
	}
	return leaf, nil
}

// oidECDSAWithSHA256 is ecdsa-with-SHA256 (RFC 5758, section 3.2), which has no
// parameters.
var oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}

func internal(check string, err error) error {
	return &attest.Error{Kind: attest.Internal, Check: check, Err: err}
}
