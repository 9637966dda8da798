package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
)

// JWKThumbprint is the key id of a JWT authority: the JWK Thumbprint (RFC 7638)
// with SHA-256, in base64url. Whoever has the key can compute it, so that a key
// has one name in tokens, in bundles and in the OIDC key set, and no two keys share
// one. ECDSA on P-256, P-384 or P-521, RSA, and Ed25519 (RFC 8037).
func JWKThumbprint(key crypto.PublicKey) (string, error) {
	members, err := jwkMembers(key)
	if err != nil {
		return "", err
	}
	// RFC 7638, section 3: the required members alone, in the order of their names,
	// without white space. That is what encoding/json makes of a map; none of the
	// values has a character that it would escape.
	canonical, err := json.Marshal(members)
	if err != nil {
		return "", fmt.Errorf("encode JWK: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// JWK is a public signing key as a JSON Web Key (RFC 7517, RFC 7518 section 6),
// with its thumbprint as kid and the given use: "sig" in an OIDC key set,
// "jwt-svid" in a SPIFFE bundle.
func JWK(key crypto.PublicKey, use string) (map[string]string, error) {
	out, err := jwkMembers(key)
	if err != nil {
		return nil, err
	}
	if out["kid"], err = JWKThumbprint(key); err != nil {
		return nil, err
	}
	out["use"] = use
	if k, ok := key.(*ecdsa.PublicKey); ok {
		for name, a := range algorithms() {
			if a.curve == k.Curve {
				out["alg"] = name
			}
		}
	}
	return out, nil
}

// jwkMembers are the members that a thumbprint covers (RFC 7638, section 3.2).
func jwkMembers(key crypto.PublicKey) (map[string]string, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k == nil || k.Curve == nil || k.X == nil || k.Y == nil {
			return nil, fmt.Errorf("the ECDSA key is incomplete")
		}
		var crv string
		switch k.Curve {
		case elliptic.P256():
			crv = "P-256"
		case elliptic.P384():
			crv = "P-384"
		case elliptic.P521():
			crv = "P-521"
		default:
			return nil, fmt.Errorf("an ECDSA key on %s: want P-256, P-384 or P-521", k.Params().Name)
		}
		point, err := k.Bytes() // 0x04 ‖ X ‖ Y, and refuses a point off the curve
		if err != nil {
			return nil, fmt.Errorf("the ECDSA key is not valid: %w", err)
		}
		n := (len(point) - 1) / 2
		return map[string]string{"kty": "EC", "crv": crv, "x": b64(point[1 : 1+n]), "y": b64(point[1+n:])}, nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("the Ed25519 key has %d bytes, want %d", len(k), ed25519.PublicKeySize)
		}
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}, nil
	case *rsa.PublicKey:
		if k == nil || k.N == nil || k.E <= 0 {
			return nil, fmt.Errorf("the RSA key is incomplete")
		}
		return map[string]string{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}, nil
	}
	return nil, fmt.Errorf("a key of type %T: want ECDSA, Ed25519 or RSA", key)
}
