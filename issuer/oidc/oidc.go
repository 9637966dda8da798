package oidc

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/issuer/web"
	"github.com/assay-project/assay/svid"
)

// Where the documents are, under the issuer URL.
const (
	DiscoveryPath = "/.well-known/openid-configuration" // OpenID Connect Discovery 1.0, section 4
	KeysPath      = "/keys"
)

// The uses of a key (RFC 7517, section 4.2).
const (
	UseSignature = "sig"      // in an OIDC key set
	UseSPIFFE    = "jwt-svid" // in a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4.2.2)
)

// maxIssuer is the longest issuer URL that AWS takes, in bytes.
const maxIssuer = 255

// discoveryAge is how long the discovery document may be kept: it changes with
// the configuration alone.
const discoveryAge = time.Hour

// Provider makes the documents of one issuer.
type Provider struct {
	issuer string
	keys   func() map[string]crypto.PublicKey
	maxAge time.Duration
}

// New makes a provider for an issuer URL. keys returns the JWT authorities of the
// trust domain by their key ids, those that are only published among them; maxAge is
// how long relying parties may keep the key set: no longer than the refresh hint of
// the bundle.
func New(issuer string, keys func() map[string]crypto.PublicKey, maxAge time.Duration) (*Provider, error) {
	if err := CheckIssuer(issuer); err != nil {
		return nil, err
	}
	if keys == nil {
		return nil, errors.New("oidc: no source of keys")
	}
	return &Provider{issuer: issuer, keys: keys, maxAge: maxAge}, nil
}

// CheckIssuer says whether a URL can be an issuer: https, a host, no user, query
// or fragment, no slash at the end, a path whose segments have one spelling, at most
// 255 bytes. Relying parties compare it byte for byte with iss, and append paths to
// it.
func CheckIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil:
		return fmt.Errorf("the issuer is no URL: %w", err)
	case len(issuer) > maxIssuer:
		return fmt.Errorf("the issuer has %d bytes, at most %d are taken", len(issuer), maxIssuer)
	case u.Scheme != "https":
		return fmt.Errorf("the issuer %.80q does not begin with https://", issuer)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(issuer, "#"):
		return fmt.Errorf("the issuer %.80q is not https://HOST or https://HOST/PATH", issuer)
	case strings.HasSuffix(issuer, "/"):
		return fmt.Errorf("the issuer %.80q ends in a slash", issuer)
	case u.String() != issuer || strings.ToLower(u.Host) != u.Host:
		return fmt.Errorf("the issuer %.80q is not written as relying parties compare it: %s", issuer, strings.ToLower(u.Scheme+"://"+u.Host)+u.EscapedPath())
	case u.Path != "" && !plainPath(u.EscapedPath()):
		return fmt.Errorf("the path of the issuer %.80q has more than segments of letters, digits and -._~: clients and proxies would rewrite it", issuer)
	}
	return nil
}

// plainPath reports whether everybody on the way writes a path in the same way: of
// its segments none is empty, only dots, and none can be escaped (RFC 3986,
// section 6.2.2).
func plainPath(path string) bool {
	for _, segment := range strings.Split(path, "/")[1:] {
		if strings.Trim(segment, ".") == "" || strings.Trim(segment, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") != "" {
			return false
		}
	}
	return true
}

// Advice says what relying parties may not take of an issuer that CheckIssuer
// takes.
func Advice(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil || u.Port() == "" {
		return nil
	}
	return []string{"jwt.issuer has a port: AWS takes none"}
}

// Documents are the discovery document and the key set by the paths that they are
// served at: under the path of the issuer URL, where relying parties look, and, where
// that is not the root, at the root as well: for a proxy that takes the path off.
func (p *Provider) Documents() map[string]func(context.Context) (web.Content, error) {
	out := map[string]func(context.Context) (web.Content, error){DiscoveryPath: p.Discovery, KeysPath: p.Keys}
	if u, err := url.Parse(p.issuer); err == nil { // New has checked it
		out[u.Path+DiscoveryPath], out[u.Path+KeysPath] = p.Discovery, p.Keys
	}
	return out
}

// metadata is the provider metadata (OpenID Connect Discovery 1.0, section 3).
type metadata struct {
	Issuer        string   `json:"issuer"`
	JWKS          string   `json:"jwks_uri"`
	Authorization string   `json:"authorization_endpoint"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
}

// Discovery is the discovery document, for [web.Document].
func (p *Provider) Discovery(context.Context) (web.Content, error) {
	body, err := json.Marshal(metadata{
		Issuer: p.issuer,
		JWKS:   p.issuer + KeysPath,
		// Required, and there is none: nobody is sent anywhere to log in. Tokens come
		// from the Workload API.
		Authorization: "urn:assay:workload-api",
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		// Tokens are signed with ES256; the specification wants RS256 in the list.
		Algorithms: []string{"ES256", "RS256"},
		Claims:     []string{"iss", "sub", "aud", "exp", "iat", "jti", "assay", "https://aws.amazon.com/tags"},
	})
	if err != nil {
		return web.Content{}, err
	}
	return web.Content{Type: "application/json", Body: body, MaxAge: discoveryAge}, nil
}

// Keys is the key set, for [web.Document].
func (p *Provider) Keys(context.Context) (web.Content, error) {
	body, err := JWKS(p.keys(), UseSignature)
	if err != nil {
		return web.Content{}, err
	}
	return web.Content{Type: "application/jwk-set+json", Body: body, MaxAge: p.maxAge}, nil
}

// JWKS writes JWT authorities as a JWK Set (RFC 7517) in one spelling: in the
// order of their key ids. The use is [UseSignature] or [UseSPIFFE]. A key whose id is
// not its thumbprint is an error: two servers would call it by two names. No key at
// all is an error as well: a relying party that reads an empty set refuses everybody.
func JWKS(keys map[string]crypto.PublicKey, use string) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errors.New("there is no JWT authority")
	}
	set := struct {
		Keys []map[string]string `json:"keys"`
	}{}
	for kid, key := range keys {
		jwk, err := svid.JWK(key, use)
		if err != nil {
			return nil, fmt.Errorf("JWT authority %.64q: %w", kid, err)
		}
		if jwk["kid"] != kid {
			return nil, fmt.Errorf("JWT authority %.64q: its thumbprint is %s", kid, jwk["kid"])
		}
		set.Keys = append(set.Keys, jwk)
	}
	slices.SortFunc(set.Keys, func(a, b map[string]string) int { return strings.Compare(a["kid"], b["kid"]) })
	return json.Marshal(set)
}
