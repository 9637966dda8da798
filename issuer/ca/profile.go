package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxSPIFFEID is the longest SPIFFE ID that is issued, in bytes (a limit of GCP's
// workload identity federation).
const MaxSPIFFEID = 127

// ReservedPath begins the paths that are the service's own; no grant yields one.
const ReservedPath = "/assay/"

// profile is what one SVID must be. Draft and lint both start from it, and
// share nothing else.
type profile struct {
	by        pair
	id        spiffeid.ID
	serial    [16]byte
	spki      []byte           // the leaf's key, DER
	key       crypto.PublicKey // the same, parsed
	issuedAt  time.Time
	notBefore time.Time
	notAfter  time.Time // whole seconds
}

// keyID is a subject key identifier: the leftmost 160 bits of SHA-256 of the
// public key's bits (RFC 7093, section 2, method 1).
func keyID(spki []byte) ([]byte, error) {
	var s struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &s); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("not a SubjectPublicKeyInfo: %w", err)
	}
	sum := sha256.Sum256(s.Key.Bytes)
	return sum[:20], nil
}

// checkKeyType accepts the keys that SVIDs may have: P-256, P-384, Ed25519, and
// RSA of 2048 to 4096 bits with an exponent that is not weak.
func checkKeyType(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("an ECDSA key on %s, want P-256 or P-384", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("an Ed25519 key of %d bytes", len(k))
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Errorf("an RSA key of %d bits, want 2048 to 4096", bits)
		}
		// NIST SP 800-56B, section 6.2: odd, and greater than 2^16.
		if k.E <= 1<<16 || k.E%2 == 0 {
			return fmt.Errorf("an RSA key with the exponent %d, want an odd one above 65536", k.E)
		}
	default:
		return fmt.Errorf("a %T, want P-256, P-384, Ed25519 or RSA", key)
	}
	return nil
}

// checkID accepts the SPIFFE IDs that grants may yield. It returns the name of
// the rule that fails.
func checkID(id spiffeid.ID, td spiffeid.TrustDomain) (rule string, err error) {
	switch {
	case id.TrustDomain() != td:
		return "lint_trust_domain", fmt.Errorf("%s is of another trust domain than %s", id, td)
	case id.Path() == "":
		return "lint_id_path", fmt.Errorf("%s names the trust domain, not a workload", id)
	case len(id.String()) > MaxSPIFFEID:
		return "lint_id_length", fmt.Errorf("the SPIFFE ID has %d bytes, at most %d are issued", len(id.String()), MaxSPIFFEID)
	case id.Path() == "/assay" || len(id.Path()) >= len(ReservedPath) && id.Path()[:len(ReservedPath)] == ReservedPath:
		return "lint_id_reserved", fmt.Errorf("%s is reserved for the service itself", id)
	}
	return "", nil
}
