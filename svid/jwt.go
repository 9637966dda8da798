package svid

import (
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// The claims of an attested JWT-SVID that are not registered ones.
const (
	claimAttestation = "assay"
	claimAWSTags     = "https://aws.amazon.com/tags"
)

// serialSize is that of a serial number, in bytes.
const serialSize = 16

// jwtVersion is the version of the attestation claim. Another one is refused.
const jwtVersion = 1

// JWT is an attested JWT-SVID, for those who issue it
// (docs/spec/attested-jwt-svid.md).
type JWT struct {
	ID spiffeid.ID // sub
	// Issuer is the URL under which OIDC relying parties find the discovery
	// document; empty leaves iss out.
	Issuer   string
	Audience []string // at least one
	TokenID  string   // jti
	IssuedAt time.Time
	Expiry   time.Time
	// Serial is that of the X.509-SVID that asked for the token, 32 hex digits: it
	// is how a deny-list finds the token.
	Serial string
	// Result is that of the same X.509-SVID. Its subject must be ID; issuer, times
	// and key of the result are not written: the token has its own.
	Result Result
	// Attributes are those of the result that the policy in force still gives.
	Attributes map[string]string
	// AWSTags become AWS session tags; empty leaves the claim out.
	AWSTags map[string]string
}

// The claims, in the order in which they are written.
type (
	jwtClaims struct {
		Issuer      string     `json:"iss,omitempty"`
		Subject     string     `json:"sub"`
		Audience    any        `json:"aud"` // a string, or an array of them
		Expiry      int64      `json:"exp"`
		IssuedAt    int64      `json:"iat"`
		TokenID     string     `json:"jti"`
		Attestation jwtResult  `json:"assay"`
		AWS         *awsClaims `json:"https://aws.amazon.com/tags,omitempty"`
	}
	jwtResult struct {
		Version        int               `json:"v"`
		Platform       string            `json:"tee"`
		Simulated      bool              `json:"simulated"`
		Status         string            `json:"status"`
		Vector         Vector            `json:"vector"`
		Policy         string            `json:"policy"`
		PolicyDigest   string            `json:"policy_digest"`
		Measurements   map[string]string `json:"measurements,omitempty"`
		Attributes     map[string]string `json:"attributes,omitempty"`
		EvidenceTime   int64             `json:"evidence_time"`
		EvidenceDigest string            `json:"evidence_digest"`
		Verifier       VerifierID        `json:"verifier"`
		Serial         string            `json:"serial"`
	}
	awsClaims struct {
		PrincipalTags map[string][]string `json:"principal_tags"`
	}
)

// Sign writes the token and signs it with ES256; the key must be on P-256, and
// its thumbprint becomes kid. A token that a relying party would refuse is not
// signed, and a signature that the key did not make is not handed out: the error is
// Internal then. That of a signer which is away is Unavailable, as the signer says.
func (j *JWT) Sign(key crypto.Signer) (string, error) {
	pub, err := p256(key.Public())
	if err != nil {
		return "", fail(attest.Internal, "token_sign", "%w", err)
	}
	kid, err := JWKThumbprint(pub)
	if err != nil {
		return "", fail(attest.Internal, "token_sign", "%w", err)
	}
	payload, err := j.encode()
	if err != nil {
		return "", fail(attest.Internal, "token_encode", "%w", err)
	}
	header, err := compactJSON(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}{attestedAlgorithm, kid, "JWT"})
	if err != nil {
		return "", fail(attest.Internal, "token_encode", "%w", err)
	}
	b64 := base64.RawURLEncoding
	size := b64.EncodedLen(len(header)) + 1 + b64.EncodedLen(len(payload)) + 1 + b64.EncodedLen(signatureSize)
	if size > MaxJWTSize {
		return "", fail(attest.Internal, "token_size", "the token has %d bytes, at most %d are allowed: publish less, or shorten the attributes", size, MaxJWTSize)
	}
	out := make([]byte, 0, size)
	out = b64.AppendEncode(out, header)
	out = append(out, '.')
	out = b64.AppendEncode(out, payload)
	sig, err := es256Signer{key}.Sign(rand.Reader, out)
	if attest.KindOf(err) == attest.Unavailable {
		return "", err // a signer elsewhere that is away
	}
	if err != nil {
		return "", fail(attest.Internal, "token_sign", "%w", err)
	}
	// A signer that errs (a fault, a token that holds another key) must not err unseen.
	if err := algorithms()[attestedAlgorithm].verify(pub, out, sig); err != nil {
		return "", fail(attest.Internal, "token_sign", "%w", err)
	}
	out = append(out, '.')
	return string(b64.AppendEncode(out, sig)), nil
}

// check makes the decoder's checks on what is to be signed.
func (j *JWT) check() error {
	r := j.Result // a copy: the checks fill in what they read
	sub := r.appraisal()
	if sub.Verifier.Attributes = nil; len(j.Attributes) > 0 {
		sub.Verifier.Attributes = j.Attributes
	}
	switch serial, err := hex.DecodeString(j.Serial); {
	case r.Subject != j.ID.String():
		return fmt.Errorf("the result is about %s, the token about %s", r.Subject, j.ID)
	case j.ID.Path() == "":
		return fmt.Errorf("the subject %q names no workload", j.ID)
	case j.TokenID == "":
		return errors.New("a token has an id")
	case len(j.Audience) == 0 || len(j.Audience) > maxAudience || slices.Contains(j.Audience, ""):
		return fmt.Errorf("%d audiences, want 1 to %d, none of them empty", len(j.Audience), maxAudience)
	case j.IssuedAt.Unix() <= 0 || j.Expiry.Unix() > maxTime || j.IssuedAt.Unix() >= j.Expiry.Unix():
		return fmt.Errorf("issued at %s, expires at %s", stamp(j.IssuedAt), stamp(j.Expiry))
	case err != nil || len(serial) != serialSize || strings.ToLower(j.Serial) != j.Serial:
		return errors.New("the serial number is not 32 digits of lower-case hex")
	}
	if _, err := attest.ParsePlatform(string(r.Platform)); err != nil {
		return err
	}
	if err := r.VerifierID.check(); err != nil {
		return err
	}
	r.IssuedAt = unix(j.IssuedAt.Unix())
	if err := r.appraised(sub); err != nil {
		return err
	}
	// The encoder would replace bytes that are not UTF-8, and sign another text.
	for _, texts := range []iter.Seq[string]{maps.Keys(j.Attributes), maps.Values(j.Attributes), maps.Keys(j.AWSTags), maps.Values(j.AWSTags), slices.Values(j.Audience),
		slices.Values([]string{j.Issuer, j.TokenID, r.Policy, r.VerifierID.Developer, r.VerifierID.Build})} {
		for s := range texts {
			if !utf8.ValidString(s) {
				return fmt.Errorf("a text is not UTF-8: %.40q", s)
			}
		}
	}
	return nil
}

// encode writes the claims.
func (j *JWT) encode() ([]byte, error) {
	if err := j.check(); err != nil {
		return nil, err
	}
	r := &j.Result
	c := jwtClaims{
		Issuer: j.Issuer, Subject: j.ID.String(), Audience: j.Audience, Expiry: j.Expiry.Unix(), IssuedAt: j.IssuedAt.Unix(), TokenID: j.TokenID,
		Attestation: jwtResult{
			Version: jwtVersion, Platform: string(r.Platform), Simulated: r.Simulated, Status: r.Status.String(), Vector: r.Vector,
			Policy: r.Policy, PolicyDigest: r.PolicyDigest.String(), Attributes: j.Attributes,
			EvidenceTime: r.EvidenceTime.Unix(), EvidenceDigest: r.EvidenceDigest.String(), Verifier: r.VerifierID, Serial: j.Serial,
		},
	}
	if len(j.Audience) == 1 {
		c.Audience = j.Audience[0] // the form of RFC 7519 for one, which everybody reads
	}
	if len(r.Measurements) > 0 {
		c.Attestation.Measurements = make(map[string]string, len(r.Measurements))
		for name, v := range r.Measurements {
			c.Attestation.Measurements[name] = v.String()
		}
	}
	if len(j.AWSTags) > 0 {
		c.AWS = &awsClaims{PrincipalTags: make(map[string][]string, len(j.AWSTags))}
		for k, v := range j.AWSTags {
			c.AWS.PrincipalTags[k] = []string{v}
		}
	}
	return compactJSON(c)
}

// attestation reads the claims of an attested token, whose signature is for the
// caller to verify. Members of the attestation claim that it does not know are
// ignored; of those that it knows none may be missing or out of range. The checks:
//
//	attestation_missing    Untrusted: the attestation claim is there
//	attestation_structure  Malformed: an object, its members of the right types
//	attestation_version    Malformed: of this version
//	attestation_serial     Malformed: 32 digits of lower-case hex
//	attestation_token      Malformed: iat and jti are there
//	claims_…               Malformed: as in an X.509-SVID's result
func (s *JWTSVID) attestation() (*Result, string, error) {
	raw, ok := s.claims[claimAttestation]
	if !ok {
		err := fail(attest.Untrusted, "attestation_missing", "the token holds no attestation claim")
		err.Hint = "an ordinary JWT-SVID: VerifyJWTSVID, or any SPIFFE library, checks its name alone"
		return nil, "", err
	}
	c, err := members(raw)
	if err != nil {
		return nil, "", fail(attest.Malformed, "attestation_structure", "%w", err)
	}
	if string(c["v"]) != fmt.Sprint(jwtVersion) {
		return nil, "", mismatch(attest.Malformed, "attestation_version", "another version of the attestation claim", fmt.Sprint(jwtVersion), string(c["v"]))
	}
	if s.TokenID == "" || s.IssuedAt.IsZero() {
		return nil, "", fail(attest.Malformed, "attestation_token", "an attested token has an iat and a jti")
	}
	r := &Result{Issuer: s.ID.TrustDomain().IDString(), Subject: s.ID.String(), IssuedAt: s.IssuedAt, Expiry: s.Expiry}
	if !s.IssuedAt.Before(s.Expiry) {
		return nil, "", fail(attest.Malformed, "claims_time", "issued at %d, expires at %d", s.IssuedAt.Unix(), s.Expiry.Unix())
	}
	sub, err := c.appraisal(r)
	if err != nil {
		return nil, "", err
	}
	if err := r.appraised(sub); err != nil {
		return nil, "", err
	}
	serial, err := c.text("serial")
	if b, herr := hex.DecodeString(serial); err != nil || herr != nil || len(b) != serialSize || strings.ToLower(serial) != serial {
		return nil, "", fail(attest.Malformed, "attestation_serial", "serial is not 32 digits of lower-case hex")
	}
	return r, serial, nil
}

// appraisal turns the claim into what an X.509-SVID's result holds, so that one
// set of checks is run on both.
func (o object) appraisal(r *Result) (appraisal, error) {
	var first error
	keep := func(err error) {
		if first == nil && err != nil {
			first = err
		}
	}
	text := func(name string) string {
		s, err := o.text(name)
		keep(err)
		return s
	}
	octets := func(name, s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil || strings.ToLower(s) != s {
			keep(fmt.Errorf("%s is not lower-case hex", name))
		}
		return b
	}
	platform, perr := attest.ParsePlatform(text("tee"))
	if perr != nil {
		return appraisal{}, fail(attest.Malformed, "claims_submods", "%w", perr)
	}
	r.Platform = platform
	var status Tier
	keep(status.UnmarshalText([]byte(text("status"))))
	var vector Vector
	keep(vector.UnmarshalJSON(notNull(o["vector"])))
	sub := appraisal{Profile: profileSVID, Status: uint8(status), Vector: map[int]int8{}, Policies: []string{text("policy")}}
	for i, c := range vector {
		if c != 0 {
			sub.Vector[i] = int8(c)
		}
	}
	evidence, err := o.integer("evidence_time", 0, maxTime)
	keep(err)
	sub.Verifier = verifierClaims{EvidenceTime: evidence, EvidenceDigest: octets("evidence_digest", text("evidence_digest")), PolicyDigest: octets("policy_digest", text("policy_digest"))}
	switch string(o["simulated"]) {
	case "true", "false":
		simulated := string(o["simulated"]) == "true"
		sub.Verifier.Simulated = &simulated
	case "":
	default:
		keep(errors.New("simulated is neither true nor false"))
	}
	sub.Verifier.Attributes, err = o.texts("attributes")
	keep(err)
	measurements, err := o.texts("measurements")
	keep(err)
	if measurements != nil {
		sub.Attester = &attesterClaims{Measurements: make(map[string][]byte, len(measurements))}
		for _, name := range slices.Sorted(maps.Keys(measurements)) {
			sub.Attester.Measurements[name] = octets(name, measurements[name])
		}
	}
	verifier, err := members(o["verifier"])
	keep(err)
	r.VerifierID.Developer, err = verifier.text("developer")
	keep(err)
	r.VerifierID.Build, err = verifier.text("build")
	keep(err)
	if first != nil {
		return appraisal{}, fail(attest.Malformed, "attestation_structure", "%w", first)
	}
	return sub, r.VerifierID.check()
}

// notNull keeps a missing value, and null, from being read as an empty one.
func notNull(v json.RawMessage) json.RawMessage {
	if len(v) == 0 || string(v) == "null" {
		return json.RawMessage("false")
	}
	return v
}
