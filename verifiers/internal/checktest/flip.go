package checktest

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
)

// EveryBitCounts flips each bit of a good body, one at a time, and verifies it. It
// fails unless exactly the bits of unused verify, and with the claims of the good
// body. They are ascending: bit 0 is the lowest bit of byte 0. It runs on every
// core, and verify must not keep the body.
func EveryBitCounts(t *testing.T, good []byte, unused []int, verify func(body []byte) (*attest.Claims, error)) {
	t.Helper()
	want, err := verify(good)
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	var mu sync.Mutex
	refused := make(map[string]int)
	var admitted []int
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			flip := slices.Clone(good)
			mine := make(map[string]int)
			for {
				bit := int(next.Add(1) - 1)
				if bit >= 8*len(flip) {
					break
				}
				flip[bit/8] ^= 1 << (bit % 8)
				got, err := verify(flip)
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
	if diff := cmp.Diff(append([]int{}, unused...), append([]int{}, admitted...)); diff != "" {
		t.Errorf("flipped bits that verify (-expected +found):\n%s", diff)
	}
	t.Logf("%d bits flipped in %s: %d verify (with the same claims), refused by %s",
		8*len(good), time.Since(start).Round(time.Second), len(admitted), Tally(refused))
	if _, err := verify(good); err != nil {
		t.Errorf("the good body, after all others: %v", err)
	}
}

// Tally renders counts, sorted by name.
func Tally(m map[string]int) string {
	out := make([]string, 0, len(m))
	for k, n := range m {
		out = append(out, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
