//go:build !race

package sevsnp_test

import (
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// unsigned lists the bits of a report that may be flipped without refusal. There
// are none: what is not signed is the signature, or must be zero.
var unsigned = []int{}

// Each bit of a valid report is flipped, one at a time, and verified under a
// warm chain. It takes seconds of CPU and runs on every core; it is left out with
// -short and with the race detector.
func TestEveryBitOfAReportCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds of CPU: not with -short")
	}
	t.Run("a Milan chip in the library's module", func(t *testing.T) {
		ev, at := moduleReport()
		everyBit(t, hardware(t), ev, at)
	})
	t.Run("minted, by a VLEK", func(t *testing.T) {
		w := newWorld(t, fakeOrg, sharedKeys())
		everyBit(t, w.verifier(t), w.mint(t, order{kind: sevsnp.VLEK, version: 5}).evidence(), epoch)
	})
	for _, name := range []string{"ms-azure-turin-v5", "trustee-aws-vlek-milan-v3", "attestation-rs-zen4c-v5"} {
		t.Run(name, func(t *testing.T) {
			r := named(t, name)
			everyBit(t, hardware(t), r.evidence(), r.at)
		})
	}
}

func everyBit(t *testing.T, v *sevsnp.Verifier, ev attest.Evidence, at time.Time) {
	t.Helper()
	checktest.EveryBitCounts(t, ev.Body, unsigned, func(body []byte) (*attest.Claims, error) {
		return v.Authenticate(t.Context(), evidence(body, ev.Endorsements...), at) // the chain is warm: the good report comes first
	})
}

// Of the endorsement's bits too: a flipped certificate is another certificate,
// which nobody signed. It is verified cold each time.
func TestEveryBitOfAnEndorsementCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds of CPU: not with -short")
	}
	ev, at := moduleReport()
	v := hardware(t)
	checktest.EveryBitCounts(t, ev.Endorsements[0], nil, func(leaf []byte) (*attest.Claims, error) {
		return v.Authenticate(t.Context(), evidence(ev.Body, leaf), at)
	})
}
