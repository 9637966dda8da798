//go:build !race

package sevsnp_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
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
		flipEveryBit(t, hardware(t), ev, at)
	})
	t.Run("minted, by a VLEK", func(t *testing.T) {
		w := newWorld(t, fakeOrg, sharedKeys())
		flipEveryBit(t, w.verifier(t), w.mint(t, order{kind: sevsnp.VLEK, version: 5}).evidence(), epoch)
	})
	for _, name := range []string{"ms-azure-turin-v5", "trustee-aws-vlek-milan-v3", "attestation-rs-zen4c-v5"} {
		t.Run(name, func(t *testing.T) {
			r := named(t, name)
			flipEveryBit(t, hardware(t), r.evidence(), r.at)
		})
	}
}

func flipEveryBit(t *testing.T, v *sevsnp.Verifier, ev attest.Evidence, at time.Time) {
	t.Helper()
	want := accept(t, v, ev, at) // and the chain is warm
	var next atomic.Int64
	var mu sync.Mutex
	refused := make(map[string]int)
	var admitted []int
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			flip := slices.Clone(ev.Body)
			mine := make(map[string]int)
			for {
				bit := int(next.Add(1) - 1)
				if bit >= 8*len(flip) {
					break
				}
				flip[bit/8] ^= 1 << (bit % 8)
				got, err := v.Authenticate(t.Context(), evidence(flip, ev.Endorsements...), at)
				if err == nil {
					mu.Lock()
					admitted = append(admitted, bit)
					mu.Unlock()
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("bit %d flipped: it verifies with other claims:\n%s", bit, diff)
					}
				} else if mine[attest.CheckOf(err)]++; got != nil {
					t.Errorf("bit %d flipped: claims beside an error", bit)
				}
				flip[bit/8] ^= 1 << (bit % 8)
			}
			mu.Lock()
			defer mu.Unlock()
			for k, n := range mine {
				refused[k] += n
			}
		})
	}
	wg.Wait()
	slices.Sort(admitted)
	if diff := cmp.Diff(unsigned, append([]int{}, admitted...)); diff != "" {
		t.Errorf("flipped bits that verify (-expected +found):\n%s", diff)
	}
	t.Logf("%d bits flipped in %s: %d verify, refused by %s", 8*len(ev.Body), time.Since(start).Round(time.Second), len(admitted), tally(refused))
	accept(t, v, ev, at)
}

// Of the endorsement's bits too: a flipped certificate is another certificate,
// which nobody signed. It is verified cold each time.
func TestEveryBitOfAnEndorsementCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds of CPU: not with -short")
	}
	ev, at := moduleReport()
	v := hardware(t)
	accept(t, v, ev, at)
	leaf := slices.Clone(ev.Endorsements[0])
	refused := make(map[string]int)
	for bit := range 8 * len(leaf) {
		leaf[bit/8] ^= 1 << (bit % 8)
		got, err := v.Authenticate(t.Context(), evidence(ev.Body, leaf), at)
		if err == nil {
			t.Errorf("bit %d flipped: it verifies", bit)
		} else if refused[attest.CheckOf(err)]++; got != nil {
			t.Errorf("bit %d flipped: claims beside an error", bit)
		}
		leaf[bit/8] ^= 1 << (bit % 8)
	}
	t.Logf("%d bits flipped: refused by %s", 8*len(leaf), tally(refused))
	accept(t, v, ev, at)
}

func tally(m map[string]int) string {
	out := make([]string, 0, len(m))
	for k, n := range m {
		out = append(out, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
