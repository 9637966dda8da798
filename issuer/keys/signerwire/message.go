package signerwire

import (
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/assay-project/assay/attest"
)

// The types of messages, the second byte of a body.
const (
	typeList      = 0x01
	typeSign      = 0x02
	typeKeys      = 0x81
	typeSignature = 0x82
	typeFailure   = 0xff
)

// Limits on what messages hold, in bytes where nothing else is said.
const (
	MaxKeys      = 64   // keys of a signer
	MaxName      = 64   // a key's name
	MaxMessage   = 4096 // what Ed25519 signs (AWS KMS takes no more)
	MaxSignature = 1024
	maxSPKI      = 800 // RSA-4096 has 550
	maxCheck     = 64
	maxText      = 512
)

// Message is one of [List], [Sign], [Keys], [Signature] and [Failure].
type Message interface {
	append(b []byte) []byte
	check() error
}

// List asks for the keys that the client may use.
type List struct{}

// Sign asks for a signature.
type Sign struct {
	Key     string
	Purpose Purpose
	Scheme  Scheme
	Hash    Hash
	Input   []byte // a digest of Hash, or with Ed25519 the message
}

// Key is one key of a signer.
type Key struct {
	Name      string
	Purposes  []Purpose // at least one
	Algorithm string    // see [AlgorithmOf]
	SPKI      []byte    // the public key (RFC 5280, section 4.1.2.7), DER
}

// Public parses the public key; its algorithm must be the one that is named.
func (k Key) Public() (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(k.SPKI)
	if err != nil {
		return nil, malformed("signer_key", fmt.Errorf("key %.64q: %w", k.Name, err))
	}
	alg, err := AlgorithmOf(pub)
	if err != nil {
		return nil, err
	}
	if alg != k.Algorithm {
		return nil, malformed("signer_key", fmt.Errorf("key %.64q is listed as %.20q and is %s", k.Name, k.Algorithm, alg))
	}
	return pub, nil
}

// Keys answers List.
type Keys struct{ Keys []Key }

// Signature answers Sign.
type Signature struct{ Bytes []byte }

// Failure answers what cannot be done.
type Failure struct {
	Kind              attest.Kind
	Check, Text, Hint string
}

// Fail turns an error into the message that tells it, cut to what fits.
func Fail(err error) Failure {
	f := Failure{Kind: attest.KindOf(err), Check: attest.CheckOf(err), Text: err.Error()}
	var e *attest.Error
	if errors.As(err, &e) {
		f.Hint = e.Hint
		if e.Err != nil {
			f.Text = e.Err.Error()
		}
	}
	if f.Check == "" {
		f.Check = "signer"
	}
	f.Check, f.Text, f.Hint = cut(f.Check, maxCheck), cut(f.Text, maxText), cut(f.Hint, maxText)
	return f
}

// Err turns the message back into the error.
func (f Failure) Err() error {
	return &attest.Error{Kind: f.Kind, Check: f.Check, Err: errors.New(f.Text), Hint: f.Hint}
}

// cut shortens s to n bytes of UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	for !utf8.ValidString(s) {
		if r, size := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && size <= 1 && s != "" {
			s = s[:len(s)-1]
			continue
		}
		return "(not UTF-8)"
	}
	return s
}

// Encode writes a message as the body of a frame. It refuses what Parse would.
func Encode(m Message) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	body := m.append([]byte{Version})
	if len(body) > MaxFrame {
		return nil, malformed("signer_message", fmt.Errorf("the message has %d bytes, a frame at most %d", len(body), MaxFrame))
	}
	return body, nil
}

func (List) check() error           { return nil }
func (List) append(b []byte) []byte { return append(b, typeList) }

func (s Sign) check() error {
	if err := checkName(s.Key); err != nil {
		return err
	}
	if !s.Purpose.Known() {
		return malformed("signer_purpose", fmt.Errorf("%.40q is not a purpose", string(s.Purpose)))
	}
	switch s.Scheme {
	case ECDSA, PKCS1, PSS:
		h := s.Hash.Crypto()
		if h == 0 {
			return malformed("signer_hash", fmt.Errorf("hash %d with scheme %d: want SHA-256, SHA-384 or SHA-512", s.Hash, s.Scheme))
		}
		if len(s.Input) != h.Size() {
			return malformed("signer_digest", fmt.Errorf("a digest of %d bytes, that of %v has %d", len(s.Input), h, h.Size()))
		}
	case Ed25519:
		if s.Hash != NoHash {
			return malformed("signer_hash", fmt.Errorf("hash %d with Ed25519, which signs the message itself", s.Hash))
		}
		if len(s.Input) > MaxMessage {
			return malformed("signer_digest", fmt.Errorf("a message of %d bytes, at most %d are signed", len(s.Input), MaxMessage))
		}
	default:
		return malformed("signer_scheme", fmt.Errorf("unknown scheme %d", s.Scheme))
	}
	return nil
}

func (s Sign) append(b []byte) []byte {
	b = appendText(append(b, typeSign), s.Key)
	b = appendText(b, string(s.Purpose))
	return appendBytes(append(b, byte(s.Scheme), byte(s.Hash)), s.Input)
}

func (k Keys) check() error {
	if len(k.Keys) > MaxKeys {
		return malformed("signer_keys", fmt.Errorf("%d keys, at most %d", len(k.Keys), MaxKeys))
	}
	for i, key := range k.Keys {
		if err := checkName(key.Name); err != nil {
			return err
		}
		if i > 0 && k.Keys[i-1].Name >= key.Name {
			return malformed("signer_keys", fmt.Errorf("key %q is not in its place", key.Name))
		}
		if len(key.Purposes) == 0 {
			return malformed("signer_purpose", fmt.Errorf("key %q has no purpose", key.Name))
		}
		for j, p := range key.Purposes {
			if !p.Known() || slices.Contains(key.Purposes[:j], p) {
				return malformed("signer_purpose", fmt.Errorf("key %q: purpose %.40q is unknown, or there twice", key.Name, string(p)))
			}
		}
		if len(key.SPKI) > maxSPKI {
			return malformed("signer_key", fmt.Errorf("key %q has %d bytes, at most %d", key.Name, len(key.SPKI), maxSPKI))
		}
		if _, err := key.Public(); err != nil {
			return err
		}
	}
	return nil
}

func (k Keys) append(b []byte) []byte {
	b = append(b, typeKeys, byte(len(k.Keys)))
	for _, key := range k.Keys {
		b = append(appendText(b, key.Name), byte(len(key.Purposes)))
		for _, p := range key.Purposes {
			b = appendText(b, string(p))
		}
		b = appendBytes(appendText(b, key.Algorithm), key.SPKI)
	}
	return b
}

func (s Signature) check() error {
	if len(s.Bytes) == 0 || len(s.Bytes) > MaxSignature {
		return malformed("signer_signature", fmt.Errorf("a signature of %d bytes, want 1 to %d", len(s.Bytes), MaxSignature))
	}
	return nil
}

func (s Signature) append(b []byte) []byte { return appendBytes(append(b, typeSignature), s.Bytes) }

func (f Failure) check() error {
	switch f.Kind {
	case attest.Internal, attest.Malformed, attest.Untrusted, attest.Stale, attest.Denied, attest.Unavailable:
	default:
		return malformed("signer_failure", fmt.Errorf("unknown kind %d", f.Kind))
	}
	for _, t := range []struct {
		text string
		most int
	}{{f.Check, maxCheck}, {f.Text, maxText}, {f.Hint, maxText}} {
		if len(t.text) > t.most || !utf8.ValidString(t.text) {
			return malformed("signer_failure", fmt.Errorf("a text of %d bytes that is too long or not UTF-8", len(t.text)))
		}
	}
	return nil
}

func (f Failure) append(b []byte) []byte {
	b = append(b, typeFailure, byte(f.Kind))
	return appendText(appendText(appendText(b, f.Check), f.Text), f.Hint)
}

// checkName: the names that keys have everywhere in the issuer.
func checkName(name string) error {
	ok := name != "" && len(name) <= MaxName && name[0] >= 'a' && name[0] <= 'z'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return malformed("signer_name", fmt.Errorf("%.70q is not a key name: want 1 to %d of a-z, 0-9 and '-', beginning with a letter", name, MaxName))
	}
	return nil
}

func appendText(b []byte, s string) []byte { return appendBytes(b, []byte(s)) }

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}
