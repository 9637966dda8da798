package svid

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// The profiles (EAT, RFC 9711, section 6) of the claims set and of its one
// submodule. Another version of the format has another profile, and is refused.
const (
	profileEAR  = "tag:ietf.org,2026:rats/ear#04"
	profileSVID = "tag:github.com,2026:assay-project/svid#1"
)

// Limits on the parts of a result. All of it is bounded by MaxResultSize too.
const (
	maxMeasurements    = 48
	maxMeasurementName = 32
	maxMeasurement     = 64 // bytes: SHA-512 is the longest digest
	maxAttributes      = 32
	maxAttributeKey    = 64
	maxAttributeValue  = 256
	maxPolicy          = 128
	maxVerifierID      = 128
	maxTime            = 253402300799 // 9999-12-31T23:59:59Z
)

// claimsSet is the CWT claims set. Keys: RFC 8392 (1–6), RFC 8747 (8), RFC 9711
// (265, 266), draft-ietf-rats-ear-04 (1004).
type claimsSet struct {
	Issuer     string               `cbor:"1,keyasint"`
	Subject    string               `cbor:"2,keyasint"`
	Expiry     int64                `cbor:"4,keyasint"`
	IssuedAt   int64                `cbor:"6,keyasint"`
	Confirm    confirmation         `cbor:"8,keyasint"`
	Profile    string               `cbor:"265,keyasint"`
	Submods    map[string]appraisal `cbor:"266,keyasint"`
	VerifierID verifierIDClaim      `cbor:"1004,keyasint"`
}

// confirmation is the ckt method (RFC 9679, section 5.6).
type confirmation struct {
	Thumbprint []byte `cbor:"5,keyasint"`
}

type verifierIDClaim struct {
	Developer string `cbor:"0,keyasint"`
	Build     string `cbor:"1,keyasint"`
}

// appraisal is an EAR-appraisal (draft-ietf-rats-ear-04, section 3.1).
type appraisal struct {
	Profile  string          `cbor:"265,keyasint"`
	Status   uint8           `cbor:"1000,keyasint"`
	Vector   map[int]int8    `cbor:"1001,keyasint"`
	Policies []string        `cbor:"1003,keyasint"`
	Attester *attesterClaims `cbor:"1005,keyasint,omitempty"`
	Verifier verifierClaims  `cbor:"1006,keyasint"`
}

// attesterClaims are facts that the evidence states. The labels here and below
// are from CWT's private-use range.
type attesterClaims struct {
	Measurements map[string][]byte `cbor:"-65542,keyasint"`
}

// verifierClaims are what this verifier adds.
type verifierClaims struct {
	Simulated      *bool             `cbor:"-65537,keyasint"`
	EvidenceTime   int64             `cbor:"-65538,keyasint"`
	EvidenceDigest []byte            `cbor:"-65539,keyasint"`
	PolicyDigest   []byte            `cbor:"-65540,keyasint"`
	Attributes     map[string]string `cbor:"-65541,keyasint,omitempty"`
}

// appraisal is the result's submodule.
func (r *Result) appraisal() appraisal {
	sub := appraisal{
		Profile:  profileSVID,
		Status:   uint8(r.Status),
		Vector:   make(map[int]int8),
		Policies: []string{r.Policy},
		Verifier: verifierClaims{
			Simulated:      &r.Simulated,
			EvidenceTime:   r.EvidenceTime.Unix(),
			EvidenceDigest: r.EvidenceDigest,
			PolicyDigest:   r.PolicyDigest,
			Attributes:     r.Attributes,
		},
	}
	for i, c := range r.Vector {
		if c != 0 {
			sub.Vector[i] = int8(c)
		}
	}
	if len(r.Measurements) > 0 {
		sub.Attester = &attesterClaims{Measurements: make(map[string][]byte, len(r.Measurements))}
		for name, v := range r.Measurements {
			sub.Attester.Measurements[name] = v
		}
	}
	return sub
}

func (r *Result) encode() ([]byte, error) {
	return encMode.Marshal(claimsSet{
		Issuer:     r.Issuer,
		Subject:    r.Subject,
		Expiry:     r.Expiry.Unix(),
		IssuedAt:   r.IssuedAt.Unix(),
		Confirm:    confirmation{r.KeyThumbprint[:]},
		Profile:    profileEAR,
		Submods:    map[string]appraisal{string(r.Platform): r.appraisal()},
		VerifierID: verifierIDClaim(r.VerifierID),
	})
}

// decodeResult reads a claims set. Claims that it does not know are ignored, as
// EAR demands; of those that it knows none may be missing or out of range. All
// errors are Malformed:
//
//	claims_structure     deterministic CBOR, types
//	claims_profile       both profiles are the ones of this format
//	claims_identity      iss is a trust domain's ID, sub a SPIFFE ID in it
//	claims_time          iat < exp, evidence not after iat
//	claims_key           cnf holds a thumbprint of 32 bytes
//	claims_verifier      developer and build
//	claims_submods       exactly one, named after a platform
//	claims_vector        known aspects only, at least one claim
//	claims_status        a tier, and no better than the worst entry of the vector
//	claims_policy        exactly one policy, and its digest of 32 bytes
//	claims_evidence      the salted digest of 48 bytes
//	claims_simulated     present
//	claims_measurements  names and lengths
//	claims_attributes    names and lengths
func decodeResult(payload []byte) (*Result, error) {
	var c claimsSet
	if err := decode(payload, &c); err != nil {
		return nil, fail(attest.Malformed, "claims_structure", "%w", err)
	}
	r := &Result{
		Issuer:     c.Issuer,
		Subject:    c.Subject,
		IssuedAt:   unix(c.IssuedAt),
		Expiry:     unix(c.Expiry),
		VerifierID: VerifierID(c.VerifierID),
	}
	if c.Profile != profileEAR {
		return nil, mismatch(attest.Malformed, "claims_profile", "another profile of the claims set", profileEAR, c.Profile)
	}
	if err := identityClaims(c.Issuer, c.Subject); err != nil {
		return nil, fail(attest.Malformed, "claims_identity", "%w", err)
	}
	if c.IssuedAt <= 0 || c.Expiry > maxTime || c.IssuedAt >= c.Expiry {
		return nil, fail(attest.Malformed, "claims_time", "issued at %d, expires at %d", c.IssuedAt, c.Expiry)
	}
	if len(c.Confirm.Thumbprint) != len(r.KeyThumbprint) {
		return nil, fail(attest.Malformed, "claims_key", "the confirmation holds no thumbprint of %d bytes", len(r.KeyThumbprint))
	}
	copy(r.KeyThumbprint[:], c.Confirm.Thumbprint)
	if err := r.VerifierID.check(); err != nil {
		return nil, err
	}
	if len(c.Submods) != 1 {
		return nil, fail(attest.Malformed, "claims_submods", "%d submodules, want 1", len(c.Submods))
	}
	for label, sub := range c.Submods {
		p, err := attest.ParsePlatform(label)
		if err != nil {
			return nil, fail(attest.Malformed, "claims_submods", "%w", errors.Unwrap(err))
		}
		r.Platform = p
		if err := r.appraised(sub); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (v VerifierID) check() error {
	for _, s := range []string{v.Developer, v.Build} {
		if s == "" || len(s) > maxVerifierID {
			return fail(attest.Malformed, "claims_verifier", "developer and build must have 1 to %d bytes", maxVerifierID)
		}
	}
	return nil
}

// appraised fills in the submodule.
func (r *Result) appraised(sub appraisal) error {
	if sub.Profile != profileSVID {
		return mismatch(attest.Malformed, "claims_profile", "another profile of the submodule", profileSVID, sub.Profile)
	}
	for aspect, c := range sub.Vector {
		if aspect < 0 || aspect >= int(aspects) || c == 0 {
			return fail(attest.Malformed, "claims_vector", "entry %d: %d", aspect, c)
		}
		r.Vector[aspect] = Claim(c)
	}
	if len(sub.Vector) == 0 {
		return fail(attest.Malformed, "claims_vector", "no entry")
	}
	r.Status = Tier(sub.Status)
	if !r.Status.known() || r.Status.AtLeast(r.Vector.Status()) && r.Status != r.Vector.Status() {
		return mismatch(attest.Malformed, "claims_status", "the status is not the worst entry of the vector", r.Vector.Status().String(), r.Status.String())
	}
	if len(sub.Policies) != 1 || sub.Policies[0] == "" || len(sub.Policies[0]) > maxPolicy {
		return fail(attest.Malformed, "claims_policy", "want one policy of 1 to %d bytes", maxPolicy)
	}
	v := sub.Verifier
	if len(v.PolicyDigest) != 32 {
		return fail(attest.Malformed, "claims_policy", "the policy digest has %d bytes, want 32", len(v.PolicyDigest))
	}
	if v.EvidenceTime <= 0 || v.EvidenceTime > r.IssuedAt.Unix() {
		return fail(attest.Malformed, "claims_time", "evidence of %d, issued at %d", v.EvidenceTime, r.IssuedAt.Unix())
	}
	if len(v.EvidenceDigest) != saltSize+32 {
		return fail(attest.Malformed, "claims_evidence", "the salted digest has %d bytes, want %d", len(v.EvidenceDigest), saltSize+32)
	}
	if v.Simulated == nil {
		return fail(attest.Malformed, "claims_simulated", "the result does not say whether it is simulated")
	}
	r.Policy, r.PolicyDigest = sub.Policies[0], v.PolicyDigest
	r.EvidenceTime, r.EvidenceDigest = unix(v.EvidenceTime), v.EvidenceDigest
	r.Simulated = *v.Simulated
	if sub.Attester != nil {
		if err := r.measured(sub.Attester.Measurements); err != nil {
			return err
		}
	}
	return r.attributed(v.Attributes)
}

func (r *Result) measured(ms map[string][]byte) error {
	if len(ms) == 0 || len(ms) > maxMeasurements {
		return fail(attest.Malformed, "claims_measurements", "%d measurements, want 1 to %d", len(ms), maxMeasurements)
	}
	r.Measurements = make(map[string]attest.Bytes, len(ms))
	for name, v := range ms {
		if !validName(name) {
			return fail(attest.Malformed, "claims_measurements", "the name %.40q", name)
		}
		if len(v) == 0 || len(v) > maxMeasurement {
			return fail(attest.Malformed, "claims_measurements", "%s has %d bytes, want 1 to %d", name, len(v), maxMeasurement)
		}
		r.Measurements[name] = v
	}
	return nil
}

func (r *Result) attributed(attrs map[string]string) error {
	if attrs != nil && len(attrs) == 0 || len(attrs) > maxAttributes {
		return fail(attest.Malformed, "claims_attributes", "%d attributes, want 1 to %d, or none at all", len(attrs), maxAttributes)
	}
	for k, v := range attrs {
		if k == "" || len(k) > maxAttributeKey || len(v) > maxAttributeValue {
			return fail(attest.Malformed, "claims_attributes", "attribute %.40q: want a name of 1 to %d bytes and a value of at most %d", k, maxAttributeKey, maxAttributeValue)
		}
	}
	r.Attributes = attrs
	return nil
}

// identityClaims checks that iss is "spiffe://" and a trust domain, and that
// sub is a SPIFFE ID of that trust domain with a path.
func identityClaims(iss, sub string) error {
	td, err := spiffeid.TrustDomainFromString(iss)
	if err != nil || td.IDString() != iss {
		return fmt.Errorf("the issuer %.140q is not the ID of a trust domain", iss)
	}
	id, err := spiffeid.FromString(sub)
	if err != nil {
		return fmt.Errorf("the subject %.140q is not a SPIFFE ID", sub)
	}
	if id.Path() == "" {
		return fmt.Errorf("the subject %.140q has no path: it names a trust domain", sub)
	}
	if !id.MemberOf(td) {
		return fmt.Errorf("the subject %.140q is not of the issuer's trust domain %.140q", sub, iss)
	}
	return nil
}

// validName accepts the names that measurements have in policies.
func validName(s string) bool {
	if s == "" || len(s) > maxMeasurementName {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.'
	}) < 0
}

// unix is time.Unix in UTC, kept within the range that a time can print.
func unix(sec int64) time.Time {
	return time.Unix(min(max(sec, math.MinInt32), maxTime), 0).UTC()
}
