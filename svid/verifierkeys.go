package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// Limits of a verifier-keys document.
const (
	MaxVerifierKeysSize = 16 << 10 // bytes
	maxVerifierKeys     = 64
)

// MaxClockSkew is how far ahead of the relying party's clock an issued-at time
// may be. Expiries have no such allowance.
const MaxClockSkew = time.Minute

// VerifierKey is one key that signs attestation results.
type VerifierKey struct {
	Key *ecdsa.PublicKey // on P-256
	// A result counts only if it was issued (iat) in [NotBefore, NotAfter). The
	// results themselves end with their own expiry.
	NotBefore, NotAfter time.Time
}

// VerifierKeys is the content of an assay.verifier-keys.v1 document: which keys
// may sign the attestation results of one trust domain. A key that is not in
// it, or no longer, signs nothing that counts.
type VerifierKeys struct {
	TrustDomain spiffeid.TrustDomain
	// Sequence grows with every document that is published. [Keyring] refuses
	// one that is lower than what it has seen.
	Sequence uint64
	IssuedAt time.Time
	// NextUpdate is when the document stops being good: whoever holds it must
	// have fetched a newer one by then.
	NextUpdate time.Time
	Keys       []VerifierKey
}

// keysDocument is the payload of the document.
type keysDocument struct {
	TrustDomain string     `cbor:"1,keyasint"`
	Sequence    uint64     `cbor:"2,keyasint"`
	IssuedAt    int64      `cbor:"3,keyasint"`
	NextUpdate  int64      `cbor:"4,keyasint"`
	Keys        []keyEntry `cbor:"5,keyasint"`
}

type keyEntry struct {
	_         struct{} `cbor:",toarray"`
	Key       coseEC2
	NotBefore int64
	NotAfter  int64
}

// Sign writes the document, signed by the verifier root, whose key must be on
// P-256. Times are cut to seconds.
func (k *VerifierKeys) Sign(root crypto.Signer) ([]byte, error) {
	return k.signAs(typeVerifierKeys, root)
}

func (k *VerifierKeys) signAs(typ string, root crypto.Signer) ([]byte, error) {
	doc := keysDocument{
		TrustDomain: k.TrustDomain.Name(),
		Sequence:    k.Sequence,
		IssuedAt:    k.IssuedAt.Unix(),
		NextUpdate:  k.NextUpdate.Unix(),
	}
	for i, v := range k.Keys {
		pub, err := p256(v.Key)
		if err != nil {
			return nil, fail(attest.Internal, "verifier_keys_encode", "key %d: %w", i, err)
		}
		c, err := coseKeyEC2(pub)
		if err != nil {
			return nil, fail(attest.Internal, "verifier_keys_encode", "key %d: %w", i, err)
		}
		doc.Keys = append(doc.Keys, keyEntry{Key: c, NotBefore: v.NotBefore.Unix(), NotAfter: v.NotAfter.Unix()})
	}
	payload, err := encMode.Marshal(doc)
	if err != nil {
		return nil, fail(attest.Internal, "verifier_keys_encode", "%w", err)
	}
	if _, err := decodeVerifierKeys(payload); err != nil {
		return nil, fail(attest.Internal, "verifier_keys_encode", "%w", err)
	}
	out, err := signSign1(root, typ, payload)
	if err != nil {
		return nil, fail(attest.Internal, "verifier_keys_sign", "%w", err)
	}
	if len(out) > MaxVerifierKeysSize {
		return nil, fail(attest.Internal, "verifier_keys_size", "the document has %d bytes, at most %d are allowed", len(out), MaxVerifierKeysSize)
	}
	return out, nil
}

// ParseVerifierKeys reads a document and verifies it against the pinned
// verifier root at a time. The document may come from anywhere. A caller that
// keeps documents must also refuse one with a lower sequence than before:
// [Keyring] does. The checks, in order:
//
//	verifier_keys_size       Malformed: at most MaxVerifierKeysSize bytes
//	cose_…                   Malformed: the structure of the COSE_Sign1
//	verifier_root            Untrusted: signed under the pinned root's key id
//	verifier_keys_signature  Untrusted: the signature
//	verifier_keys_structure  Malformed: deterministic CBOR, types
//	verifier_keys_content    Malformed: names, times, 1 to 64 different keys
//	verifier_keys_future     Stale: issued more than MaxClockSkew ahead
//	verifier_keys_expired    Stale: next_update has come
func ParseVerifierKeys(doc []byte, root crypto.PublicKey, at time.Time) (*VerifierKeys, error) {
	return parseKeys(doc, typeVerifierKeys, root, at)
}

func parseKeys(doc []byte, typ string, root crypto.PublicKey, at time.Time) (*VerifierKeys, error) {
	if len(doc) > MaxVerifierKeysSize {
		return nil, fail(attest.Malformed, "verifier_keys_size", "the document has %d bytes, at most %d are read", len(doc), MaxVerifierKeysSize)
	}
	pub, err := p256(root)
	if err != nil {
		return nil, fail(attest.Internal, "verifier_root", "%w", err)
	}
	want, err := ThumbprintOf(pub)
	if err != nil {
		return nil, fail(attest.Internal, "verifier_root", "%w", err)
	}
	s, err := parseSign1(doc, typ)
	if err != nil {
		return nil, err
	}
	if s.keyID != want {
		return nil, mismatch(attest.Untrusted, "verifier_root", "signed by another verifier root than the pinned one", want.String(), s.keyID.String())
	}
	if err := s.verify(pub); err != nil {
		return nil, fail(attest.Untrusted, "verifier_keys_signature", "%w", err)
	}
	k, err := decodeVerifierKeys(s.payload)
	if err != nil {
		return nil, err
	}
	if err := k.current(at); err != nil {
		return nil, err
	}
	return k, nil
}

// current checks the document's own dates.
func (k *VerifierKeys) current(at time.Time) error {
	if k.IssuedAt.After(at.Add(MaxClockSkew)) {
		return fail(attest.Stale, "verifier_keys_future", "the verifier keys of %s were issued at %s, which is in the future", k.TrustDomain, k.IssuedAt.Format(time.RFC3339))
	}
	if !at.Before(k.NextUpdate) {
		err := fail(attest.Stale, "verifier_keys_expired", "the verifier keys of %s were good until %s", k.TrustDomain, k.NextUpdate.Format(time.RFC3339))
		err.Hint = "fetch the current verifier-keys document"
		return err
	}
	return nil
}

func decodeVerifierKeys(payload []byte) (*VerifierKeys, error) {
	var d keysDocument
	if err := decode(payload, &d); err != nil {
		return nil, fail(attest.Malformed, "verifier_keys_structure", "%w", err)
	}
	bad := func(format string, args ...any) (*VerifierKeys, error) {
		return nil, fail(attest.Malformed, "verifier_keys_content", format, args...)
	}
	td, err := spiffeid.TrustDomainFromString(d.TrustDomain)
	if err != nil || td.Name() != d.TrustDomain {
		return bad("%.140q is not the name of a trust domain", d.TrustDomain)
	}
	if d.Sequence == 0 {
		return bad("the sequence is zero")
	}
	if d.IssuedAt <= 0 || d.IssuedAt >= d.NextUpdate || d.NextUpdate > maxTime {
		return bad("issued at %d, next update at %d", d.IssuedAt, d.NextUpdate)
	}
	if len(d.Keys) == 0 || len(d.Keys) > maxVerifierKeys {
		return bad("%d keys, want 1 to %d", len(d.Keys), maxVerifierKeys)
	}
	out := &VerifierKeys{
		TrustDomain: td, Sequence: d.Sequence,
		IssuedAt: unix(d.IssuedAt), NextUpdate: unix(d.NextUpdate),
	}
	seen := make(map[Thumbprint]bool, len(d.Keys))
	for i, e := range d.Keys {
		pub, err := e.Key.publicKey()
		if err != nil {
			return bad("key %d: %w", i, err)
		}
		t, err := ThumbprintOf(pub)
		if err != nil {
			return bad("key %d: %w", i, err)
		}
		if seen[t] {
			return bad("key %d occurs twice", i)
		}
		seen[t] = true
		if e.NotBefore <= 0 || e.NotBefore >= e.NotAfter || e.NotAfter > maxTime {
			return bad("key %d: not before %d, not after %d", i, e.NotBefore, e.NotAfter)
		}
		out.Keys = append(out.Keys, VerifierKey{Key: pub, NotBefore: unix(e.NotBefore), NotAfter: unix(e.NotAfter)})
	}
	return out, nil
}

// find returns the key with this thumbprint.
func (k *VerifierKeys) find(id Thumbprint) (VerifierKey, bool) {
	for _, v := range k.Keys {
		if t, err := ThumbprintOf(v.Key); err == nil && t == id {
			return v, true
		}
	}
	return VerifierKey{}, false
}

// ParseVerifierRoot reads the pinned verifier root: one PEM block "PUBLIC KEY"
// (SubjectPublicKeyInfo) that holds a P-256 key.
func ParseVerifierRoot(pemBytes []byte) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode(pemBytes)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fail(attest.Malformed, "verifier_root", "want one PEM block PUBLIC KEY")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fail(attest.Malformed, "verifier_root", "more than one PEM block: pin one verifier root")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fail(attest.Malformed, "verifier_root", "%w", err)
	}
	pub, err := p256(key)
	if err != nil {
		return nil, fail(attest.Malformed, "verifier_root", "%w", err)
	}
	return pub, nil
}

// MarshalVerifierRoot writes what [ParseVerifierRoot] reads.
func MarshalVerifierRoot(root crypto.PublicKey) ([]byte, error) {
	pub, err := p256(root)
	if err != nil {
		return nil, fmt.Errorf("verifier root: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("verifier root: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
