package sevsnp

import (
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/verify"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// checkSignature is the signature check of record: go-sev-guest over the bytes
// as they were received, with the key of the endorsement that was just verified.
//
// SnpReportSignature is right for every product line: it checks version and
// policy, turns R and S around and hands the first 0x2A0 bytes to crypto/x509,
// without decoding a TCB or a product. Its wider functions are not called: they
// re-encode the report, and know neither Turin nor Bergamo.
func (v *Verifier) checkSignature(r *report, e *endorsement) (err error) {
	defer check.Recover(&err, &v.cache.panics, refuse)
	if err := verify.SnpReportSignature(r.raw, e.key); err != nil {
		return refuse(CheckReportSignature, detail{
			Err:  fmt.Errorf("the report is not signed by its endorsement's key: %w", err),
			Hint: "the report was changed after the AMD-SP signed it, or the endorsement is of another chip or TCB",
		})
	}
	return nil
}

// checkRelations checks what a genuine firmware cannot get wrong, between the
// fields of an authentic report.
func checkRelations(r *report, product string) error {
	fmc := hasFMC(product)
	current := r.tcb(offCurrentTCB)
	for _, c := range []struct {
		check, name string
		off         int
	}{{CheckTCBReported, "reported", offReportedTCB}, {CheckTCBCommitted, "committed", offCommittedTCB}} {
		if t := r.tcb(c.off); !t.atMost(current) {
			return refuse(c.check, detail{
				Err: fmt.Errorf("the %s TCB is above the current one", c.name), Expected: "at most " + current.decode(fmc).String(), Got: t.decode(fmc).String(),
			})
		}
	}
	if r.tcb(offLaunchTCB) == (rawTCB{}) {
		return refuse(CheckTCBLaunch, detail{Err: errors.New("the TCB at launch is not known"), Expected: "not all zero", Got: "all zero", Hint: "update the host's firmware"})
	}
	p, fw := guestPolicy(r.policy()), r.firmware(offCurrentFW)
	if p.ABIMajor > fw.Major || p.ABIMajor == fw.Major && p.ABIMinor > fw.Minor {
		return refuse(CheckABI, detail{
			Err:      errors.New("the guest policy demands a newer firmware ABI than the firmware has"),
			Expected: fmt.Sprintf("at most %d.%d", fw.Major, fw.Minor), Got: fmt.Sprintf("%d.%d", p.ABIMajor, p.ABIMinor),
		})
	}
	return nil
}

// complete adds to the report's claims what the endorsement and the CRLs say.
func complete(r *report, e *endorsement, revocation string, simulated bool) *attest.Claims {
	s := r.claims(e.issuer.line.product)
	s.CSPID, s.Revocation = e.cspID, revocation
	if e.kind == VCEK && r.masked() { // AMD says which chip it is, though the host does not
		s.VCEKHWID = append(make(attest.Bytes, 0, hwidSize), e.hwid...)[:hwidSize]
	}
	return &attest.Claims{Platform: platform, Simulated: simulated, SNP: s}
}
