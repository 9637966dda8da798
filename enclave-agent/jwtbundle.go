package agent

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds of a trust domain's JWT authorities.
const (
	maxJWKS           = 64 << 10 // bytes
	maxJWTAuthorities = 64
)

// noAuthorities is the key set of a trust domain that signs no tokens.
const noAuthorities = `{"keys":[]}`

// jwtAuthorities are the checked JWT authorities of one trust domain.
type jwtAuthorities struct {
	raw    []byte // a JWK Set, as workloads get it
	bundle *jwtbundle.Bundle
}

// checkJWTAuthorities reads the JWT authorities that a server hands out for a
// trust domain: none, or a JWK Set of public keys for signatures, each with a key
// id of its own. Workloads give it to libraries that are less strict.
func checkJWTAuthorities(jwks []byte, td spiffeid.TrustDomain) (*jwtAuthorities, error) {
	if len(jwks) == 0 {
		jwks = []byte(noAuthorities)
	}
	bad := func(err error) (*jwtAuthorities, error) {
		return nil, replyError("bundle_jwt_authorities", "the JWT authorities of %s: %w", td, err)
	}
	if len(jwks) > maxJWKS {
		return bad(fmt.Errorf("%d bytes, at most %d", len(jwks), maxJWKS))
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return bad(err)
	}
	if len(set.Keys) > maxJWTAuthorities {
		return bad(fmt.Errorf("%d keys, at most %d", len(set.Keys), maxJWTAuthorities))
	}
	seen := map[string]bool{}
	for i, k := range set.Keys {
		kid, _ := k["kid"].(string)
		kty, _ := k["kty"].(string)
		use, _ := k["use"].(string)
		_, private := k["d"]
		switch {
		case kid == "" || seen[kid]:
			return bad(fmt.Errorf("key %d has no id, or another's", i))
		case kty != "EC" && kty != "RSA":
			return bad(fmt.Errorf("key %d is of type %q: no key that signs JWT-SVIDs", i, clip(kty)))
		case private:
			return bad(fmt.Errorf("key %d is private", i))
		case k["use"] != nil && use != "jwt-svid" && use != "sig":
			return bad(fmt.Errorf("key %d is for %q", i, clip(use)))
		}
		seen[kid] = true
	}
	b, err := jwtbundle.Parse(td, jwks)
	if err != nil {
		return bad(err)
	}
	if len(b.JWTAuthorities()) != len(set.Keys) {
		return bad(errors.New("keys that cannot be read"))
	}
	return &jwtAuthorities{raw: jwks, bundle: b}, nil
}
