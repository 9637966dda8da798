package oidc_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/oidc"
	"github.com/assay-project/assay/issuer/oidc/oidctest"
	"github.com/assay-project/assay/issuer/web"
	"github.com/assay-project/assay/svid"
)

const (
	issuer   = "https://oidc.example.org"
	audience = "sts.amazonaws.com"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func byID(t testing.TB, keys ...*ecdsa.PrivateKey) map[string]crypto.PublicKey {
	t.Helper()
	out := map[string]crypto.PublicKey{}
	for _, k := range keys {
		kid, err := svid.JWKThumbprint(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		out[kid] = k.Public()
	}
	return out
}

// token is a real one, of an enclave that was appraised by the real table.
func token(t testing.TB, key *ecdsa.PrivateKey, now time.Time) string {
	t.Helper()
	id := spiffeid.RequireFromString("spiffe://attested.example.org/payments/api")
	pcr := bytes.Repeat([]byte{0xab}, 48)
	r, err := svid.Appraise(svid.Appraisal{
		Claims: attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{ModuleID: "i-1-enc1", Timestamp: now.Add(-time.Minute), PCRs: map[int]attest.Bytes{0: pcr, 1: pcr, 2: pcr, 8: pcr}}},
		Policy: "prod@7", PolicyDigest: sha256.Sum256([]byte("policy")), Ownership: true, Pinned: []string{"pcr0"}, Publish: []string{"pcr0", "pcr1", "pcr2", "pcr8"},
		Attributes: map[string]string{"team": "core"}, EvidenceDigest: sha256.Sum256([]byte("evidence")),
	}, id, key.Public(), now, now.Add(time.Hour), "attested.example.org")
	if err != nil {
		t.Fatal(err)
	}
	out, err := (&svid.JWT{
		ID: id, Issuer: issuer, Audience: []string{audience}, TokenID: strings.Repeat("0a", 16), IssuedAt: now, Expiry: now.Add(5 * time.Minute),
		Serial: strings.Repeat("0b", 16), Result: *r, Attributes: r.Attributes, AWSTags: map[string]string{"team": "core"},
	}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func documents(t testing.TB, keys map[string]crypto.PublicKey) (discovery, jwks []byte) {
	t.Helper()
	p, err := oidc.New(issuer, func() map[string]crypto.PublicKey { return keys }, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Discovery(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d.Body, k.Body
}

func output(t testing.TB) (oidctest.Output, time.Time) {
	t.Helper()
	now, key := time.Now(), newKey(t)
	discovery, jwks := documents(t, byID(t, key, newKey(t)))
	return oidctest.Output{Issuer: issuer, Discovery: discovery, JWKS: jwks, Token: token(t, key, now), Audience: audience}, now
}

// Each constraint that AWS, GCP and Vault have written down, by name, against
// documents and a token as they are made.
func TestWhatCloudsAskForInWritingHolds(t *testing.T) {
	o, now := output(t)
	p, err := oidctest.Parse(o, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range oidctest.Constraints() {
		t.Run(c.Party+"/"+c.Text, func(t *testing.T) {
			if err := c.Check(p); err != nil {
				t.Errorf("%v (%s)", err, c.Source)
			}
		})
	}
}

// A list of constraints that nothing breaks would show nothing: each is broken
// by at least one of these.
func TestEachConstraintCanBeBroken(t *testing.T) {
	o, now := output(t)
	broken := map[int]bool{}
	all := oidctest.Constraints()
	for name, change := range map[string]func(*oidctest.Parsed){
		"http": func(p *oidctest.Parsed) {
			p.Issuer = "http://oidc.example.org:8443/?a=b"
			p.Metadata["jwks_uri"] = "http://oidc.example.org/keys"
		},
		"long":          func(p *oidctest.Parsed) { p.Issuer = "https://" + strings.Repeat("a", 300) },
		"no metadata":   func(p *oidctest.Parsed) { clear(p.Metadata) },
		"no keys":       func(p *oidctest.Parsed) { p.Keys = nil },
		"many keys":     func(p *oidctest.Parsed) { p.Keys = slices.Repeat(p.Keys, 60) },
		"odd keys":      func(p *oidctest.Parsed) { p.Keys[0]["d"], p.Keys[0]["use"] = "secret", "jwt-svid" },
		"alg":           func(p *oidctest.Parsed) { p.Header["alg"], p.Header["jwk"] = "none", "x" },
		"long token":    func(p *oidctest.Parsed) { p.Token = strings.Repeat("a", 20001) },
		"no claims":     func(p *oidctest.Parsed) { clear(p.Claims) },
		"late":          func(p *oidctest.Parsed) { p.Now = now.Add(time.Hour) },
		"early":         func(p *oidctest.Parsed) { p.Now = now.Add(-time.Hour) },
		"long life":     func(p *oidctest.Parsed) { p.Claims["exp"] = float64(now.Add(49 * time.Hour).Unix()) },
		"long audience": func(p *oidctest.Parsed) { p.Audience = strings.Repeat("a", 300); p.Claims["aud"] = p.Audience },
		"long subject":  func(p *oidctest.Parsed) { p.Claims["sub"] = "https://" + strings.Repeat("a", 128) },
		"tags": func(p *oidctest.Parsed) {
			tags := map[string]any{"aws:x": []any{"a\"b"}, strings.Repeat("k", 129): []any{"v"}}
			for i := range 60 {
				tags[strings.Repeat("i", i+1)] = []any{"v"}
			}
			p.Claims["https://aws.amazon.com/tags"] = map[string]any{"principal_tags": tags}
		},
	} {
		p, err := oidctest.Parse(o, now)
		if err != nil {
			t.Fatal(err)
		}
		change(p)
		n := 0
		for i, c := range all {
			if c.Check(p) != nil {
				broken[i] = true
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s breaks nothing", name)
		}
	}
	for i, c := range all {
		if !broken[i] {
			t.Errorf("%s: %q is broken by nothing", c.Party, c.Text)
		}
	}
}

func TestTheTokenVerifiesWithTwoJOSELibrariesAndGoSPIFFE(t *testing.T) {
	o, now := output(t)

	var set jose.JSONWebKeySet
	if err := json.Unmarshal(o.JWKS, &set); err != nil {
		t.Fatal(err)
	}
	parsed, err := josejwt.ParseSigned(o.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims josejwt.Claims
	if err := parsed.Claims(set, &claims); err != nil {
		t.Fatalf("go-jose: %v", err)
	}
	if err := claims.ValidateWithLeeway(josejwt.Expected{Issuer: issuer, AnyAudience: josejwt.Audience{audience}, Time: now}, 0); err != nil {
		t.Errorf("go-jose: %v", err)
	}

	keys, err := jwk.Parse(o.JWKS)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := jwxjwt.Parse([]byte(o.Token), jwxjwt.WithKeySet(keys), jwxjwt.WithIssuer(issuer), jwxjwt.WithAudience(audience))
	if err != nil {
		t.Fatalf("jwx: %v", err)
	}
	if sub, _ := tok.Subject(); sub != claims.Subject {
		t.Errorf("the libraries read two subjects: %q and %q", sub, claims.Subject)
	}

	td := spiffeid.RequireTrustDomainFromString("attested.example.org")
	b, err := jwtbundle.Parse(td, o.JWKS)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jwtsvid.ParseAndValidate(o.Token, b, []string{audience})
	if err != nil {
		t.Fatalf("go-spiffe: %v", err)
	}
	if s.ID.String() != claims.Subject {
		t.Errorf("go-spiffe reads %s", s.ID)
	}

	// And none of the three takes one that was changed.
	parts := strings.Split(o.Token, ".")
	bad := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"spiffe://attested.example.org/a","aud":"sts.amazonaws.com","exp":9999999999}`)) + "." + parts[2]
	if p, err := josejwt.ParseSigned(bad, []jose.SignatureAlgorithm{jose.ES256}); err == nil && p.Claims(set, &claims) == nil {
		t.Error("go-jose takes it")
	}
	if _, err := jwxjwt.Parse([]byte(bad), jwxjwt.WithKeySet(keys)); err == nil {
		t.Error("jwx takes it")
	}
	if _, err := jwtsvid.ParseAndValidate(bad, b, []string{audience}); err == nil {
		t.Error("go-spiffe takes it")
	}
}

// The libraries compute thumbprints of their own.
func TestTheKeyIDsAreWhatTheLibrariesCompute(t *testing.T) {
	o, _ := output(t)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(o.JWKS, &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil || base64.RawURLEncoding.EncodeToString(sum) != k.KeyID || k.Use != "sig" || k.Algorithm != "ES256" || !k.IsPublic() {
			t.Errorf("go-jose: %x, %v of %+v", sum, err, k)
		}
	}
	keys, err := jwk.Parse(o.JWKS)
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys.Len() {
		k, _ := keys.Key(i)
		sum, err := k.Thumbprint(crypto.SHA256)
		kid, _ := k.KeyID()
		if err != nil || base64.RawURLEncoding.EncodeToString(sum) != kid {
			t.Errorf("jwx: %x, %v of %s", sum, err, kid)
		}
	}
	if len(set.Keys) != 2 || keys.Len() != 2 {
		t.Errorf("%d and %d keys, want the one that signs and the one that is published", len(set.Keys), keys.Len())
	}
}

func TestTheKeySetIsTheSameBytesEveryTime(t *testing.T) {
	keys := byID(t, newKey(t), newKey(t), newKey(t), newKey(t), newKey(t))
	first, err := oidc.JWKS(keys, oidc.UseSPIFFE)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := oidc.JWKS(maps.Clone(keys), oidc.UseSPIFFE)
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%s differs from %s (%v)", again, first, err)
		}
	}
	if !bytes.Contains(first, []byte(`"use":"jwt-svid"`)) {
		t.Errorf("got %s", first)
	}
}

func TestAKeySetWithoutKeysOrWithAWrongNameIsAnError(t *testing.T) {
	if _, err := oidc.JWKS(nil, oidc.UseSignature); err == nil {
		t.Error("an empty set was written: every token would be refused")
	}
	if _, err := oidc.JWKS(map[string]crypto.PublicKey{"key-1": newKey(t).Public()}, oidc.UseSignature); err == nil {
		t.Error("a key has another id than its thumbprint")
	}
	if _, err := oidc.JWKS(map[string]crypto.PublicKey{"key-1": "key"}, oidc.UseSignature); err == nil {
		t.Error("a text is no key")
	}
}

func TestDocumentsAreServedWithEntityTagAndAge(t *testing.T) {
	keys := byID(t, newKey(t))
	p, err := oidc.New(issuer, func() map[string]crypto.PublicKey { return keys }, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(web.Handler(map[string]http.Handler{oidc.DiscoveryPath: web.Document(p.Discovery), oidc.KeysPath: web.Document(p.Keys)}))
	defer s.Close()
	get := func(path, tag string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	for path, age := range map[string]string{oidc.DiscoveryPath: "public, max-age=3600", oidc.KeysPath: "public, max-age=300"} {
		r := get(path, "")
		tag := r.Header.Get("ETag")
		if r.StatusCode != http.StatusOK || tag == "" || r.Header.Get("Cache-Control") != age || !strings.Contains(r.Header.Get("Content-Type"), "json") {
			t.Errorf("%s: %d %v", path, r.StatusCode, r.Header)
		}
		if again := get(path, tag); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s: %d to its own entity tag", path, again.StatusCode)
		}
	}
	tag := get(oidc.KeysPath, "").Header.Get("ETag")
	maps.Copy(keys, byID(t, newKey(t))) // a key is prepared
	if r := get(oidc.KeysPath, tag); r.StatusCode != http.StatusOK || r.Header.Get("ETag") == tag {
		t.Errorf("a key that was prepared is not seen: %d", r.StatusCode)
	}
	clear(keys)
	if r := get(oidc.KeysPath, ""); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("no key: %d, want 503, which nobody keeps", r.StatusCode)
	}
}

func TestAnIssuerIsWrittenAsRelyingPartiesCompareIt(t *testing.T) {
	for _, good := range []string{issuer, "https://example.org/td/prod", "https://example.org:8443", "https://xn--bcher-kva.example"} {
		if err := oidc.CheckIssuer(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "oidc.example.org", "http://oidc.example.org", "HTTPS://oidc.example.org", "https://OIDC.example.org", "https://oidc.example.org/", "https://", "https://:443", "https://user@oidc.example.org",
		"https://oidc.example.org?x", "https://oidc.example.org?", "https://oidc.example.org#", "https://oidc.example.org/#a", "https://oidc.example.org/a b", "https://oidc.example.org/a//b", "https://oidc.example.org//", "https://oidc.example.org/./b", "https://oidc.example.org/..", "https://oidc.example.org/a%2Fb", "https://oidc.example.org/a;b", "https://oidc.example.org/a+b", "https://oidc.example.org/%zz", "https://" + strings.Repeat("a", 250) + ".example",
		"spiffe://example.org",
	} {
		if err := oidc.CheckIssuer(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
		if _, err := oidc.New(bad, func() map[string]crypto.PublicKey { return nil }, 0); err == nil {
			t.Errorf("%q makes a provider", bad)
		}
	}
	if _, err := oidc.New(issuer, nil, 0); err == nil {
		t.Error("a provider without keys")
	}
	if len(oidc.Advice("https://example.org:8443")) != 1 || len(oidc.Advice(issuer)) != 0 {
		t.Error("AWS takes no port, and the operator is not told")
	}
}
