package svid

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/assay-project/assay/attest"
)

const audience = "reports.example.org"

// tokenOf is an ordinary token of an appraisal.
func tokenOf(t testing.TB, a Appraisal) *JWT {
	t.Helper()
	r := appraised(t, a)
	return &JWT{
		ID: spiffeid.RequireFromString(r.Subject), Issuer: "https://oidc.example.org", Audience: []string{audience},
		TokenID: "0123456789abcdef0123456789abcdef", IssuedAt: issued, Expiry: issued.Add(5 * time.Minute),
		Serial: "00112233445566778899aabbccddeeff", Result: *r, Attributes: r.Attributes,
	}
}

func signedToken(t testing.TB, j *JWT) string {
	t.Helper()
	token, err := j.Sign(testKey(t, "jwt"))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// authorities is the JWT bundle of the trust domain, with these keys beside the
// one that signs.
func authorities(t testing.TB, td string, more ...crypto.PublicKey) *jwtbundle.Bundle {
	t.Helper()
	b := jwtbundle.New(spiffeid.RequireTrustDomainFromString(td))
	for _, k := range append(more, testKey(t, "jwt").Public()) {
		kid, err := JWKThumbprint(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.AddJWTAuthority(kid, k); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestAnAttestedTokenHolds(t *testing.T) {
	a := nitroAppraisal()
	a.Attributes = map[string]string{"team": "core & <more>", "tier": "gold"}
	j := tokenOf(t, a)
	j.AWSTags = map[string]string{"team": "core"}
	got, err := VerifyJWT(signedToken(t, j), authorities(t, "attested.example.org"), audience, issued.Add(time.Minute),
		ID(j.ID), Tee(attest.AWSNitro), PCR(0, register("0")), MinTier(Affirming), Owned(), MaxAge(2*time.Minute), Policy("prod@7"), Attribute("tier", "gold"))
	if err != nil {
		t.Fatal(err)
	}
	want := j.Result
	want.Expiry, want.KeyThumbprint = j.Expiry, Thumbprint{}
	if diff := cmp.Diff(want, got.Result); diff != "" {
		t.Errorf("what the token says is not what the X.509-SVID says: %s", diff)
	}
	if got.Certificate != nil || got.Token == nil || got.Token.ID != j.TokenID || got.Serial() != j.Serial || got.Token.Issuer != j.Issuer || !got.Token.Expiry.Equal(j.Expiry) {
		t.Errorf("got %+v, %+v", got, got.Token)
	}
	if !got.Result.IsOf(a.EvidenceDigest) {
		t.Error("an auditor cannot match the token to its evidence")
	}
}

func TestATokenCanBeCheckedAgainUntilItExpires(t *testing.T) {
	j := tokenOf(t, nitroAppraisal())
	got, err := VerifyJWT(signedToken(t, j), authorities(t, "attested.example.org"), audience, issued)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(j.Expiry.Add(-time.Second)); err != nil {
		t.Error(err)
	}
	wantError(t, got.Check(j.Expiry), attest.Stale, "token_expired")
	wantError(t, got.Check(issued.Add(-2*time.Minute)), attest.Stale, "token_future")
	wantError(t, got.Check(issued, Attribute("tier", "gold")), attest.Denied, "attribute")
	wantError(t, (&Attested{ID: got.ID, Token: &Token{}}).Check(issued), attest.Internal, "verify")
	both := *got
	both.Certificate = nil
	both.Token = nil
	wantError(t, both.Check(issued), attest.Internal, "verify")
	if both.Serial() != "" {
		t.Error("a serial number of nothing")
	}
}

func TestEveryPlatformHasTokens(t *testing.T) {
	for name, a := range map[string]Appraisal{"nitro": nitroAppraisal(), "snp": snpAppraisal()} {
		j := tokenOf(t, a)
		token := signedToken(t, j)
		got, err := VerifyJWT(token, authorities(t, "attested.example.org"), audience, issued)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Result.Platform != a.Claims.Platform {
			t.Errorf("%s: got %s", name, got.Result.Platform)
		}
		t.Logf("%s: a token of %d bytes", name, len(token))
		if len(token) > 2600 {
			t.Errorf("%s: an ordinary token has %d bytes; the documents say about 2,000", name, len(token))
		}
	}
}

func TestASimulatedTokenIsRefusedUnlessAskedForByName(t *testing.T) {
	token := signedToken(t, tokenOf(t, simulatedAppraisal()))
	b := authorities(t, "simulated.attested.example.org")
	_, err := VerifyJWT(token, b, audience, issued)
	wantError(t, err, attest.Denied, "simulated")
	if _, err := VerifyJWT(token, b, audience, issued, Simulated()); err != nil {
		t.Error(err)
	}
}

func TestAContraindicatedTokenIsRefused(t *testing.T) {
	_, err := VerifyJWT(signedToken(t, tokenOf(t, debugAppraisal())), authorities(t, "attested.example.org"), audience, issued)
	wantError(t, err, attest.Denied, "tier")
}

// forge is a token with any header and any claims, signed by the right key.
type forge struct {
	header, claims map[string]any
	rawHeader      string // instead of header
	rawClaims      string // instead of claims
}

func forgedToken(t testing.TB) *forge {
	t.Helper()
	kid, err := JWKThumbprint(testKey(t, "jwt").Public())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := tokenOf(t, nitroAppraisal()).encode()
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{header: map[string]any{"alg": "ES256", "kid": kid, "typ": "JWT"}}
	if err := json.Unmarshal(payload, &f.claims); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *forge) attestation() map[string]any { return f.claims["assay"].(map[string]any) }

func (f *forge) text(t testing.TB) (header, claims []byte) {
	t.Helper()
	header, claims = []byte(f.rawHeader), []byte(f.rawClaims)
	var err error
	if f.rawHeader == "" {
		if header, err = compactJSON(f.header); err != nil {
			t.Fatal(err)
		}
	}
	if f.rawClaims == "" {
		if claims, err = compactJSON(f.claims); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

func (f *forge) token(t testing.TB, key crypto.Signer) string {
	t.Helper()
	header, claims := f.text(t)
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(header) + "." + b64(claims)
	sig, err := es256Signer{key}.Sign(rand.Reader, []byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

// Every check, and a token that fails it and no other: the signature is good.
func TestATokenIsRefusedForEachThingThatIsWrongWithIt(t *testing.T) {
	set := func(name string, v any) func(*forge) { return func(f *forge) { f.claims[name] = v } }
	head := func(name string, v any) func(*forge) { return func(f *forge) { f.header[name] = v } }
	att := func(name string, v any) func(*forge) { return func(f *forge) { f.attestation()[name] = v } }
	del := func(name string) func(*forge) { return func(f *forge) { delete(f.claims, name) } }
	delAtt := func(name string) func(*forge) { return func(f *forge) { delete(f.attestation(), name) } }
	insert := func(text string) func(*forge) {
		return func(f *forge) {
			b, _ := compactJSON(f.claims)
			f.rawClaims = text + string(b[1:])
		}
	}
	later := issued.Add(2 * time.Minute).Unix()
	type row struct {
		name   string
		change func(*forge)
		kind   attest.Kind
		check  string
	}
	m, u, s, d := attest.Malformed, attest.Untrusted, attest.Stale, attest.Denied
	for _, r := range []row{
		{"header is no JSON", func(f *forge) { f.rawHeader = "{" }, m, "token_json"},
		{"header is an array", func(f *forge) { f.rawHeader = "[]" }, m, "token_json"},
		{"header with alg twice", func(f *forge) { f.rawHeader = `{"alg":"ES256","alg":"ES256","kid":"k"}` }, m, "token_json"},
		{"crit", head("crit", []string{"exp"}), m, "token_header"},
		{"crit that is empty", head("crit", []string{}), m, "token_header"},
		{"b64", head("b64", false), m, "token_header"},
		{"jwk", head("jwk", map[string]string{"kty": "EC"}), m, "token_header"},
		{"jku", head("jku", "https://evil.example/keys"), m, "token_header"},
		{"x5c", head("x5c", []string{"MIIB"}), m, "token_header"},
		{"x5u", head("x5u", "https://evil.example"), m, "token_header"},
		{"cty", head("cty", "JWT"), m, "token_header"},
		{"a header parameter in capitals", head("ALG", "none"), m, "token_header"},
		{"alg none", head("alg", "none"), m, "token_algorithm"},
		{"alg HS256", head("alg", "HS256"), m, "token_algorithm"},
		{"alg EdDSA", head("alg", "EdDSA"), m, "token_algorithm"},
		{"alg in small letters", head("alg", "es256"), m, "token_algorithm"},
		{"no alg", func(f *forge) { delete(f.header, "alg") }, m, "token_algorithm"},
		{"alg null", head("alg", nil), m, "token_algorithm"},
		{"alg a list", head("alg", []string{"ES256"}), m, "token_algorithm"},
		{"typ at+jwt", head("typ", "at+jwt"), m, "token_type"},
		{"typ wit+jwt", head("typ", "wit+jwt"), m, "token_type"},
		{"typ in small letters", head("typ", "jwt"), m, "token_type"},
		{"typ empty", head("typ", ""), m, "token_type"},
		{"typ null", head("typ", nil), m, "token_type"},
		{"no kid", func(f *forge) { delete(f.header, "kid") }, m, "token_key_id"},
		{"kid empty", head("kid", ""), m, "token_key_id"},
		{"kid a number", head("kid", 1), m, "token_key_id"},
		{"kid too long", head("kid", strings.Repeat("k", 257)), m, "token_key_id"},
		{"claims are no JSON", func(f *forge) { f.rawClaims = `{"sub":}` }, m, "token_json"},
		{"claims are a string", func(f *forge) { f.rawClaims = `"claims"` }, m, "token_json"},
		{"claims are null", func(f *forge) { f.rawClaims = `null` }, m, "token_json"},
		{"something after the claims", func(f *forge) { b, _ := compactJSON(f.claims); f.rawClaims = string(b) + "{}" }, m, "token_json"},
		{"not UTF-8", insert("{\"x\":\"\xff\","), m, "token_json"},
		{"sub twice", insert(`{"sub":"spiffe://attested.example.org/other",`), m, "token_json"},
		{"sub twice by an escape", insert(`{"s\u0075b":"spiffe://attested.example.org/other",`), m, "token_json"},
		{"a member twice within another", insert(`{"x":{"a":1,"a":2},`), m, "token_json"},
		{"a member twice within a list", insert(`{"x":[{"a":1,"a":2}],`), m, "token_json"},
		{"nested too deep", insert(`{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `,`), m, "token_json"},
		{"no sub", del("sub"), m, "token_subject"},
		{"sub in capitals", func(f *forge) { f.claims["SUB"] = f.claims["sub"]; delete(f.claims, "sub") }, m, "token_subject"},
		{"sub null", set("sub", nil), m, "token_subject"},
		{"sub a number", set("sub", 7), m, "token_subject"},
		{"sub no SPIFFE ID", set("sub", "https://attested.example.org/payments"), m, "token_subject"},
		{"sub with a dot segment", set("sub", "spiffe://attested.example.org/a/../b"), m, "token_subject"},
		{"sub without a path", set("sub", "spiffe://attested.example.org"), m, "token_subject"},
		{"no aud", del("aud"), m, "token_audiences"},
		{"aud null", set("aud", nil), m, "token_audiences"},
		{"aud empty", set("aud", []string{}), m, "token_audiences"},
		{"aud an empty string", set("aud", ""), m, "token_audiences"},
		{"aud with an empty string", set("aud", []string{audience, ""}), m, "token_audiences"},
		{"aud a number", set("aud", 7), m, "token_audiences"},
		{"aud an object", set("aud", map[string]string{"x": audience}), m, "token_audiences"},
		{"aud with a number", set("aud", []any{audience, 7}), m, "token_audiences"},
		{"too many aud", set("aud", slices.Repeat([]string{audience}, 65)), m, "token_audiences"},
		{"no exp", del("exp"), m, "token_times"},
		{"exp in capitals", func(f *forge) { f.claims["EXP"] = f.claims["exp"]; delete(f.claims, "exp") }, m, "token_times"},
		{"exp null", set("exp", nil), m, "token_times"},
		{"exp a string", set("exp", "1999999999"), m, "token_times"},
		{"exp negative", set("exp", -1), m, "token_times"},
		{"exp beyond all time", set("exp", 1e18), m, "token_times"},
		{"exp beyond all numbers", func(f *forge) {
			delete(f.claims, "exp")
			b, _ := compactJSON(f.claims)
			f.rawClaims = `{"exp":1e999,` + string(b[1:])
		}, m, "token_times"},
		{"iat a string", set("iat", "now"), m, "token_times"},
		{"nbf a string", set("nbf", "now"), m, "token_times"},
		{"iss a number", set("iss", 1), m, "token_claims"},
		{"jti a list", set("jti", []string{"a"}), m, "token_claims"},
		{"another trust domain", set("sub", "spiffe://other.example.org/payments/api"), u, "token_bundle"},
		{"an unknown kid", head("kid", "unknown"), u, "token_key"},
		{"ES384 with a key on P-256", head("alg", "ES384"), m, "token_algorithm"},
		{"RS256 with an EC key", head("alg", "RS256"), m, "token_algorithm"},
		{"PS256 with an EC key", head("alg", "PS256"), m, "token_algorithm"},
		{"another audience", set("aud", []string{"orders.example.org"}), u, "token_audience"},
		{"an audience that only begins the same", set("aud", audience+".evil.example"), u, "token_audience"},
		{"nbf to come", set("nbf", later), s, "token_not_before"},
		{"issued in the future", set("iat", later), s, "token_future"},
		{"expired", set("exp", issued.Unix()), s, "token_expired"},
		{"no attestation", del("assay"), u, "attestation_missing"},
		{"attestation null", set("assay", nil), m, "attestation_structure"},
		{"attestation a string", set("assay", "affirming"), m, "attestation_structure"},
		{"another version", att("v", 2), m, "attestation_version"},
		{"version a string", att("v", "1"), m, "attestation_version"},
		{"no version", delAtt("v"), m, "attestation_version"},
		{"no iat", del("iat"), m, "attestation_token"},
		{"no jti", del("jti"), m, "attestation_token"},
		{"no serial", delAtt("serial"), m, "attestation_serial"},
		{"serial too short", att("serial", "0011"), m, "attestation_serial"},
		{"serial in capitals", att("serial", "00112233445566778899AABBCCDDEEFF"), m, "attestation_serial"},
		{"serial a number", att("serial", 7), m, "attestation_serial"},
		{"no platform", delAtt("tee"), m, "claims_submods"},
		{"an unknown platform", att("tee", "intel-sgx"), m, "claims_submods"},
		{"no status", delAtt("status"), m, "attestation_structure"},
		{"an unknown status", att("status", "excellent"), m, "attestation_structure"},
		{"a status that is better than the vector", func(f *forge) { f.attestation()["vector"] = map[string]int{"hardware": 96} }, m, "claims_status"},
		{"no vector", delAtt("vector"), m, "attestation_structure"},
		{"vector null", att("vector", nil), m, "attestation_structure"},
		{"vector empty", att("vector", map[string]int{}), m, "claims_vector"},
		{"an unknown aspect", att("vector", map[string]int{"looks": 2}), m, "attestation_structure"},
		{"an aspect out of range", att("vector", map[string]int{"hardware": 200}), m, "attestation_structure"},
		{"no policy", delAtt("policy"), m, "claims_policy"},
		{"policy too long", att("policy", strings.Repeat("p", 129)), m, "claims_policy"},
		{"no policy digest", delAtt("policy_digest"), m, "claims_policy"},
		{"policy digest too short", att("policy_digest", "00"), m, "claims_policy"},
		{"policy digest not hex", att("policy_digest", strings.Repeat("z", 64)), m, "attestation_structure"},
		{"policy digest in capitals", att("policy_digest", strings.Repeat("AB", 32)), m, "attestation_structure"},
		{"measurements a list", att("measurements", []string{"pcr0"}), m, "attestation_structure"},
		{"measurements empty", att("measurements", map[string]string{}), m, "claims_measurements"},
		{"a measurement with a strange name", att("measurements", map[string]string{"PCR 0": "00"}), m, "claims_measurements"},
		{"a measurement of no bytes", att("measurements", map[string]string{"pcr0": ""}), m, "claims_measurements"},
		{"a measurement too long", att("measurements", map[string]string{"pcr0": strings.Repeat("00", 65)}), m, "claims_measurements"},
		{"a measurement that is a number", att("measurements", map[string]int{"pcr0": 0}), m, "attestation_structure"},
		{"attributes empty", att("attributes", map[string]string{}), m, "claims_attributes"},
		{"attributes null", att("attributes", nil), m, "attestation_structure"},
		{"an attribute that is a number", att("attributes", map[string]int{"tier": 1}), m, "attestation_structure"},
		{"an attribute without a name", att("attributes", map[string]string{"": "x"}), m, "claims_attributes"},
		{"no evidence time", delAtt("evidence_time"), m, "attestation_structure"},
		{"evidence time after iat", att("evidence_time", issued.Unix()+1), m, "claims_time"},
		{"evidence time zero", att("evidence_time", 0), m, "claims_time"},
		{"no evidence digest", delAtt("evidence_digest"), m, "claims_evidence"},
		{"evidence digest too short", att("evidence_digest", "00"), m, "claims_evidence"},
		{"no verifier", delAtt("verifier"), m, "attestation_structure"},
		{"verifier without build", att("verifier", map[string]string{"developer": "x"}), m, "claims_verifier"},
		{"no word of simulation", delAtt("simulated"), m, "claims_simulated"},
		{"simulated null", att("simulated", nil), m, "attestation_structure"},
		{"simulated a string", att("simulated", "false"), m, "attestation_structure"},
		{"simulated, in a hardware trust domain", att("simulated", true), u, "simulated_domain"},
		{"expires when issued", func(f *forge) { f.claims["iat"] = f.claims["exp"] }, s, "token_future"},
		{"expired before it was issued", func(f *forge) { f.claims["exp"], f.claims["iat"] = issued.Unix()+1, issued.Unix()+30 }, m, "claims_time"},
		{"contraindicated", func(f *forge) {
			f.attestation()["vector"], f.attestation()["status"] = map[string]int{"hardware": 96}, "contraindicated"
		}, d, "tier"},
	} {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			f := forgedToken(t)
			r.change(f)
			_, err := VerifyJWT(f.token(t, testKey(t, "jwt")), authorities(t, "attested.example.org"), audience, issued)
			wantError(t, err, r.kind, r.check)
		})
	}
	f := forgedToken(t)
	if _, err := VerifyJWT(f.token(t, testKey(t, "jwt")), authorities(t, "attested.example.org"), audience, issued); err != nil {
		t.Fatalf("the token that is changed above does not hold in itself: %v", err)
	}
}

func TestUnknownMembersOfTheAttestationAreIgnored(t *testing.T) {
	f := forgedToken(t)
	f.attestation()["later"] = map[string]any{"a": 1}
	f.claims["later"] = true
	f.attestation()["verifier"].(map[string]any)["commit"] = 7
	if _, err := VerifyJWT(f.token(t, testKey(t, "jwt")), authorities(t, "attested.example.org"), audience, issued); err != nil {
		t.Error(err)
	}
}

// What is wrong with the text of a token, not with what it says.
func TestATokenThatIsNotWrittenAsItMustBeIsRefused(t *testing.T) {
	good := signedToken(t, tokenOf(t, nitroAppraisal()))
	parts := strings.Split(good, ".")
	b := authorities(t, "attested.example.org")
	// The last character of a base64url text that is not canonical has bits that mean nothing.
	twin := parts[2][:len(parts[2])-1] + map[byte]string{'A': "B", 'Q': "R", 'g': "h", 'w': "x"}[parts[2][len(parts[2])-1]]
	for name, r := range map[string]struct {
		token string
		check string
	}{
		"empty":                       {"", "token_size"},
		"too long":                    {strings.Repeat("a", MaxJWTSize+1), "token_size"},
		"one part":                    {parts[0], "token_structure"},
		"two parts":                   {parts[0] + "." + parts[1], "token_structure"},
		"four parts":                  {good + ".", "token_structure"},
		"no signature":                {parts[0] + "." + parts[1] + ".", "token_structure"},
		"JSON serialization":          {`{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`, "token_structure"},
		"padding":                     {good + "==", "token_structure"},
		"standard base64":             {parts[0] + "." + parts[1] + "+." + parts[2], "token_structure"},
		"a line end within":           {parts[0] + "." + parts[1][:40] + "\n" + parts[1][40:] + "." + parts[2], "token_structure"},
		"a space before":              {" " + good, "token_structure"},
		"a last character with bits":  {parts[0] + "." + parts[1] + "." + twin, "token_structure"},
		"a signature that is changed": {parts[0] + "." + parts[1] + "." + swap(parts[2]), "token_signature"},
		"a header that is changed":    {base64.RawURLEncoding.EncodeToString([]byte(" ")) + parts[0] + "." + parts[1] + "." + parts[2], "token_json"},
		"a signature of DER":          {parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 71)), "token_signature"},
		"a signature of zeros":        {parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), "token_signature"},
	} {
		_, err := VerifyJWT(r.token, b, audience, issued)
		if err == nil || attest.CheckOf(err) != r.check {
			t.Errorf("%s: got %v, want %s", name, err, r.check)
		}
	}
	other := forgedToken(t).token(t, testKey(t, "another"))
	_, err := VerifyJWT(other, b, audience, issued)
	wantError(t, err, attest.Untrusted, "token_signature")
	_, err = VerifyJWT(good, b, audience, time.Time{})
	wantError(t, err, attest.Internal, "verify")
	_, err = VerifyJWT(good, nil, audience, issued)
	wantError(t, err, attest.Internal, "verify")
	_, err = VerifyJWT(good, b, "", issued)
	wantError(t, err, attest.Internal, "verify")
	_, err = VerifyJWT(good, nothing{}, audience, issued)
	wantError(t, err, attest.Untrusted, "token_bundle")
}

type nothing struct{}

func (nothing) GetJWTBundleForTrustDomain(spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	return nil, nil
}

// swap changes the first character.
func swap(s string) string {
	if s[0] == 'A' {
		return "B" + s[1:]
	}
	return "A" + s[1:]
}

// An ordinary JWT-SVID of any issuer, by all nine algorithms, as go-spiffe takes
// it too.
func TestATokenOfAForeignIssuerHoldsByEveryAlgorithmOfTheSpecification(t *testing.T) {
	rsaKey, err := foreignRSA()
	if err != nil {
		t.Fatal(err)
	}
	curves := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}
	td := spiffeid.RequireTrustDomainFromString("foreign.example.org")
	at := time.Now()
	for _, alg := range slices.Sorted(maps.Keys(algorithms())) {
		var key crypto.Signer = rsaKey
		if c, ok := curves[alg]; ok {
			if key, err = ecdsa.GenerateKey(c, rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		token := foreign(t, alg, key, fmt.Sprintf(`{"sub":"spiffe://foreign.example.org/a","aud":["x",%q],"exp":%d.75}`, audience, at.Add(time.Minute).Unix()))
		b := jwtbundle.FromJWTAuthorities(td, map[string]crypto.PublicKey{"their-key": key.Public()})
		got, err := VerifyJWTSVID(token, b, audience, at)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if got.ID.String() != "spiffe://foreign.example.org/a" || got.Algorithm != alg || len(got.Audience) != 2 || !got.IssuedAt.IsZero() {
			t.Errorf("%s: got %+v", alg, got)
		}
		if _, err := jwtsvid.ParseAndValidate(token, b, []string{audience}); err != nil {
			t.Errorf("%s: go-spiffe: %v", alg, err)
		}
		_, err = VerifyJWT(token, b, audience, at)
		if alg == attestedAlgorithm {
			wantError(t, err, attest.Untrusted, "attestation_missing")
		} else {
			wantError(t, err, attest.Malformed, "token_algorithm")
		}
		_, err = VerifyJWTSVID(token[:len(token)-4]+"AAAA", b, audience, at)
		wantError(t, err, attest.Untrusted, "token_signature")
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no RSA key of 1024 bits")
	}
	b := jwtbundle.FromJWTAuthorities(td, map[string]crypto.PublicKey{"their-key": small.Public()})
	token := foreign(t, "RS256", small, fmt.Sprintf(`{"sub":"spiffe://foreign.example.org/a","aud":%q,"exp":%d}`, audience, at.Add(time.Minute).Unix()))
	_, err = VerifyJWTSVID(token, b, audience, at)
	wantError(t, err, attest.Untrusted, "token_key_type")
}

var foreignRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// foreign signs by any algorithm, without the code that verifies.
func foreign(t testing.TB, alg string, key crypto.Signer, claims string) string {
	t.Helper()
	a := algorithms()[alg]
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(`{"alg":"`+alg+`","kid":"their-key"}`)) + "." + b64([]byte(claims))
	h := a.hash.New()
	h.Write([]byte(input))
	var sig []byte
	var err error
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, serr := ecdsa.Sign(rand.Reader, k, h.Sum(nil))
		n := (k.Params().BitSize + 7) / 8
		sig, err = append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...), serr
	default:
		var opts crypto.SignerOpts = a.hash
		if a.pss {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash}
		}
		sig, err = key.Sign(rand.Reader, h.Sum(nil), opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

// A foreign issuer may sign attested tokens by ES256 only.
func TestAnAttestedTokenByAnotherAlgorithmIsRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := forgedToken(t)
	_, claims := f.text(t)
	token := foreign(t, "ES384", key, string(claims))
	b := jwtbundle.FromJWTAuthorities(spiffeid.RequireTrustDomainFromString("attested.example.org"), map[string]crypto.PublicKey{"their-key": key.Public()})
	_, err = VerifyJWT(token, b, audience, issued)
	wantError(t, err, attest.Malformed, "token_algorithm")
	if _, err := VerifyJWTSVID(token, b, audience, issued); err != nil {
		t.Errorf("as an ordinary JWT-SVID: %v", err)
	}
}

func TestWhatARelyingPartyWouldRefuseIsNotSigned(t *testing.T) {
	for name, r := range map[string]struct {
		change func(*JWT)
		check  string
	}{
		"no audience":       {func(j *JWT) { j.Audience = nil }, "token_encode"},
		"an empty audience": {func(j *JWT) { j.Audience = []string{""} }, "token_encode"},
		"no token id":       {func(j *JWT) { j.TokenID = "" }, "token_encode"},
		"another subject":   {func(j *JWT) { j.ID = spiffeid.RequireFromString("spiffe://attested.example.org/other") }, "token_encode"},
		"no subject":        {func(j *JWT) { j.ID = spiffeid.ID{}; j.Result.Subject = "" }, "token_encode"},
		"a subject without a path": {func(j *JWT) {
			j.ID = spiffeid.RequireFromString("spiffe://attested.example.org")
			j.Result.Subject = j.ID.String()
		}, "token_encode"},
		"expires when it is issued":  {func(j *JWT) { j.Expiry = j.IssuedAt }, "token_encode"},
		"no serial":                  {func(j *JWT) { j.Serial = "" }, "token_encode"},
		"a result without a policy":  {func(j *JWT) { j.Result.Policy = "" }, "token_encode"},
		"evidence after the token":   {func(j *JWT) { j.IssuedAt = j.Result.EvidenceTime.Add(-time.Second) }, "token_encode"},
		"a better status than it is": {func(j *JWT) { j.Result.Status = None; j.Result.Vector = Vector{96} }, "token_encode"},
		"an attribute not in UTF-8":  {func(j *JWT) { j.Attributes = map[string]string{"a": "\xff"} }, "token_encode"},
		"an audience not in UTF-8":   {func(j *JWT) { j.Audience = []string{"\xff"} }, "token_encode"},
		"a tag not in UTF-8":         {func(j *JWT) { j.AWSTags = map[string]string{"\xff": "a"} }, "token_encode"},
		"an unknown platform":        {func(j *JWT) { j.Result.Platform = "intel-sgx" }, "token_encode"},
		"no verifier":                {func(j *JWT) { j.Result.VerifierID.Build = "" }, "token_encode"},
		"an attribute without name":  {func(j *JWT) { j.Attributes = map[string]string{"": "a"} }, "token_encode"},
		"a serial in capitals":       {func(j *JWT) { j.Serial = strings.ToUpper(j.Serial) }, "token_encode"},
		"too many audiences":         {func(j *JWT) { j.Audience = slices.Repeat([]string{audience}, 65) }, "token_encode"},
		"too much":                   {func(j *JWT) { j.AWSTags = map[string]string{"x": strings.Repeat("x", MaxJWTSize)} }, "token_size"},
	} {
		j := tokenOf(t, nitroAppraisal())
		r.change(j)
		token, err := j.Sign(testKey(t, "jwt"))
		if token != "" {
			t.Errorf("%s: a token", name)
		}
		if attest.KindOf(err) != attest.Internal || attest.CheckOf(err) != r.check {
			t.Errorf("%s: got %v, want internal %s", name, err, r.check)
		}
	}
	for name, key := range map[string]crypto.Signer{
		"P-384":           func() crypto.Signer { k, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader); return k }(),
		"a key that errs": erring{testKey(t, "jwt"), func(sig []byte) ([]byte, error) { return nil, errors.New("no") }},
		"a key that signs with another": erring{testKey(t, "jwt"), func([]byte) ([]byte, error) {
			sum := sha256.Sum256([]byte("something else"))
			return testKey(t, "another").Sign(rand.Reader, sum[:], crypto.SHA256)
		}},
		"a key that returns something else": erring{testKey(t, "jwt"), func([]byte) ([]byte, error) { return []byte("signature"), nil }},
	} {
		if _, err := tokenOf(t, nitroAppraisal()).Sign(key); attest.CheckOf(err) != "token_sign" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// erring is a signer with a fault.
type erring struct {
	repeatable
	fault func(sig []byte) ([]byte, error)
}

func (e erring) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := e.repeatable.Sign(r, digest, opts)
	if err != nil {
		return nil, err
	}
	return e.fault(sig)
}

// What a policy may add at most, with the longest names beside it, still fits
// into a token that AWS takes.
func TestATokenWithAllThatAPolicyMayAddFits(t *testing.T) {
	a := nitroAppraisal()
	a.Policy = strings.Repeat("p", 63) + "@9007199254740991"
	a.Publish, a.Attributes = nil, map[string]string{}
	size := 0
	for i := 5; i < 32; i++ {
		a.Claims.Nitro.PCRs[i] = register(fmt.Sprint(i))
		a.Publish = append(a.Publish, pcrName(i))
		size += len(pcrName(i)) + 48 + 6
	}
	for i := 0; i < 9 && size < 3072; i++ {
		room := min(3072-size-6, 63+128)
		if room < 70 {
			break
		}
		name := fmt.Sprintf("a%02d%s", i, strings.Repeat("n", 60))
		a.Attributes[name] = strings.Repeat("v", room-len(name))
		size += room + 6
	}
	j := tokenOf(t, a)
	j.AWSTags = a.Attributes
	j.Audience = slices.Repeat([]string{strings.Repeat("a", 255)}, 8)
	token := signedToken(t, j)
	t.Logf("%d bytes that a policy added make a token of %d", size, len(token))
	if size < 2900 || len(token) < 2*size {
		t.Errorf("the test is not about a large token: %d of %d", size, len(token))
	}
}

// The vectors of docs/spec/attested-jwt-svid.md.
func TestTheTokenVectorsAreWhatThisCodeWritesAndReads(t *testing.T) {
	type vector struct {
		Token    string          `json:"token"`
		Header   json.RawMessage `json:"header"`
		Claims   json.RawMessage `json:"claims"`
		JWKS     json.RawMessage `json:"jwks"`
		Audience string          `json:"audience"`
		At       time.Time       `json:"at"`
		Accept   []string        `json:"accept,omitempty"`
		Outcome  string          `json:"outcome"`
	}
	gold := nitroAppraisal()
	gold.Attributes = map[string]string{"team": "core", "tier": "gold"}
	for name, c := range map[string]struct {
		appraisal Appraisal
		tags      map[string]string
		td        string
		at        time.Time
		outcome   string
	}{
		"token-nitro":     {gold, map[string]string{"team": "core"}, "attested.example.org", issued.Add(time.Minute), "ok"},
		"token-snp":       {snpAppraisal(), nil, "attested.example.org", issued.Add(time.Minute), "ok"},
		"token-expired":   {nitroAppraisal(), nil, "attested.example.org", issued.Add(5 * time.Minute), "stale token_expired"},
		"token-debug":     {debugAppraisal(), nil, "attested.example.org", issued, "denied tier"},
		"token-simulated": {simulatedAppraisal(), nil, "simulated.attested.example.org", issued, "denied simulated"},
	} {
		j := tokenOf(t, c.appraisal)
		j.AWSTags = c.tags
		token := signedToken(t, j)
		parts := strings.Split(token, ".")
		jwk, err := JWK(testKey(t, "jwt").Public(), "jwt-svid")
		if err != nil {
			t.Fatal(err)
		}
		jwks, err := json.Marshal(map[string]any{"keys": []any{jwk}})
		if err != nil {
			t.Fatal(err)
		}
		v := vector{Token: token, Audience: audience, At: c.at, Outcome: c.outcome, JWKS: jwks, Header: part(t, parts[0]), Claims: part(t, parts[1])}
		want, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, want, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v (go test ./svid -update writes it)", err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs (go test ./svid -update writes it anew)", path)
		}
		var read vector
		if err := json.Unmarshal(got, &read); err != nil {
			t.Fatal(err)
		}
		b, err := jwtbundle.Parse(spiffeid.RequireTrustDomainFromString(c.td), read.JWKS)
		if err != nil {
			t.Fatal(err)
		}
		outcome := "ok"
		if _, err := VerifyJWT(read.Token, b, read.Audience, read.At); err != nil {
			outcome = attest.KindOf(err).String() + " " + attest.CheckOf(err)
		}
		if outcome != c.outcome {
			t.Errorf("%s: %s, want %s", name, outcome, c.outcome)
		}
	}
}

func part(t testing.TB, s string) json.RawMessage {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever comes, the parser neither panics nor takes what its own encoder would
// write in another way; and an error that needs no key is of kind Malformed.
func FuzzJWT(f *testing.F) {
	fo := forgedToken(f)
	header, claims := fo.text(f)
	f.Add(header, claims)
	f.Add([]byte(`{"alg":"RS256","kid":"a","typ":"JOSE"}`), []byte(`{"sub":"spiffe://a/b","aud":["x","y"],"exp":1e9}`))
	f.Add([]byte(`{"alg":"ES256"`), []byte(`{"sub":"spiffe://a/b","sub":"spiffe://a/c"}`))
	f.Add([]byte(`{}`), []byte(`{"x":[[[[]]]]}`))
	key := testKey(f, "jwt")
	b := authorities(f, "attested.example.org")
	f.Fuzz(func(t *testing.T, header, claims []byte) {
		b64 := base64.RawURLEncoding.EncodeToString
		input := b64(header) + "." + b64(claims)
		u, err := parseJWT(input + "." + b64(make([]byte, 64)))
		if err != nil {
			if attest.KindOf(err) != attest.Malformed {
				t.Fatalf("%v is of kind %s", err, attest.KindOf(err))
			}
			return
		}
		if u.svid.ID.Path() == "" || len(u.svid.Audience) == 0 || u.svid.KeyID == "" || u.svid.Expiry.IsZero() {
			t.Fatalf("got %+v", u.svid)
		}
		sig, err := es256Signer{key}.Sign(nil, []byte(input))
		if err != nil {
			t.Fatal(err)
		}
		got, err := VerifyJWT(input+"."+b64(sig), b, u.svid.Audience[0], issued, Simulated(), MinTier(Contraindicated))
		if err != nil {
			return
		}
		again := JWT{
			ID: got.ID, Issuer: got.Token.Issuer, Audience: got.Token.Audience, TokenID: got.Token.ID, IssuedAt: got.Token.IssuedAt, Expiry: got.Token.Expiry,
			Serial: got.Token.Serial, Result: got.Result, Attributes: got.Result.Attributes,
		}
		token, err := again.Sign(key)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		twice, err := VerifyJWT(token, b, u.svid.Audience[0], issued, Simulated(), MinTier(Contraindicated))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got.Result, twice.Result); diff != "" {
			t.Fatal(diff)
		}
	})
}
