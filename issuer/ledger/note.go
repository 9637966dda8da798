package ledger

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// A checkpoint is a signed note (https://c2sp.org/signed-note), written and read
// by golang.org/x/mod/sumdb/note, as Go's checksum database and transparency
// logs are. Anything that reads signed notes can check one. Signatures of
// witnesses may be added to it; only ours decides.

// maxNote bounds what is read as a note, in bytes; the library's own bound is
// a megabyte.
const maxNote = 64 << 10

// VerifierKey is the public key of checkpoints, with the name that it signs
// under. The zero VerifierKey opens nothing.
type VerifierKey struct {
	text string // NAME+KEYID+BASE64(01 ‖ public key)
	key  note.Verifier
}

// NewVerifierKey names an Ed25519 public key. Names are not empty and hold no
// spaces and no "+".
func NewVerifierKey(name string, key crypto.PublicKey) (VerifierKey, error) {
	pub, ok := key.(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return VerifierKey{}, fmt.Errorf("ledger: checkpoints are signed with Ed25519, not with a %T", key)
	}
	text, err := note.NewEd25519VerifierKey(name, pub)
	if err != nil {
		return VerifierKey{}, fmt.Errorf("ledger: %.80q cannot be the name of a checkpoint key: %w", name, err)
	}
	return ParseVerifierKey(text)
}

// Name is the name that the key signs under: the origin of its checkpoints.
func (k VerifierKey) Name() string {
	if k.key == nil {
		return ""
	}
	return k.key.Name()
}

// String writes the key as tools that read signed notes want it:
// NAME+KEYID+BASE64(01 ‖ public key).
func (k VerifierKey) String() string { return k.text }

// For is the same key under the name of another chain of its server.
func (k VerifierKey) For(name string) (VerifierKey, error) {
	parts := strings.SplitN(k.text, "+", 3)
	if len(parts) != 3 {
		return VerifierKey{}, errors.New("ledger: no checkpoint key")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return VerifierKey{}, errors.New("ledger: not a checkpoint key")
	}
	return NewVerifierKey(name, ed25519.PublicKey(raw[1:]))
}

// ParseVerifierKey reads what String writes; spaces around it are ignored.
func ParseVerifierKey(text string) (VerifierKey, error) {
	text = strings.TrimSpace(text)
	v, err := note.NewVerifier(text)
	if err != nil {
		return VerifierKey{}, fmt.Errorf("ledger: not a checkpoint key, want NAME+KEYID+BASE64 of an Ed25519 key: %w", err)
	}
	return VerifierKey{text: text, key: v}, nil
}

// noteSigner lets any signer, a file's or a token's, sign notes.
type noteSigner struct {
	note.Verifier
	signer crypto.Signer
}

// Sign signs the text, and hands out nothing that does not verify.
func (s noteSigner) Sign(text []byte) ([]byte, error) {
	sig, err := s.signer.Sign(nil, text, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	if !s.Verify(text, sig) {
		return nil, errors.New("the checkpoint key made a signature that does not verify")
	}
	return sig, nil
}

// signNote signs text, which ends in a line feed.
func signNote(text string, k VerifierKey, signer crypto.Signer) ([]byte, error) {
	if k.key == nil {
		return nil, errors.New("ledger: no checkpoint key")
	}
	signed, err := note.Sign(&note.Note{Text: text}, noteSigner{k.key, signer})
	if err != nil {
		return nil, fmt.Errorf("ledger: signing a checkpoint: %w", err)
	}
	return signed, nil
}

// Errors of openNote that callers tell apart.
var (
	errNoteFormat   = errors.New("not a signed note")
	errNoteUnsigned = errors.New("not signed by the expected key")
)

// openNote checks the signature of the key and returns the text. Signatures of
// other keys are ignored, as the format demands; one by this key that does not
// hold is an error.
func openNote(msg []byte, k VerifierKey) (string, error) {
	if len(msg) > maxNote {
		return "", fmt.Errorf("%w: %d bytes, at most %d are read", errNoteFormat, len(msg), maxNote)
	}
	if k.key == nil {
		return "", fmt.Errorf("%w: there is none", errNoteUnsigned)
	}
	n, err := note.Open(msg, note.VerifierList(k.key))
	var (
		unverified *note.UnverifiedNoteError
		invalid    *note.InvalidSignatureError
	)
	switch {
	case errors.As(err, &unverified), errors.As(err, &invalid):
		return "", fmt.Errorf("%w %s: %w", errNoteUnsigned, k.Name(), err)
	case err != nil:
		return "", fmt.Errorf("%w: %w", errNoteFormat, err)
	}
	return n.Text, nil
}
