package ledger

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A checkpoint is a signed note (https://c2sp.org/signed-note): text, an empty
// line, and a line for each signature,
//
//	— NAME BASE64(keyid ‖ signature)
//
// where keyid is the first 4 bytes of SHA-256(NAME ‖ "\n" ‖ 01 ‖ public key),
// 01 stands for Ed25519, and the signature covers the text with its last line
// feed. Anything that reads signed notes can check one.

const (
	noteEd25519  = 0x01 // C2SP signature type
	sigPrefix    = "— "
	maxNote      = 64 << 10 // bytes
	maxNoteLines = 100      // of signatures: witnesses may add theirs
)

// VerifierKey is the public key of checkpoints, with the name that it signs
// under.
type VerifierKey struct {
	name string
	key  ed25519.PublicKey
}

// NewVerifierKey names an Ed25519 public key. Names are not empty and hold no
// spaces and no "+".
func NewVerifierKey(name string, key crypto.PublicKey) (VerifierKey, error) {
	pub, ok := key.(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return VerifierKey{}, fmt.Errorf("ledger: checkpoints are signed with Ed25519, not with a %T", key)
	}
	if !validName(name) {
		return VerifierKey{}, fmt.Errorf("ledger: %.80q cannot be the name of a checkpoint key", name)
	}
	return VerifierKey{name: name, key: pub}, nil
}

func validName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsSpace) && !strings.Contains(name, "+")
}

// Name is the name that the key signs under: the origin of its checkpoints.
func (k VerifierKey) Name() string { return k.name }

// String writes the key as tools that read signed notes want it:
// NAME+KEYID+BASE64(01 ‖ public key).
func (k VerifierKey) String() string {
	id := k.id()
	return k.name + "+" + hex.EncodeToString(id[:]) + "+" + base64.StdEncoding.EncodeToString(append([]byte{noteEd25519}, k.key...))
}

// ParseVerifierKey reads what String writes; spaces around it are ignored.
func ParseVerifierKey(text string) (VerifierKey, error) {
	name, rest, ok1 := strings.Cut(strings.TrimSpace(text), "+")
	id, b64, ok2 := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if !ok1 || !ok2 || err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != noteEd25519 {
		return VerifierKey{}, errors.New("ledger: not a checkpoint key: want NAME+KEYID+BASE64 of an Ed25519 key")
	}
	k, err := NewVerifierKey(name, ed25519.PublicKey(raw[1:]))
	if err != nil {
		return VerifierKey{}, err
	}
	if want := k.id(); id != hex.EncodeToString(want[:]) {
		return VerifierKey{}, fmt.Errorf("ledger: the checkpoint key's id %.16q is not that of its name and key", id)
	}
	return k, nil
}

func (k VerifierKey) id() [4]byte {
	h := sha256.New()
	h.Write([]byte(k.name + "\n"))
	h.Write([]byte{noteEd25519})
	h.Write(k.key)
	return [4]byte(h.Sum(nil)[:4])
}

// signNote signs text, which ends in a line feed.
func signNote(text string, k VerifierKey, signer crypto.Signer) ([]byte, error) {
	sig, err := signer.Sign(nil, []byte(text), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("ledger: signing a checkpoint: %w", err)
	}
	if !ed25519.Verify(k.key, []byte(text), sig) {
		return nil, errors.New("ledger: the checkpoint key made a signature that does not verify")
	}
	id := k.id()
	return fmt.Appendf(nil, "%s\n%s%s %s\n", text, sigPrefix, k.name, base64.StdEncoding.EncodeToString(append(id[:], sig...))), nil
}

// Errors of openNote that callers tell apart.
var (
	errNoteFormat   = errors.New("not a signed note")
	errNoteUnsigned = errors.New("not signed by the expected key")
)

// openNote checks the signature of the key and returns the text. Signatures of
// other keys are ignored, as the format demands; one by this key that does not
// hold is an error.
func openNote(note []byte, k VerifierKey) (string, error) {
	text, sigs, err := splitNote(note)
	if err != nil {
		return "", err
	}
	id := k.id()
	verified := false
	for _, line := range sigs {
		name, b64, ok := strings.Cut(strings.TrimPrefix(line, sigPrefix), " ")
		raw, err := base64.StdEncoding.DecodeString(b64)
		if !ok || err != nil || !validName(name) || len(raw) < 5 {
			return "", fmt.Errorf("%w: a signature line is damaged", errNoteFormat)
		}
		if name != k.name || binary.BigEndian.Uint32(raw) != binary.BigEndian.Uint32(id[:]) {
			continue
		}
		if len(raw) != 4+ed25519.SignatureSize || !ed25519.Verify(k.key, []byte(text), raw[4:]) {
			return "", fmt.Errorf("%w: its signature does not verify", errNoteUnsigned)
		}
		verified = true
	}
	if !verified {
		return "", fmt.Errorf("%w: no signature of %s", errNoteUnsigned, k.name)
	}
	return text, nil
}

// splitNote takes a note apart without looking at a signature.
func splitNote(note []byte) (text string, sigs []string, err error) {
	if len(note) > maxNote || !utf8.Valid(note) {
		return "", nil, fmt.Errorf("%w: too large, or not UTF-8", errNoteFormat)
	}
	for _, c := range note {
		if c < 0x20 && c != '\n' {
			return "", nil, fmt.Errorf("%w: control characters", errNoteFormat)
		}
	}
	i := bytes.LastIndex(note, []byte("\n\n"))
	if i < 0 {
		return "", nil, fmt.Errorf("%w: no empty line before the signatures", errNoteFormat)
	}
	text, rest := string(note[:i+1]), string(note[i+2:])
	if !strings.HasSuffix(rest, "\n") {
		return "", nil, fmt.Errorf("%w: cut off", errNoteFormat)
	}
	sigs = strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
	if len(sigs) > maxNoteLines {
		return "", nil, fmt.Errorf("%w: %d signatures", errNoteFormat, len(sigs))
	}
	for _, s := range sigs {
		if !strings.HasPrefix(s, sigPrefix) {
			return "", nil, fmt.Errorf("%w: a signature line is damaged", errNoteFormat)
		}
	}
	return text, sigs, nil
}
