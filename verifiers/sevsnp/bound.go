package sevsnp

import (
	"bytes"
	"crypto/sha256"
	"errors"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// reportDataTag fills the second half of the REPORT_DATA of every report that
// answers a challenge, as its SHA-256.
const reportDataTag = "assay/v1 report data"

// ReportData is what a report that answers a challenge carries in REPORT_DATA: B
// and SHA-256("assay/v1 report data"), 64 bytes (docs/spec/binding.md).
func ReportData(b attest.Binding) [64]byte {
	var out [64]byte
	tag := sha256.Sum256([]byte(reportDataTag))
	copy(out[:32], b.B[:])
	copy(out[32:], tag[:])
	return out
}

// Bound checks that verified claims carry the binding: all 64 bytes of
// REPORT_DATA are what the challenge demands.
func (v *Verifier) Bound(c *attest.Claims, want attest.Binding) error {
	if c == nil || c.SNP == nil || c.Platform != platform {
		return refuse(CheckBinding, detail{Err: errors.New("the claims are not of an SEV-SNP guest")})
	}
	if err := check.Complete(want); err != nil {
		return refuse(CheckBinding, detail{Err: err})
	}
	if data := ReportData(want); !bytes.Equal(data[:], c.SNP.ReportData) {
		return refuse(CheckBindingReportData, detail{
			Err: errors.New("REPORT_DATA is not what the challenge demands"), Expected: check.ClipHex(data[:]), Got: check.ClipHex(c.SNP.ReportData),
			Hint: "the report answers another challenge: another connection, nonce, key, requested identity, purpose or server",
		})
	}
	return nil
}
