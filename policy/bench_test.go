package policy_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// fleet is a bundle of n enforced workloads, each with an image and a reference
// value of its own, under the roles of a few teams.
func fleet(n int) string {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: fleet\nrevision: 1\ntrust_domain: simulated.example.org\nworkloads:\n")
	for i := range n {
		fmt.Fprintf(&b, `  - name: w%06d
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: [{value: "%s", not_before: 2027-01-01T00:00:00Z, note: "release"}]}
      pcr3: {eq: "%s"}
    issue: [{spiffe_id: "spiffe://{td}/team/{workload}", x509_ttl: 1h}]
`, i, hexOf(fmt.Sprint("image ", i)), hexOf(fmt.Sprint("team ", i%7)))
	}
	return b.String()
}

func compiled(b *testing.B, src string) *policy.Bundle {
	b.Helper()
	out, err := policy.ParseLimitForTest("fleet.yaml", []byte(src), 256<<20)
	if err != nil {
		b.Fatal(render(err))
	}
	return out
}

var sizes = []int{10, 1000, 100_000}

// visitors are claims of enclaves all over a fleet: known ones, and those of
// nobody.
func visitors(n int, known bool) []attest.Claims {
	out := make([]attest.Claims, 512)
	for i := range out {
		at := i * 7919 % n
		image := fmt.Sprint("image ", at)
		if !known {
			image = fmt.Sprint("nobody's ", i)
		}
		out[i] = nitroClaims(map[int]string{0: image, 1: "kernel", 2: "app", 3: fmt.Sprint("team ", at%7), 4: fmt.Sprint(i), 8: "signer"})
	}
	return out
}

// BenchmarkEvaluate decides about one claim set against 10, 1,000 and 100,000
// workloads with as many reference values, a different one each time. The ratio
// is to the smallest bundle: it stays flat.
//
//	granted  one workload matches
//	denied   none does: the denial explains 32 workloads, or all 10
func BenchmarkEvaluate(b *testing.B) {
	bundles := map[int]*policy.Bundle{}
	for _, n := range sizes {
		bundles[n] = compiled(b, fleet(n))
	}
	for _, outcome := range []string{policy.Granted, policy.Refused} {
		b.Run(outcome, func(b *testing.B) {
			var floor func()
			for _, n := range sizes {
				bundle, cs, i := bundles[n], visitors(n, outcome == policy.Granted), 0
				run := func() {
					if d := bundle.Evaluate(cs[i%len(cs)], noon); d.Outcome != outcome {
						b.Fatalf("%s: %s", d.Reason, d.Detail)
					}
					i++
				}
				if floor == nil {
					floor = run
				}
				b.Run(fmt.Sprint(n), func(b *testing.B) { paired(b, "x-smallest", floor, run) })
			}
		})
	}
}

// BenchmarkCompile reads and compiles 10,000 workloads, and says how much memory
// 100,000 take once they are compiled.
func BenchmarkCompile(b *testing.B) {
	b.Run("10000", func(b *testing.B) {
		src := fleet(10_000)
		b.ReportAllocs()
		for b.Loop() {
			compiled(b, src)
		}
	})
	b.Run("memory", func(b *testing.B) {
		src := fleet(100_000)
		for b.Loop() {
			before := heap()
			bundle := compiled(b, src)
			b.ReportMetric(float64(heap()-before)/(1<<20), "MB/100000")
			runtime.KeepAlive(bundle)
		}
	})
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// paired runs both in turn, and reports the median of the second over that of
// the first: a busy machine slows some of the runs, but not the typical one.
func paired(b *testing.B, unit string, floor, f func()) {
	b.Helper()
	b.ReportAllocs()
	bare, whole := make([]time.Duration, 0, 1<<16), make([]time.Duration, 0, 1<<16)
	for b.Loop() {
		t0 := time.Now()
		floor()
		t1 := time.Now()
		f()
		bare, whole = append(bare, t1.Sub(t0)), append(whole, time.Since(t1))
	}
	b.ReportMetric(median(whole)/median(bare), unit)
	b.ReportMetric(median(whole)/1e3, "us/decision")
}

// median is in nanoseconds.
func median(of []time.Duration) float64 {
	slices.Sort(of)
	return float64(of[len(of)/2])
}
