package ledger

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
)

// NewReference draws the name under which an agent and an operator speak of one
// attestation: "as-" and 10 characters of a–z and 2–7, 50 random bits.
func NewReference() string {
	var b [7]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	enc := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:])
	return "as-" + strings.ToLower(enc[:10])
}

// isReference reports whether s could be the reference of an entry: drawn by
// NewReference, or the ID of a token.
func isReference(s string) bool {
	return isDrawn(s) || isHex128(s)
}

func isDrawn(s string) bool {
	if len(s) != 13 || s[:3] != "as-" {
		return false
	}
	for _, c := range []byte(s[3:]) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}
