package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Sizes of the protocol (docs/spec/protocol.md).
const (
	NonceSize    = 32 // bytes of a challenge nonce
	ExporterSize = 32 // bytes taken from the TLS 1.3 exporter
	MaxKeys      = 16 // keys in one attestation
)

// ExporterLabel is the TLS exporter label (RFC 8446, section 7.5); the context
// is the trust domain's name.
const ExporterLabel = "EXPERIMENTAL assay v1"

// Nonce is a server's fresh random value, valid in one stream for one answer.
type Nonce [NonceSize]byte

// Purpose says why an agent attests.
type Purpose string

// The purposes. A renewal also proves possession of the previous leaf key.
const (
	Boot  Purpose = "boot"
	Renew Purpose = "renew"
)

// BoundKey is one public key that the evidence must vouch for.
type BoundKey struct {
	SPKI        []byte // DER SubjectPublicKeyInfo, as in the CSR
	RequestedID string // the SPIFFE ID asked for, or "" for the next granted one
}

// Challenge is everything that the binding covers. Server and agent each build
// it from what they know themselves; only the nonce crosses the wire.
type Challenge struct {
	Platform    Platform
	TrustDomain string             // "attested.example.org", without scheme
	ServerID    string             // "spiffe://attested.example.org/assay/server"
	Exporter    [ExporterSize]byte // TLS exporter of the connection
	Nonce       Nonce
	Keys        []BoundKey
	Purpose     Purpose
	// PCRBank is the bank that a TPM has to quote, "sha256" or "sha384"; empty for
	// other platforms. B does not cover it: the quote itself says which bank it
	// is of.
	PCRBank string
}

// Binding is what the evidence must carry, in the place that the platform has
// for it (docs/spec/binding.md).
type Binding struct {
	B     [32]byte   // SHA-256 over the deterministic CBOR of the challenge
	Nonce [32]byte   // the nonce, for platforms with a field of their own for it
	Keys  []BoundKey // in the order of the challenge

	PCRBank string // a TPM's bank, as the challenge demands it
}

// bindingTag is the domain separator of B. Evidence that is collected outside
// an attestation uses another (see [CollectedBinding]), and is refused here.
const (
	bindingTag   = "assay/v1 binding"
	collectedTag = "assay/v1 collected"
)

// deterministic is RFC 8949 section 4.2.1 Core Deterministic Encoding. The
// options are constant, so that building the mode cannot fail.
var deterministic = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic("attest: constant CBOR options refused: " + err.Error())
	}
	return m
}()

// Binding computes B. It refuses a challenge with a missing part: there is no
// "empty means skip". The error is [Malformed], check "challenge".
func (c Challenge) Binding() (Binding, error) {
	if err := c.check(); err != nil {
		return Binding{}, &Error{Kind: Malformed, Check: "challenge", Err: err}
	}
	keys := make([]any, len(c.Keys))
	for i, k := range c.Keys {
		sum := sha256.Sum256(k.SPKI)
		keys[i] = []any{sum[:], k.RequestedID}
	}
	enc, err := deterministic.Marshal([]any{
		bindingTag, string(c.Platform), c.TrustDomain, c.ServerID,
		c.Exporter[:], c.Nonce[:], keys, string(c.Purpose),
	})
	if err != nil {
		return Binding{}, &Error{Kind: Internal, Check: "challenge", Err: err}
	}
	return Binding{B: sha256.Sum256(enc), Nonce: c.Nonce, Keys: c.Keys, PCRBank: c.PCRBank}, nil
}

func (c Challenge) check() error {
	if _, err := ParsePlatform(string(c.Platform)); err != nil {
		return err
	}
	switch {
	case c.TrustDomain == "":
		return errors.New("trust domain is empty")
	case c.ServerID == "":
		return errors.New("server SPIFFE ID is empty")
	case c.Exporter == [ExporterSize]byte{}:
		return errors.New("TLS exporter is all zero")
	case c.Nonce == Nonce{}:
		return errors.New("nonce is all zero")
	case len(c.Keys) == 0 || len(c.Keys) > MaxKeys:
		return fmt.Errorf("%d keys, want 1 to %d", len(c.Keys), MaxKeys)
	case c.Purpose != Boot && c.Purpose != Renew:
		return fmt.Errorf("purpose %q, want %q or %q", clip(string(c.Purpose), 40), Boot, Renew)
	}
	for i, k := range c.Keys {
		if len(k.SPKI) == 0 {
			return fmt.Errorf("key %d is empty", i)
		}
	}
	return nil
}

// CollectedBinding is the value that `assay evidence collect` puts into
// evidence: SHA-256(CBOR["assay/v1 collected", nonce]). Its tag differs from
// that of [Challenge.Binding], so collected evidence never attests.
func CollectedBinding(nonce []byte) ([32]byte, error) {
	if len(nonce) == 0 {
		return [32]byte{}, &Error{Kind: Malformed, Check: "challenge", Err: errors.New("nonce is empty")}
	}
	enc, err := deterministic.Marshal([]any{collectedTag, nonce})
	if err != nil {
		return [32]byte{}, &Error{Kind: Internal, Check: "challenge", Err: err}
	}
	return sha256.Sum256(enc), nil
}
