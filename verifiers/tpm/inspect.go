package tpm

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// Unverified is what evidence says of itself. Nobody has checked who signed it: it
// is for people who look at evidence, and no decision may rest on it. It is no
// attest.Claims on purpose, and cannot be turned into one.
type Unverified struct {
	Quote     *UnverifiedQuote        `json:"quote,omitempty"`
	Signature string                  `json:"signature,omitempty"` // "ECDSA with SHA-256"
	PCRs      map[uint32]attest.Bytes `json:"pcrs"`
	AK        *UnverifiedKey          `json:"ak,omitempty"`
	EK        *UnverifiedKey          `json:"ek,omitempty"`
	// Certificates are those of AK and EK, and the endorsements.
	AKCertificate *UnverifiedCertificate  `json:"ak_certificate,omitempty"`
	EKCertificate *UnverifiedCertificate  `json:"ek_certificate,omitempty"`
	Endorsements  []UnverifiedCertificate `json:"endorsements,omitempty"`
	// Certified are the keys that are said to live in the TPM.
	Certified      []UnverifiedKey `json:"certified,omitempty"`
	EventLogDigest attest.Bytes    `json:"event_log_digest,omitempty"`
	EventLogSize   int             `json:"event_log_size,omitempty"`

	// Malformed is the first structural check that the evidence fails, or nil.
	// Without one it may still be untrusted or stale: only Authenticate can say.
	Malformed error `json:"-"`
}

// UnverifiedQuote is what a quote says of itself.
type UnverifiedQuote struct {
	Selection       map[string][]int `json:"selection"` // by bank
	PCRDigest       attest.Bytes     `json:"pcr_digest"`
	ExtraData       attest.Bytes     `json:"extra_data"`
	QualifiedSigner attest.Bytes     `json:"qualified_signer"`
	Clock           uint64           `json:"clock_ms"`
	ResetCount      uint32           `json:"reset_count"`
	RestartCount    uint32           `json:"restart_count"`
	Firmware        uint64           `json:"firmware"`
	Safe            bool             `json:"safe"`
}

// UnverifiedKey is what a public area says of its key.
type UnverifiedKey struct {
	Name       attest.Bytes `json:"name"`
	Type       string       `json:"type"`   // "RSA-2048", "P-256"
	Scheme     string       `json:"scheme"` // "ECDSA with SHA-256", "none"
	Attributes string       `json:"attributes"`
	SPKI       attest.Bytes `json:"spki_sha256,omitempty"`
}

// UnverifiedCertificate describes one certificate, or says why it cannot be read.
type UnverifiedCertificate struct {
	SHA256    attest.Bytes          `json:"sha256"` // of the DER
	Subject   string                `json:"subject,omitempty"`
	Issuer    string                `json:"issuer,omitempty"`
	NotBefore time.Time             `json:"not_before,omitzero"`
	NotAfter  time.Time             `json:"not_after,omitzero"`
	CA        bool                  `json:"ca,omitempty"`
	TPM       *attest.EKCertificate `json:"tpm,omitempty"`      // of an EK certificate
	Instance  *attest.CloudInstance `json:"instance,omitempty"` // of a cloud's AK certificate
	Problem   string                `json:"problem,omitempty"`
}

// Inspect takes evidence apart without trusting it. What can be read is there,
// whatever else is wrong; the first structural fault is in [Unverified.Malformed].
// The error is for a body that is none; it is an *attest.Error of kind Malformed.
func Inspect(ev attest.Evidence) (*Unverified, error) {
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		return nil, err
	}
	u := &Unverified{PCRs: make(map[uint32]attest.Bytes, len(body.PCRs)), EventLogDigest: body.EventLogDigest, EventLogSize: len(ev.EventLog)}
	for i, v := range body.PCRs {
		u.PCRs[i] = v
	}
	if q, err := parseAttested(body.Quote, typeQuote); err == nil {
		u.Quote = describeQuote(q)
	}
	if s, err := parseSignature(body.Signature); err == nil {
		u.Signature = algName(s.scheme) + " with " + algName(s.hash)
	}
	u.AK, u.EK = inspectKey(body.AKPublic), inspectKey(body.EKPublic)
	u.AKCertificate, u.EKCertificate = inspectCertificate(body.AKCertificate), inspectCertificate(body.EKCertificate)
	for _, der := range ev.Endorsements {
		if c := inspectCertificate(der); c != nil {
			u.Endorsements = append(u.Endorsements, *c)
		}
	}
	for _, c := range body.Certified {
		if k := inspectKey(c.Public); k != nil {
			u.Certified = append(u.Certified, *k)
		}
	}
	_, u.Malformed = (&Verifier{cache: newCache(0)}).read(ev)
	return u, nil
}

func describeQuote(q *attested) *UnverifiedQuote {
	u := &UnverifiedQuote{
		Selection: make(map[string][]int), PCRDigest: q.digest, ExtraData: q.extra, QualifiedSigner: q.signer,
		Clock: q.clock, ResetCount: q.reset, RestartCount: q.restart, Firmware: q.firmware, Safe: q.safe,
	}
	for _, s := range q.selection {
		u.Selection[algName(s.bank)] = append(u.Selection[algName(s.bank)], s.indexes()...)
	}
	return u
}

// inspectKey describes a public area, or returns nil where it cannot be read.
func inspectKey(area []byte) *UnverifiedKey {
	if len(area) == 0 {
		return nil
	}
	p, err := parsePublic(area)
	if err != nil {
		return nil
	}
	u := &UnverifiedKey{Name: p.name, Type: curveName(p.curve), Scheme: algName(p.scheme), Attributes: fmt.Sprintf("0x%08x", p.attrs)}
	if p.alg == algRSA {
		u.Type = fmt.Sprintf("RSA-%d", p.bits)
	}
	if p.schemeHash != 0 {
		u.Scheme += " with " + algName(p.schemeHash)
	}
	if p.spki != nil {
		sum := p.digest()
		u.SPKI = sum[:]
	}
	return u
}

// inspectCertificate describes a certificate, or returns nil for none.
func inspectCertificate(der []byte) *UnverifiedCertificate {
	if len(der) == 0 {
		return nil
	}
	c, err := parseDER(der)
	if err != nil {
		sum := sha256.Sum256(der)
		return &UnverifiedCertificate{SHA256: sum[:], Problem: err.Error()}
	}
	sum := sha256.Sum256(c.Raw)
	u := &UnverifiedCertificate{SHA256: sum[:], Subject: c.Subject.String(), Issuer: c.Issuer.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter, CA: c.IsCA}
	if names, err := tpmNames(c); err == nil {
		u.TPM = names
	}
	u.Instance = inspectInstance(c)
	return u
}

// inspectInstance reads the instance that any cloud's certificate would name.
func inspectInstance(c *x509.Certificate) *attest.CloudInstance {
	for _, provider := range []string{GCE, Azure} {
		if i, err := instanceOf(provider, c); err == nil {
			return i
		}
	}
	return nil
}
