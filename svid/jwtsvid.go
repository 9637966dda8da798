package svid

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// MaxJWTSize bounds a token, in bytes. AWS takes 20,000; ordinary attested ones
// have about 2,000 (docs/spec/attested-jwt-svid.md).
const MaxJWTSize = 16 << 10

// Limits on the parts of a token.
const (
	maxKeyID    = 256
	maxAudience = 64
)

// JWTSVID is a JWT-SVID that holds: of whatever issuer, attested or not. Only
// [VerifyJWTSVID] makes one.
type JWTSVID struct {
	ID        spiffeid.ID
	Audience  []string
	Expiry    time.Time
	IssuedAt  time.Time // zero without iat
	Issuer    string    // iss; empty without
	TokenID   string    // jti; empty without
	KeyID     string    // kid
	Algorithm string    // alg
	Payload   []byte    // the claims, JSON

	claims object
	key    crypto.PublicKey // which made the signature
}

// VerifyJWTSVID checks a JWT-SVID of any SPIFFE issuer: bundles is what is
// trusted, by trust domain; audience is whom the relying party calls itself; at is
// its time. It says nothing of attestation: that is [VerifyJWT]. The checks, in
// order:
//
//	token_size           Malformed: 1 to MaxJWTSize bytes
//	token_structure      Malformed: three parts of base64url without padding (JWS compact serialization)
//	token_json           Malformed: header and claims are JSON objects without a member twice
//	token_header         Malformed: alg, kid and typ, and nothing else: crit, jwk, x5c, … are refused
//	token_algorithm      Malformed: one of the nine that the JWT-SVID specification lists
//	token_type           Malformed: no typ, or JWT or JOSE
//	token_key_id         Malformed: kid, 1 to 256 bytes
//	token_subject        Malformed: sub is a SPIFFE ID with a path
//	token_audiences      Malformed: aud is there, 1 to 64 values, none empty
//	token_times          Malformed: exp is there; exp, nbf and iat are times
//	token_claims         Malformed: iss and jti are strings, where they are there
//	token_bundle         Untrusted: there is a JWT bundle for the ID's trust domain
//	token_key            Untrusted: kid names one of its keys
//	token_key_type       Untrusted: which is one for alg
//	token_signature      Untrusted: and made the signature
//	token_audience       Untrusted: audience is among aud
//	token_not_before     Stale: nbf is not more than MaxClockSkew ahead
//	token_future         Stale: nor is iat
//	token_expired        Stale: at < exp
func VerifyJWTSVID(token string, bundles jwtbundle.Source, audience string, at time.Time) (*JWTSVID, error) {
	if bundles == nil || at.IsZero() || audience == "" {
		return nil, fail(attest.Internal, "verify", "bundles, an audience and a time are needed")
	}
	u, err := parseJWT(token)
	if err != nil {
		return nil, err
	}
	return u.verified(bundles, audience, at)
}

// verified makes the checks that follow those of [parseJWT].
func (u *unverifiedJWT) verified(bundles jwtbundle.Source, audience string, at time.Time) (*JWTSVID, error) {
	key, err := authorityOf(&u.svid, bundles)
	if err != nil {
		return nil, err
	}
	if err := u.verify(key); err != nil {
		return nil, err
	}
	u.svid.key = key
	s := &u.svid
	if !slices.Contains(s.Audience, audience) {
		return nil, mismatch(attest.Untrusted, "token_audience", "the token is for somebody else", audience, strings.Join(s.Audience, " "))
	}
	if nbf, ok, _ := s.claims.seconds("nbf"); ok && unix(nbf).After(at.Add(MaxClockSkew)) {
		return nil, fail(attest.Stale, "token_not_before", "not valid before %s", stamp(unix(nbf)))
	}
	if err := s.current(at); err != nil {
		return nil, err
	}
	return s, nil
}

// authorityOf is the key of the bundle that the token names.
func authorityOf(s *JWTSVID, bundles jwtbundle.Source) (crypto.PublicKey, error) {
	td := s.ID.TrustDomain()
	bundle, err := bundles.GetJWTBundleForTrustDomain(td)
	if err == nil && bundle == nil {
		err = errors.New("the source returned nothing")
	}
	if err != nil {
		return nil, fail(attest.Untrusted, "token_bundle", "no JWT bundle for %s: %w", td, err)
	}
	key, ok := bundle.FindJWTAuthority(s.KeyID)
	if !ok {
		err := fail(attest.Untrusted, "token_key", "signed under the key id %.64q, which the JWT bundle of %s does not have", s.KeyID, td)
		err.Hint = "if the issuer has rotated its JWT authority, fetch the current bundle"
		return nil, err
	}
	return key, nil
}

// current makes those checks that time can change.
func (s *JWTSVID) current(at time.Time) error {
	if s.IssuedAt.After(at.Add(MaxClockSkew)) {
		return fail(attest.Stale, "token_future", "issued at %s, which is in the future", stamp(s.IssuedAt))
	}
	if !at.Before(s.Expiry) {
		return fail(attest.Stale, "token_expired", "expired at %s", stamp(s.Expiry))
	}
	return nil
}

// unverifiedJWT is a token whose structure was checked and whose signature was
// not.
type unverifiedJWT struct {
	svid      JWTSVID
	algorithm algorithm
	input     []byte // what was signed
	signature []byte
}

// parseJWT makes the checks that need no key.
func parseJWT(token string) (*unverifiedJWT, error) {
	if len(token) == 0 || len(token) > MaxJWTSize {
		return nil, fail(attest.Malformed, "token_size", "the token has %d bytes, want 1 to %d", len(token), MaxJWTSize)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fail(attest.Malformed, "token_structure", "%d parts, want 3", len(parts))
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		// Strict: one text for each value. Decode would skip line ends.
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil || len(p) == 0 || strings.ContainsAny(p, "\r\n") {
			return nil, fail(attest.Malformed, "token_structure", "part %d is not base64url", i+1)
		}
	}
	u := &unverifiedJWT{input: []byte(token[:len(parts[0])+1+len(parts[1])]), signature: raw[2]}
	if err := u.header(raw[0]); err != nil {
		return nil, err
	}
	return u, u.svid.read(raw[1])
}

// header reads the JOSE header. What the specification does not list must not be
// there (JWT-SVID, section 2): a parameter that is ignored here may be one that
// another library follows.
func (u *unverifiedJWT) header(b []byte) error {
	h, err := parseObject(b)
	if err != nil {
		return fail(attest.Malformed, "token_json", "the header: %w", err)
	}
	for name := range h {
		if name != "alg" && name != "kid" && name != "typ" {
			return fail(attest.Malformed, "token_header", "the header parameter %.40q is not allowed in a JWT-SVID", name)
		}
	}
	alg, err := h.text("alg")
	a, known := algorithms()[alg]
	if err != nil || !known {
		return mismatch(attest.Malformed, "token_algorithm", "not an algorithm of JWT-SVIDs", "ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384 or PS512", string(h["alg"]))
	}
	if typ, err := h.text("typ"); err != nil || h["typ"] != nil && typ != "JWT" && typ != "JOSE" {
		return mismatch(attest.Malformed, "token_type", "not the type of a JWT-SVID", "JWT or JOSE", string(h["typ"]))
	}
	kid, err := h.text("kid")
	if err != nil || kid == "" || len(kid) > maxKeyID {
		return fail(attest.Malformed, "token_key_id", "kid is not a string of 1 to %d bytes", maxKeyID)
	}
	u.algorithm, u.svid.Algorithm, u.svid.KeyID = a, alg, kid
	return nil
}

// read reads the claims.
func (s *JWTSVID) read(b []byte) error {
	c, err := parseObject(b)
	if err != nil {
		return fail(attest.Malformed, "token_json", "the claims: %w", err)
	}
	sub, err := c.text("sub")
	if err == nil {
		s.ID, err = spiffeid.FromString(sub)
	}
	if err == nil && s.ID.Path() == "" {
		err = errors.New("it names a trust domain, not a workload")
	}
	if err != nil {
		return fail(attest.Malformed, "token_subject", "the subject %.140q: %w", sub, err)
	}
	if s.Audience, err = c.list("aud"); err != nil {
		return fail(attest.Malformed, "token_audiences", "%w", err)
	}
	if len(s.Audience) == 0 || len(s.Audience) > maxAudience || slices.Contains(s.Audience, "") {
		return fail(attest.Malformed, "token_audiences", "aud has %d values, want 1 to %d, none of them empty", len(s.Audience), maxAudience)
	}
	exp, ok, err := c.seconds("exp")
	if err == nil && !ok {
		err = errors.New("exp is missing: a JWT-SVID must expire")
	}
	if err != nil {
		return fail(attest.Malformed, "token_times", "%w", err)
	}
	iat, issued, err := c.seconds("iat")
	if err != nil {
		return fail(attest.Malformed, "token_times", "%w", err)
	}
	if _, _, err := c.seconds("nbf"); err != nil {
		return fail(attest.Malformed, "token_times", "%w", err)
	}
	s.Expiry = unix(exp)
	if issued {
		s.IssuedAt = unix(iat)
	}
	if s.Issuer, err = c.text("iss"); err != nil {
		return fail(attest.Malformed, "token_claims", "%w", err)
	}
	if s.TokenID, err = c.text("jti"); err != nil {
		return fail(attest.Malformed, "token_claims", "%w", err)
	}
	s.claims, s.Payload = c, bytes.Clone(b)
	return nil
}

// verify checks the signature with the key that the bundle has under kid.
func (u *unverifiedJWT) verify(key crypto.PublicKey) error {
	if err := u.algorithm.fits(key); err != nil {
		return fail(attest.Untrusted, "token_key_type", "the token says %s: %w", u.svid.Algorithm, err)
	}
	if err := u.algorithm.verify(key, u.input, u.signature); err != nil {
		return fail(attest.Untrusted, "token_signature", "%w", err)
	}
	return nil
}

// compactJSON writes JSON for a token: without white space, and without the
// escapes that only HTML needs.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
