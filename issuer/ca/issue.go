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
// Errors are of kind Internal; see [CA.lint] for the rules' names.
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
	out := &Issued{Reference: r.Reference(), Sequence: r.Sequence()}
	for _, is := range issuances {
		s, err := c.issue(r, is)
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

func (c *CA) issue(r *ledger.Recorded, is ledger.Issuance) (SVID, error) {
	p, err := c.profile(r, is)
	if err != nil {
		return SVID{}, err
	}
	cwt, err := c.appraise(r, is, p)
	if err != nil {
		return SVID{}, err
	}
	ext, err := svid.Extension(cwt)
	if err != nil {
		return SVID{}, err
	}
	draft, err := p.draft(ext, c.x509.cert)
	if err != nil {
		return SVID{}, internal("issue_certificate", err)
	}
	leaf, err := c.sign(draft, p)
	if err != nil {
		return SVID{}, err
	}
	return SVID{
		Key: is.Key, ID: p.id, Chain: [][]byte{leaf.Raw}, Serial: hex.EncodeToString(is.Serial[:]),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Result: cwt,
	}, nil
}

// profile says what the SVID will be.
func (c *CA) profile(r *ledger.Recorded, is ledger.Issuance) (*profile, error) {
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
		id: id, serial: is.Serial, spki: is.SPKI, key: key, issuedAt: at,
		notBefore: later(at.Add(-c.cfg.Backdate), c.x509.cert.NotBefore).Truncate(time.Second),
		notAfter:  is.NotAfter.UTC(),
	}
	for _, limit := range []time.Time{c.x509.cert.NotAfter, c.verifier.row.NotAfter} {
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
	return res.Sign(c.verifier.signer)
}

// sign lints a draft, whose signature counts for nothing, and then signs exactly
// the bytes that were linted with the authority's key.
func (c *CA) sign(draft []byte, p *profile) (*x509.Certificate, error) {
	linted, err := c.lint(draft, p)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(linted.RawTBSCertificate) // lint_signature_algorithm: ecdsa-with-SHA256
	sig, err := c.x509.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, internal("issue_certificate", err)
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
	if err := leaf.CheckSignatureFrom(c.x509.cert); err != nil {
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
