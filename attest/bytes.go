package attest

import (
	"encoding/hex"
	"fmt"
)

// Bytes is a byte string that reads and writes as lower-case hex in text and
// JSON. A nil Bytes is written as JSON null: absent is not the same as empty.
type Bytes []byte

// String returns lower-case hex.
func (b Bytes) String() string { return hex.EncodeToString(b) }

// MarshalJSON writes a hex string, or null for nil.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	out := make([]byte, 2+hex.EncodedLen(len(b)))
	out[0], out[len(out)-1] = '"', '"'
	hex.Encode(out[1:], b)
	return out, nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (b *Bytes) UnmarshalJSON(in []byte) error {
	if string(in) == "null" {
		*b = nil
		return nil
	}
	if len(in) < 2 || in[0] != '"' || in[len(in)-1] != '"' {
		return fmt.Errorf("want a hex string, got %s", clip(string(in), 40))
	}
	out, err := hex.DecodeString(string(in[1 : len(in)-1]))
	if err != nil {
		return fmt.Errorf("want a hex string: %w", err)
	}
	*b = out
	return nil
}
