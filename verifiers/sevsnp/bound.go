package sevsnp

import (
	"bytes"
	"crypto/sha256"
	"errors"

	"github.com/assay-project/assay/attest"
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
		return refuse(CheckBinding, detail{err: errors.New("the claims are not of an SEV-SNP guest")})
	}
	if want.B == [32]byte{} || want.Nonce == [32]byte{} || len(want.Keys) == 0 || len(want.Keys[0].SPKI) == 0 {
		return refuse(CheckBinding, detail{err: errors.New("the binding lacks B, the nonce or the first key: an empty one means nothing, not anything")})
	}
	if data := ReportData(want); !bytes.Equal(data[:], c.SNP.ReportData) {
		return refuse(CheckBindingReportData, detail{
			err: errors.New("REPORT_DATA is not what the challenge demands"), expected: clipHex(data[:]), got: clipHex(c.SNP.ReportData),
			hint: "the report answers another challenge: another connection, nonce, key, requested identity, purpose or server",
		})
	}
	return nil
}
