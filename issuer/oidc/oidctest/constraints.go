// Package oidctest lists what the relying parties of the OIDC documents and
// tokens ask for in writing, one by one and each with its source, and checks an
// issuer's real output against it.
package oidctest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Output is what an issuer hands to the world.
type Output struct {
	Issuer    string // the configured issuer URL
	Discovery []byte // the body of ISSUER/.well-known/openid-configuration
	JWKS      []byte // the body of its jwks_uri
	Token     string
	Audience  string // that the relying party is configured with
}

// Constraint is one thing that a relying party asks for.
type Constraint struct {
	Party  string // "AWS", "GCP", "Vault", "OIDC", "SPIFFE"
	Text   string
	Source string
	Check  func(*Parsed) error
}

// Parsed is an Output that can be read at all.
type Parsed struct {
	Output
	Metadata map[string]any
	Keys     []map[string]any
	Header   map[string]any
	Claims   map[string]any
	Now      time.Time
}

// Parse reads an output.
func Parse(o Output, now time.Time) (*Parsed, error) {
	p := &Parsed{Output: o, Now: now}
	if err := json.Unmarshal(o.Discovery, &p.Metadata); err != nil {
		return nil, fmt.Errorf("discovery document: %w", err)
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(o.JWKS, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	p.Keys = set.Keys
	parts := strings.Split(o.Token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a token of %d parts", len(parts))
	}
	for i, into := range []*map[string]any{&p.Header, &p.Claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(b, into)
		}
		if err != nil {
			return nil, fmt.Errorf("part %d of the token: %w", i+1, err)
		}
	}
	return p, nil
}

// Where the constraints are written. The pages were read in November 2026.
const (
	awsProvider = "AWS IAM User Guide, Create an OpenID Connect (OIDC) identity provider in IAM"
	awsCreate   = "AWS IAM API Reference, CreateOpenIDConnectProvider"
	awsAssume   = "AWS STS API Reference, AssumeRoleWithWebIdentity"
	awsTags     = "AWS IAM User Guide, Pass session tags in AWS STS"
	gcpExchange = "Google STS API v1, ExchangeTokenRequest.subjectToken"
	gcpProvider = "Google IAM API v1, projects.locations.workloadIdentityPools.providers"
	gcpOther    = "Google Cloud, Configure Workload Identity Federation with other identity providers"
	vaultMethod = "Vault, JWT/OIDC auth method"
	vaultAPI    = "Vault, JWT/OIDC auth method (API)"
	discovery   = "OpenID Connect Discovery 1.0, section 3"
	spiffeJWT   = "SPIFFE, JWT-SVID"
)

// Constraints lists them all.
func Constraints() []Constraint {
	return slices.Concat(aws(), gcp(), vault(), openID(), spiffe())
}

func aws() []Constraint {
	return []Constraint{
		{"AWS", "the issuer URL begins with https://", awsProvider, func(p *Parsed) error { return want(strings.HasPrefix(p.Issuer, "https://"), p.Issuer) }},
		{"AWS", "it has no query", awsProvider, func(p *Parsed) error { return want(!strings.ContainsAny(p.Issuer, "?#"), p.Issuer) }},
		{"AWS", "it has no port", awsProvider, func(p *Parsed) error {
			u, err := url.Parse(p.Issuer)
			return want(err == nil && u.Port() == "", p.Issuer)
		}},
		{"AWS", "it has 1 to 255 characters", awsCreate, func(p *Parsed) error {
			return want(len(p.Issuer) >= 1 && len(p.Issuer) <= 255, p.Issuer)
		}},
		{"AWS", "the discovery document holds claims_supported, id_token_signing_alg_values_supported, issuer, jwks_uri, response_types_supported and subject_types_supported", awsProvider, func(p *Parsed) error {
			return has(p.Metadata, "claims_supported", "id_token_signing_alg_values_supported", "issuer", "jwks_uri", "response_types_supported", "subject_types_supported")
		}},
		{"AWS", "claims_supported names the claims that IAM uses: aud, iat, iss, sub", awsProvider, func(p *Parsed) error {
			return listed(p.Metadata["claims_supported"], "aud", "iat", "iss", "sub", "exp")
		}},
		{"AWS", "the key set has at least one key, at most 100 RSA and 100 EC keys", awsProvider, func(p *Parsed) error {
			n := map[any]int{}
			for _, k := range p.Keys {
				n[k["kty"]]++
			}
			return want(len(p.Keys) >= 1 && n["RSA"] <= 100 && n["EC"] <= 100, n)
		}},
		{"AWS", "the token is signed with RS256, RS384, RS512, ES256, ES384 or ES512", awsAssume, func(p *Parsed) error {
			return oneOf(p.Header["alg"], "RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
		}},
		{"AWS", "its kid names a key of the key set", awsProvider, (*Parsed).keyIsThere},
		{"AWS", "it has 4 to 20,000 characters", awsAssume, func(p *Parsed) error { return want(len(p.Token) >= 4 && len(p.Token) <= 20000, len(p.Token)) }},
		{"AWS", "iss is the provider's URL, character for character", awsProvider, (*Parsed).issuerIs},
		{"AWS", "aud is a client id of the provider: 1 to 255 characters", awsCreate, func(p *Parsed) error {
			return errors.Join(p.audienceIs(), want(len(p.Audience) >= 1 && len(p.Audience) <= 255, p.Audience))
		}},
		{"AWS", "sub, iat and exp are there, and the token has not expired", awsProvider, func(p *Parsed) error {
			return errors.Join(has(p.Claims, "sub", "iat", "exp"), want(p.Now.Before(p.time("exp")), p.Claims["exp"]))
		}},
		{"AWS", "at most 50 session tags", awsTags, func(p *Parsed) error {
			tags, err := p.tags()
			return errors.Join(err, want(len(tags) <= 50, len(tags)))
		}},
		{"AWS", "a tag's key has at most 128 characters, its value at most 256", awsTags, func(p *Parsed) error {
			tags, err := p.tags()
			for k, v := range tags {
				err = errors.Join(err, want(len(k) >= 1 && len(k) <= 128 && len(v) <= 256, k+"="+v))
			}
			return err
		}},
		{"AWS", "keys and values are letters, numbers, spaces and _ . : / = + - @; no key begins with aws:", awsTags, func(p *Parsed) error {
			tags, err := p.tags()
			chars := regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
			for k, v := range tags {
				err = errors.Join(err, want(chars.MatchString(k) && chars.MatchString(v) && !strings.HasPrefix(strings.ToLower(k), "aws:"), k+"="+v))
			}
			return err
		}},
	}
}

func gcp() []Constraint {
	return []Constraint{
		{"GCP", "the header has kid", gcpExchange, (*Parsed).keyIsThere},
		{"GCP", "alg is RS256 or ES256", gcpExchange, func(p *Parsed) error { return oneOf(p.Header["alg"], "RS256", "ES256") }},
		{"GCP", "iss has a discovery document under /.well-known/openid-configuration, whose issuer it is", gcpExchange, (*Parsed).issuerIs},
		{"GCP", "iat is in the past", gcpExchange, func(p *Parsed) error { return want(!p.time("iat").After(p.Now), p.Claims["iat"]) }},
		{"GCP", "exp is less than 48 hours after iat", gcpExchange, func(p *Parsed) error {
			return want(p.time("exp").After(p.time("iat")) && p.time("exp").Sub(p.time("iat")) < 48*time.Hour, p.Claims["exp"])
		}},
		{"GCP", "sub is there", gcpExchange, func(p *Parsed) error { return has(p.Claims, "sub") }},
		{"GCP", "aud is one that the provider allows, of at most 256 characters", gcpProvider, func(p *Parsed) error {
			return errors.Join(p.audienceIs(), want(len(p.Audience) <= 256, p.Audience))
		}},
		{"GCP", "google.subject, mapped from sub, has at most 127 bytes", gcpProvider, func(p *Parsed) error {
			s, _ := p.Claims["sub"].(string)
			return want(len(s) >= 1 && len(s) <= 127, s)
		}},
		{"GCP", "metadata and key set are behind https://", gcpOther, func(p *Parsed) error {
			uri, _ := p.Metadata["jwks_uri"].(string)
			return want(strings.HasPrefix(p.Issuer, "https://") && strings.HasPrefix(uri, "https://"), uri)
		}},
		{"GCP", "a key set that is uploaded holds RSA or EC keys with alg, use and kid, and no other member than kty, alg, use, kid, n, e, x, y, crv", gcpProvider, func(p *Parsed) error {
			var err error
			for _, k := range p.Keys {
				err = errors.Join(err, has(k, "kty", "alg", "use", "kid"), oneOf(k["kty"], "RSA", "EC"), want(k["use"] == "sig", k["use"]))
				for name := range k {
					err = errors.Join(err, oneOf(name, "kty", "alg", "use", "kid", "n", "e", "x", "y", "crv"))
				}
			}
			return err
		}},
		{"GCP", "assertion.assay can be mapped: an object of texts, numbers and objects", gcpProvider, func(p *Parsed) error {
			a, ok := p.Claims["assay"].(map[string]any)
			if !ok {
				return errors.New("assay is not an object")
			}
			return has(a, "status", "tee", "policy", "simulated")
		}},
	}
}

func vault() []Constraint {
	return []Constraint{
		{"Vault", "the discovery document's issuer is oidc_discovery_url", vaultAPI, (*Parsed).issuerIs},
		{"Vault", "alg is one of jwt_supported_algs: RS256 to ES512, PS256 to PS512, EdDSA", vaultAPI, func(p *Parsed) error {
			return oneOf(p.Header["alg"], "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
		}},
		{"Vault", "bound_audiences matches one of aud exactly", vaultMethod, (*Parsed).audienceIs},
		{"Vault", "exp, iat or nbf is there", vaultMethod, func(p *Parsed) error { return has(p.Claims, "exp", "iat") }},
		{"Vault", "user_claim, here sub, is a text", vaultAPI, func(p *Parsed) error {
			_, ok := p.Claims["sub"].(string)
			return want(ok, p.Claims["sub"])
		}},
		{"Vault", "bound_claims reach texts within objects: /assay/status", vaultMethod, func(p *Parsed) error {
			a, _ := p.Claims["assay"].(map[string]any)
			_, ok := a["status"].(string)
			return want(ok, a["status"])
		}},
	}
}

func openID() []Constraint {
	return []Constraint{
		{"OIDC", "issuer, authorization_endpoint, jwks_uri, response_types_supported, subject_types_supported and id_token_signing_alg_values_supported are there", discovery, func(p *Parsed) error {
			return has(p.Metadata, "issuer", "authorization_endpoint", "jwks_uri", "response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported")
		}},
		{"OIDC", "RS256 is listed", discovery, func(p *Parsed) error { return listed(p.Metadata["id_token_signing_alg_values_supported"], "RS256") }},
		{"OIDC", "and what tokens are signed with", discovery, func(p *Parsed) error {
			alg, _ := p.Header["alg"].(string)
			return listed(p.Metadata["id_token_signing_alg_values_supported"], alg)
		}},
		{"OIDC", "no private member is in a key", "RFC 7517, section 9.2", func(p *Parsed) error {
			for _, k := range p.Keys {
				for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
					if _, there := k[private]; there {
						return fmt.Errorf("a key has the member %s", private)
					}
				}
			}
			return nil
		}},
		{"OIDC", "no two keys share a kid", "RFC 7517, section 4.5", func(p *Parsed) error {
			seen := map[any]bool{}
			for _, k := range p.Keys {
				if seen[k["kid"]] {
					return fmt.Errorf("kid %v twice", k["kid"])
				}
				seen[k["kid"]] = true
			}
			return nil
		}},
	}
}

func spiffe() []Constraint {
	return []Constraint{
		{"SPIFFE", "the header has alg, kid and typ alone, and typ is JWT or JOSE", spiffeJWT + ", section 2", func(p *Parsed) error {
			for name := range p.Header {
				if err := oneOf(name, "alg", "kid", "typ"); err != nil {
					return err
				}
			}
			return oneOf(p.Header["typ"], "JWT", "JOSE")
		}},
		{"SPIFFE", "sub is a SPIFFE ID", spiffeJWT + ", section 3.1", func(p *Parsed) error {
			s, _ := p.Claims["sub"].(string)
			return want(strings.HasPrefix(s, "spiffe://"), s)
		}},
		{"SPIFFE", "aud is there", spiffeJWT + ", section 3.2", (*Parsed).audienceIs},
		{"SPIFFE", "exp is there", spiffeJWT + ", section 3.3", func(p *Parsed) error { return has(p.Claims, "exp") }},
	}
}

func (p *Parsed) keyIsThere() error {
	for _, k := range p.Keys {
		if k["kid"] == p.Header["kid"] && k["kid"] != "" && k["kid"] != nil {
			return nil
		}
	}
	return fmt.Errorf("no key has the id %v", p.Header["kid"])
}

func (p *Parsed) issuerIs() error {
	return want(p.Claims["iss"] == p.Issuer && p.Metadata["issuer"] == p.Issuer, fmt.Sprint(p.Claims["iss"], " ", p.Metadata["issuer"]))
}

func (p *Parsed) audienceIs() error {
	switch aud := p.Claims["aud"].(type) {
	case string:
		return want(aud == p.Audience, aud)
	case []any:
		return want(slices.Contains(aud, any(p.Audience)), aud)
	}
	return errors.New("aud is missing")
}

func (p *Parsed) time(name string) time.Time {
	f, _ := p.Claims[name].(float64)
	return time.Unix(int64(f), 0)
}

// tags are the session tags; each must be a list of one text.
func (p *Parsed) tags() (map[string]string, error) {
	claim, there := p.Claims["https://aws.amazon.com/tags"]
	if !there {
		return nil, nil
	}
	c, _ := claim.(map[string]any)
	tags, ok := c["principal_tags"].(map[string]any)
	if !ok {
		return nil, errors.New("principal_tags is not an object")
	}
	out := map[string]string{}
	for k, v := range tags {
		list, ok := v.([]any)
		if !ok || len(list) != 1 {
			return nil, fmt.Errorf("the tag %s is not a list of one", k)
		}
		if out[k], ok = list[0].(string); !ok {
			return nil, fmt.Errorf("the tag %s is not a text", k)
		}
	}
	return out, nil
}

func want(ok bool, got any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("got %v", got)
}

func has(o map[string]any, names ...string) error {
	for _, n := range names {
		if v, ok := o[n]; !ok || v == nil {
			return fmt.Errorf("%s is missing", n)
		}
	}
	return nil
}

func listed(v any, names ...string) error {
	list, _ := v.([]any)
	for _, n := range names {
		if !slices.Contains(list, any(n)) {
			return fmt.Errorf("%s is not listed in %v", n, list)
		}
	}
	return nil
}

func oneOf(v any, allowed ...string) error {
	s, ok := v.(string)
	if !ok || !slices.Contains(allowed, s) {
		return fmt.Errorf("%v is none of %v", v, allowed)
	}
	return nil
}
