package federation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// Bounds of one bundle. An agent accepts as many.
const (
	MaxDocument    = 256 << 10 // bytes
	MaxAuthorities = 64        // X.509, and as many for JWT
	maxKeys        = 512       // elements of the set, those that are ignored too
	maxKeyID       = 256       // bytes
	maxJWKS        = 64 << 10  // bytes of the JWT authorities alone
	minRSA         = 2048      // bits
	maxRSA         = 8192
)

// maxHintSeconds keeps a refresh hint within what a time.Duration holds; ten years.
const maxHintSeconds = 10 * 365 * 24 * 3600

// Parse reads a SPIFFE bundle document of the trust domain (SPIFFE Trust Domain and
// Bundle, section 4). Keys of a type or use that SPIFFE does not define are ignored
// as it demands, and said in ignored; so are keys too weak to trust. Everything else
// that is not as it should be refuses the whole document. The checks:
//
//	bundle_size          at most MaxDocument bytes
//	bundle_format        a JWK Set in UTF-8, no member twice, no private key
//	bundle_authorities   at most MaxAuthorities of each use, X.509 ones CA certificates, JWT ones with different key IDs
//	bundle_trust_domain  no X.509 authority names another trust domain
//
// A bundle without any key is no error: it says that everything is revoked (section
// 4.1.3).
func Parse(td spiffeid.TrustDomain, doc []byte) (b *spiffebundle.Bundle, ignored []string, err error) {
	defer func() {
		if r := recover(); r != nil { // the JOSE library reads what strangers wrote
			b, ignored, err = nil, nil, malformed("bundle_format", fmt.Errorf("the parser failed: %v", r))
		}
	}()
	if len(doc) > MaxDocument {
		return nil, nil, malformed("bundle_size", fmt.Errorf("more than %d bytes", MaxDocument))
	}
	if !utf8.Valid(doc) {
		return nil, nil, malformed("bundle_format", errors.New("not UTF-8"))
	}
	top, err := object(doc)
	if err != nil {
		return nil, nil, malformed("bundle_format", fmt.Errorf("not a JWK Set: %w", err))
	}
	b = spiffebundle.New(td)
	if err := numbers(b, top); err != nil {
		return nil, nil, malformed("bundle_format", err)
	}
	var keys []json.RawMessage
	if err := json.Unmarshal(top["keys"], &keys); err != nil || keys == nil {
		return nil, nil, malformed("bundle_format", errors.New("there is no array of keys"))
	}
	if len(keys) > maxKeys {
		return nil, nil, malformed("bundle_authorities", fmt.Errorf("%d keys, at most %d", len(keys), maxKeys))
	}
	for i, raw := range keys {
		why, err := add(b, raw)
		if err != nil {
			return nil, nil, at(i, err)
		}
		if why != "" {
			ignored = append(ignored, fmt.Sprintf("key %d: %s", i, why))
		}
	}
	if x, j := len(b.X509Authorities()), len(b.JWTAuthorities()); x > MaxAuthorities || j > MaxAuthorities {
		return nil, nil, malformed("bundle_authorities", fmt.Errorf("%d X.509 and %d JWT authorities, at most %d of each", x, j, MaxAuthorities))
	}
	if jwks, err := EncodeJWT(b); err != nil || len(jwks) > maxJWKS {
		return nil, nil, malformed("bundle_authorities", fmt.Errorf("the JWT authorities have %d bytes, at most %d", len(jwks), maxJWKS))
	}
	return b, ignored, nil
}

// numbers reads sequence number and refresh hint. null is as good as none; a hint
// that is none (zero, negative) is left out, since it is only a hint.
func numbers(b *spiffebundle.Bundle, top map[string]json.RawMessage) error {
	if raw, ok := top["spiffe_sequence"]; ok && string(raw) != "null" {
		var n uint64
		if err := json.Unmarshal(raw, &n); err != nil {
			return errors.New("spiffe_sequence is not an integer of 64 bits")
		}
		b.SetSequenceNumber(n)
	}
	if raw, ok := top["spiffe_refresh_hint"]; ok && string(raw) != "null" {
		var n int64
		if err := json.Unmarshal(raw, &n); err != nil {
			return errors.New("spiffe_refresh_hint is not an integer")
		}
		if n > 0 {
			b.SetRefreshHint(time.Duration(min(n, maxHintSeconds)) * time.Second)
		}
	}
	return nil
}

// add adds one key of the set to the bundle, or says why it is ignored.
func add(b *spiffebundle.Bundle, raw json.RawMessage) (ignored string, err error) {
	m, err := object(raw)
	if err != nil {
		return "", malformed("bundle_format", fmt.Errorf("not a JWK: %w", err))
	}
	kty, use := word(m["kty"]), word(m["use"])
	switch {
	case use != "x509-svid" && use != "jwt-svid":
		return fmt.Sprintf("unknown use %.40q", use), nil
	case kty != "EC" && kty != "RSA" && kty != "OKP":
		return fmt.Sprintf("unknown type %.40q", kty), nil
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, ok := m[private]; ok {
			return "", malformed("bundle_format", errors.New("a private key is published"))
		}
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(raw, &key); err != nil {
		return "", malformed("bundle_format", fmt.Errorf("not a JWK: %.200s", err.Error()))
	}
	if use == "x509-svid" {
		return addX509(b, key)
	}
	return addJWT(b, key)
}

// addX509: a single certificate in x5c (X509-SVID, section 6.1), of a CA. One that
// carries a SPIFFE ID carries that of its own trust domain (section 2): another one
// means that the wrong endpoint is asked, or answers.
func addX509(b *spiffebundle.Bundle, key jose.JSONWebKey) (ignored string, err error) {
	if len(key.Certificates) != 1 {
		return "", malformed("bundle_authorities", fmt.Errorf("%d certificates, want 1", len(key.Certificates)))
	}
	c := key.Certificates[0]
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return "", malformed("bundle_authorities", errors.New("an X.509 authority is no CA certificate"))
	}
	for _, u := range c.URIs {
		if strings.EqualFold(u.Scheme, "spiffe") && u.Host != b.TrustDomain().Name() {
			return "", &attest.Error{Kind: attest.Untrusted, Check: "bundle_trust_domain",
				Err:  fmt.Errorf("an X.509 authority is that of %.100q", u.Host),
				Hint: "the endpoint serves the bundle of another trust domain: check the URL"}
		}
	}
	if _, ok := c.PublicKey.(ed25519.PublicKey); !ok {
		if why := weak(c.PublicKey); why != "" {
			return why, nil
		}
	}
	b.AddX509Authority(c)
	return "", nil
}

// weak says why a key cannot be trusted, or is no key of a signature that SPIFFE
// libraries know.
func weak(key any) string {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return "unknown curve"
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return fmt.Sprintf("an RSA key of %d bits, want %d to %d", n, minRSA, maxRSA)
		}
	default:
		return "no key of SVIDs"
	}
	return ""
}

// addJWT: a key with an ID (JWT-SVID, section 6), of an algorithm that JWT-SVIDs may
// be signed with (section 2.1).
func addJWT(b *spiffebundle.Bundle, key jose.JSONWebKey) (ignored string, err error) {
	if why := weak(key.Key); why != "" {
		return why, nil
	}
	switch {
	case key.KeyID == "" || len(key.KeyID) > maxKeyID:
		return "", malformed("bundle_authorities", fmt.Errorf("a JWT authority has a key ID of %d bytes, want 1 to %d", len(key.KeyID), maxKeyID))
	case b.HasJWTAuthority(key.KeyID):
		return "", malformed("bundle_authorities", fmt.Errorf("two JWT authorities have the key ID %.80q", key.KeyID))
	}
	return "", b.AddJWTAuthority(key.KeyID, key.Key)
}

// object reads one JSON object and nothing after it. A member that is there twice is
// refused: readers would differ in which one counts.
func object(raw []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		name, ok := t.(string)
		if _, twice := out[name]; !ok || twice {
			return nil, fmt.Errorf("member %.40q is there twice", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, errors.New("not JSON")
		}
		out[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return out, nil
}

// word is a JSON string, or empty.
func word(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func malformed(check string, err error) error {
	return &attest.Error{Kind: attest.Malformed, Check: check, Err: err, Hint: "a SPIFFE bundle document is wanted (SPIFFE Trust Domain and Bundle, section 4)"}
}

// at says of which key an error is.
func at(i int, err error) error {
	var e *attest.Error
	if errors.As(err, &e) {
		out := *e
		out.Err = fmt.Errorf("key %d: %w", i, e.Err)
		return &out
	}
	return fmt.Errorf("key %d: %w", i, err)
}
