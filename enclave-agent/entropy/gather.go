package entropy

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// Names of the checks.
const (
	CheckLength   = "entropy_length"   // a device's answer, or what a source returned, is too short or too long
	CheckConstant = "entropy_constant" // one byte over and over
	CheckRepeated = "entropy_repeated" // the same answer twice
	CheckKernel   = "entropy_kernel"   // the kernel did not take it
)

// Bounds, in bytes.
const (
	MaxBytes = 1024 // of one call of a Source
	// MinPiece is the least that a device has to answer with. A TPM may give less
	// than it was asked for, down to its digest's size; fewer than 16 bytes are
	// too few to tell a generator from a constant.
	MinPiece = 16
)

// Source is hardware with a random number generator of its own: the attesters of
// AWS Nitro and of TPM 2.0 are ones.
type Source interface {
	// Entropy returns n bytes, 1 to [MaxBytes], and gives up when ctx ends. Errors
	// are [attest.Error]: those of the device where it does not answer, and those
	// of [Gather] where its answers cannot be right.
	Entropy(ctx context.Context, n int) ([]byte, error)
}

// Gather puts n bytes together from a device's answers. Each must have [MinPiece] to
// largest bytes, must not be one byte over and over, and must differ from the one
// before. This notices a device that is broken; one that lies well cannot be noticed,
// which is why its bytes are never used alone.
func Gather(n, largest int, answer func() ([]byte, error)) ([]byte, error) {
	if n < 1 || n > MaxBytes {
		return nil, &attest.Error{Kind: attest.Internal, Check: CheckLength, Err: fmt.Errorf("%d bytes of entropy were asked for", n), Expected: fmt.Sprintf("1 to %d", MaxBytes)}
	}
	out := make([]byte, 0, n+largest)
	var before []byte
	for len(out) < n {
		piece, err := answer()
		if err != nil {
			return nil, err
		}
		if len(piece) < MinPiece || len(piece) > largest {
			return nil, &attest.Error{
				Kind: attest.Internal, Check: CheckLength, Err: errors.New("the device's random bytes have the wrong length"),
				Expected: fmt.Sprintf("%d to %d", MinPiece, largest), Got: fmt.Sprint(len(piece)),
			}
		}
		if err := varied(piece); err != nil {
			return nil, err
		}
		if bytes.Equal(piece, before) {
			return nil, &attest.Error{Kind: attest.Internal, Check: CheckRepeated, Err: errors.New("the device gave the same random bytes twice"), Hint: "its generator is broken"}
		}
		before = piece
		out = append(out, piece...)
	}
	return out[:n], nil
}

// varied wants more than one byte over and over.
func varied(b []byte) error {
	if bytes.Count(b, b[:1]) < len(b) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Internal, Check: CheckConstant, Err: errors.New("the device's random bytes are all the same"),
		Got: fmt.Sprintf("%d times 0x%02x", len(b), b[0]), Hint: "its generator is broken",
	}
}
