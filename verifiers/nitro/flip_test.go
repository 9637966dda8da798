//go:build !race

package nitro_test

import (
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/nitro"
)

// unsigned lists the bits of a document that may be flipped without refusal, by
// offset: those that the format leaves unsigned and that no claim depends on.
// There are none: an untagged envelope has one encoding, the unprotected header
// must be empty, and the rest is signed or is the signature.
var unsigned = []int{}

// Each bit of a valid document is flipped, one at a time, and verified under a
// warm chain. It takes about a minute of CPU and runs on every core, so it is
// left out with -short and with the race detector.
func TestEveryBitOfADocumentCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute of CPU: not with -short")
	}
	t.Run("simulated", func(t *testing.T) {
		a, v := simulated(t)
		pcrs := map[int][]byte{0: make([]byte, 48)}
		pcrs[0][0] = 1
		body := mint(t, a, simnitro.Document{PCRs: pcrs, Indefinite: true})
		everyBit(t, v, body, epoch)
	})
	t.Run("recorded", func(t *testing.T) {
		rs := recordings(t)
		i := slices.IndexFunc(rs, func(r recording) bool { return r.name == "anjuna-prod-2021" })
		if i < 0 {
			t.Fatal("the recording anjuna-prod-2021 is gone")
		}
		everyBit(t, hardware(t), rs[i].body, rs[i].at)
	})
}

func everyBit(t *testing.T, v *nitro.Verifier, body []byte, at time.Time) {
	t.Helper()
	checktest.EveryBitCounts(t, body, unsigned, func(body []byte) (*attest.Claims, error) {
		return v.Authenticate(t.Context(), evidence(body), at) // the chain is warm: the good document comes first
	})
}
