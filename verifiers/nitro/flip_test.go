//go:build !race

package nitro_test

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
	simnitro "github.com/assay-project/assay/simulators/nitro"
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
		flipEveryBit(t, v, body, epoch)
	})
	t.Run("recorded", func(t *testing.T) {
		rs := recordings(t)
		i := slices.IndexFunc(rs, func(r recording) bool { return r.name == "anjuna-prod-2021" })
		if i < 0 {
			t.Fatal("the recording anjuna-prod-2021 is gone")
		}
		flipEveryBit(t, hardware(t), rs[i].body, rs[i].at)
	})
}

func flipEveryBit(t *testing.T, v *nitro.Verifier, body []byte, at time.Time) {
	t.Helper()
	want := accept(t, v, body, at) // and the chain is warm
	var next atomic.Int64
	var mu sync.Mutex
	refused := make(map[string]int)
	var admitted []int
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			flip := slices.Clone(body)
			mine := make(map[string]int)
			for {
				bit := int(next.Add(1) - 1)
				if bit >= 8*len(body) {
					break
				}
				flip[bit/8] ^= 1 << (bit % 8)
				got, err := v.Authenticate(t.Context(), evidence(flip), at)
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
	t.Logf("%d bits flipped in %s: %d verify (with the same claims), refused by %s",
		8*len(body), time.Since(start).Round(time.Second), len(admitted), tally(refused))
	accept(t, v, body, at)
}

func tally(m map[string]int) string {
	out := make([]string, 0, len(m))
	for k, n := range m {
		out = append(out, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
