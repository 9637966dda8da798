package svid

import (
	"crypto"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

// failing is a signer, such as an HSM, that does not do what it should.
type failing struct {
	repeatable
	answer []byte
	err    error
}

func (f failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return f.answer, f.err }

// hashed is a signer that insists on being told the hash, as HSMs do.
type hashed struct{ repeatable }

func (h hashed) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 {
		return nil, errors.New("no hash was named")
	}
	return h.repeatable.Sign(r, digest, opts)
}

func TestASignerThatFailsYieldsNoResult(t *testing.T) {
	key := testKey(t, "verifier")
	for name, f := range map[string]failing{
		"an error":         {key, nil, errors.New("the HSM is away")},
		"nothing":          {key, nil, nil},
		"junk":             {key, []byte("junk"), nil},
		"a negative r":     {key, unhex(t, "30060201ff020101"), nil},
		"an s of 33 bytes": {key, unhex(t, "30260201010221"+strings.Repeat("7f", 33)), nil},
		"a byte after it":  {key, unhex(t, "300602010102010100"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			cwt, err := appraised(t, nitroAppraisal()).Sign(f)
			wantError(t, err, attest.Internal, "result_sign")
			if cwt != nil {
				t.Error("bytes beside an error")
			}
		})
	}
	if _, err := appraised(t, nitroAppraisal()).Sign(hashed{key}); err != nil {
		t.Errorf("the signer is not told the hash: %v", err)
	}
}

func TestLongTextOfStrangersIsClipped(t *testing.T) {
	err := mismatch(attest.Malformed, "x", "y", "z", strings.Repeat("a", 5000))
	if len(err.Error()) > 300 {
		t.Errorf("%d bytes", len(err.Error()))
	}
}
