package nitro_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

// signatures counts the P-384 verifications of certificates that f makes.
func signatures(v *nitro.Verifier, f func()) uint64 {
	before := v.CacheStats().Signatures
	f()
	return v.CacheStats().Signatures - before
}

func accept(t testing.TB, v *nitro.Verifier, body []byte, at time.Time) *attest.Claims {
	t.Helper()
	got, err := v.Authenticate(t.Context(), evidence(body), at)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// module names an enclave of one instance.
func module(instance, enclave int) string {
	return fmt.Sprintf("i-%017x-enc%016x", instance, enclave)
}

func TestAKnownChainCostsNoSignatureAndANewLeafOne(t *testing.T) {
	a, v := simulated(t)
	doc := func(instance, enclave int) []byte {
		return mint(t, a, simnitro.Document{ModuleID: module(instance, enclave)})
	}
	for _, step := range []struct {
		what string
		body []byte
		want uint64
	}{
		{"nothing known", doc(1, 1), 4},
		{"the same leaf", doc(1, 1), 0},
		{"a new leaf of the same instance", doc(1, 2), 1},
		{"a new instance of the same zone", doc(2, 1), 2},
		{"each of them again", doc(1, 2), 0},
		{"each of them again", doc(2, 1), 0},
	} {
		if got := signatures(v, func() { accept(t, v, step.body, epoch) }); got != step.want {
			t.Errorf("%s: %d certificate signatures verified, want %d", step.what, got, step.want)
		}
	}
	want := nitro.CacheStats{Leaves: 3, Issuers: 4, Size: nitro.DefaultCacheSize, LeafHits: 3, IssuerHits: 2, Misses: 1, Signatures: 7}
	if diff := cmp.Diff(want, v.CacheStats()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	const size = 3
	a, v := simulated(t, nitro.WithCacheSize(size))
	for i := range 12 {
		accept(t, v, mint(t, a, simnitro.Document{ModuleID: module(i, i)}), epoch)
		if s := v.CacheStats(); s.Leaves > size || s.Issuers > size {
			t.Fatalf("%d leaves and %d issuers, want at most %d", s.Leaves, s.Issuers, size)
		}
	}
	if s := v.CacheStats(); s.Evictions == 0 || s.Leaves != size {
		t.Errorf("%d leaves, %d evictions: the cache was not used", s.Leaves, s.Evictions)
	}
}

func TestManyLeavesDoNotPushOutTheirIssuers(t *testing.T) {
	a, v := simulated(t, nitro.WithCacheSize(3))
	doc := func(i int) []byte { return mint(t, a, simnitro.Document{ModuleID: module(1, i)}) }
	accept(t, v, doc(0), epoch)
	for i := 1; i < 12; i++ {
		if n := signatures(v, func() { accept(t, v, doc(i), epoch) }); n != 1 {
			t.Fatalf("leaf %d: %d certificate signatures verified, want 1", i, n)
		}
	}
}

func TestASizeOfZeroRemembersNothing(t *testing.T) {
	a, v := simulated(t, nitro.WithCacheSize(0))
	body := mint(t, a, simnitro.Document{})
	for range 2 {
		if n := signatures(v, func() { accept(t, v, body, epoch) }); n != 4 {
			t.Errorf("%d certificate signatures verified, want 4", n)
		}
	}
	if _, err := nitro.New(nitro.HardwareRoots(), nitro.WithCacheSize(-1)); err == nil {
		t.Error("a negative size was accepted")
	}
}

func TestAnEntryIsNotUsedPastItsValidity(t *testing.T) {
	a, v := simulated(t)
	body := mint(t, a, simnitro.Document{})
	accept(t, v, body, epoch)
	for name, at := range map[string]time.Time{
		"after the leaf":          epoch.Add(4 * time.Hour),
		"after the whole chain":   epoch.AddDate(0, 2, 0),
		"after the root":          epoch.AddDate(40, 0, 0),
		"before the leaf":         epoch.Add(-4 * time.Hour),
		"before the whole chain":  epoch.AddDate(0, -2, 0),
		"before there was a root": epoch.AddDate(-20, 0, 0),
	} {
		got, err := v.Authenticate(t.Context(), evidence(body), at)
		if err == nil {
			t.Errorf("%s: verified", name)
			continue
		}
		wantRefusal(t, got, err, nitro.CheckChainValidity)
	}
	accept(t, v, body, epoch) // and still good at its own time
}

// Only a document whose own signature verified may fill the cache.
func TestTheCacheIsPoisonedByNothingUnverified(t *testing.T) {
	a, _ := simulated(t)
	for _, f := range simnitro.Faults() {
		switch {
		case f.Check == "" || f.Stage == simnitro.StageBound:
			continue
		case f.Check == nitro.CheckTimestampLeaf || f.Check == nitro.CheckTimestampWindow:
			continue // authentic, and refused for its time
		}
		v := verifierOf(t, a)
		body := mint(t, a, simnitro.Document{}, f)
		for range 2 {
			if _, err := v.Authenticate(t.Context(), evidence(body), epoch); err == nil {
				t.Fatalf("%s verified", f.Name)
			}
		}
		if s := v.CacheStats(); s.Leaves != 0 || s.Issuers != 0 || s.LeafHits != 0 || s.IssuerHits != 0 {
			t.Errorf("%s: a refused document left something behind: %+v", f.Name, s)
		}
	}
}

func TestAForgedChainCostsOneSignature(t *testing.T) {
	a, v := simulated(t)
	accept(t, v, mint(t, a, simnitro.Document{ModuleID: module(1, 1)}), epoch)
	for name, want := range map[string]uint64{"foreign-root": 0, "self-signed": 0, "leaf-signature": 1} {
		body := mint(t, a, simnitro.Document{ModuleID: module(1, 1)}, faultNamed(t, name))
		for range 2 {
			n := signatures(v, func() {
				if _, err := v.Authenticate(t.Context(), evidence(body), epoch); err == nil {
					t.Fatalf("%s verified", name)
				}
			})
			if n != want {
				t.Errorf("%s: %d certificate signatures verified, want %d", name, n, want)
			}
		}
	}
}

func TestConcurrentVerificationsAgree(t *testing.T) {
	a, v := simulated(t, nitro.WithCacheSize(2)) // small, so that entries come and go
	bodies := make([][]byte, 6)
	for i := range bodies {
		bodies[i] = mint(t, a, simnitro.Document{ModuleID: module(i/2, i)})
	}
	bad := mint(t, a, simnitro.Document{}, faultNamed(t, "signature-broken"))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 8 {
				n := (w + i) % len(bodies)
				got, err := v.Authenticate(t.Context(), evidence(bodies[n]), epoch)
				if err != nil || got.Nitro.ModuleID != module(n/2, n) {
					t.Errorf("document %d: %v", n, err)
				}
				if _, err := v.Authenticate(t.Context(), evidence(bad), epoch); attest.CheckOf(err) != nitro.CheckCOSESignature {
					t.Errorf("the broken signature: %v", err)
				}
			}
		})
	}
	wg.Wait()
}
