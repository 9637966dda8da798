package sevsnp

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"runtime"
	"testing"
	"time"

	testdata "github.com/google/go-sev-guest/verify/testdata"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
)

// A certificate without a key makes the library dereference nil. No report can
// bring one this far; should another way be found, this is what happens.
func TestAPanicOfTheLibraryIsAMalformedError(t *testing.T) {
	v, err := New(HardwareRoots())
	if err != nil {
		t.Fatal(err)
	}
	r, err := read(testdata.AttestationBytes)
	if err != nil {
		t.Fatal(err)
	}
	err = v.checkSignature(r, &endorsement{})
	if attest.CheckOf(err) != CheckPanic || attest.KindOf(err) != attest.Malformed {
		t.Fatalf("got %v", err)
	}
	var p *verifiers.PanicError
	if !errors.As(err, &p) || len(p.Stack) == 0 {
		t.Errorf("the stack is lost: %v", err)
	}
	if v.CacheStats().Panics != 1 {
		t.Errorf("%d panics counted", v.CacheStats().Panics)
	}
}

func TestEveryProcessorIsOfTheRightLine(t *testing.T) {
	for family := range 256 {
		for model := range 256 {
			want := ""
			switch {
			case family == 0x19 && model < 0x10:
				want = Milan
			case family == 0x19 && (model>>4 == 1 || model>>4 == 0xa):
				want = Genoa
			case family == 0x1a && model < 0x20:
				want = Turin
			}
			got, ok := cpuid{byte(family), byte(model), 0}.product()
			if got != want || ok != (want != "") {
				t.Errorf("family %x, model %x: %q, want %q", family, model, got, want)
			}
		}
	}
}

func TestTCBsAreReadInTheLinesLayout(t *testing.T) {
	raw := rawTCB{1, 2, 3, 4, 5, 6, 7, 8}
	one := uint8(1)
	if got, want := raw.decode(false), (attest.TCB{Bootloader: 1, TEE: 2, SNP: 7, Microcode: 8}); got != want {
		t.Errorf("Milan: %v, want %v", got, want)
	}
	if got, want := raw.decode(true), (attest.TCB{FMC: &one, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 8}); got.String() != want.String() {
		t.Errorf("Turin: %v, want %v", got, want)
	}
	for i := range 8 {
		var one rawTCB
		one[i] = 1
		if got, want := one.reservedZero(false), i < 2 || i > 5; got != want {
			t.Errorf("Milan, byte %d: reserved zero %t", i, got)
		}
		if got, want := one.reservedZero(true), i < 4 || i > 6; got != want {
			t.Errorf("Turin, byte %d: reserved zero %t", i, got)
		}
		if one.atMost(rawTCB{}) || !(rawTCB{}).atMost(one) {
			t.Errorf("byte %d is not compared", i)
		}
	}
}

// remembered is an endorsement with memory of its own for everything that
// parsing a certificate allocates. The key is the same each time: making
// thousands takes a while.
func remembered(t testing.TB, i *issuer, n int) (digest, *endorsement) {
	t.Helper()
	leaf, err := x509.ParseCertificate(testdata.VcekBytes)
	if err != nil {
		t.Fatal(err)
	}
	hwid := make([]byte, hwidSize)
	binary.BigEndian.PutUint32(hwid, uint32(n))
	key, err := leafKey(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(hwid), &endorsement{
		kind: VCEK, issuer: i, hwid: hwid, serial: string(big.NewInt(int64(n)).Bytes()), key: key,
		notBefore: i.notBefore, notAfter: i.notAfter,
	}
}

// The limit is that of docs/design: 10,000 chips in 64 MiB.
func TestTenThousandChipsFitIn64MiB(t *testing.T) {
	const chips = 10_000
	if DefaultCacheSize < chips {
		t.Errorf("the default cache holds %d endorsements", DefaultCacheSize)
	}
	i := HardwareRoots().lines[Milan].issuers[0]
	c := newCache(DefaultCacheSize)
	before := heap()
	for n := range chips + 100 {
		k, e := remembered(t, i, n)
		c.leaves.Put(k, e)
	}
	used := heap() - before
	if c.leaves.Len() != chips {
		t.Errorf("%d endorsements remembered, want %d", c.leaves.Len(), chips)
	}
	if used > 64<<20 {
		t.Errorf("%d chips take %d bytes", chips, used)
	}
	t.Logf("%d chips take %.1f MiB, %d bytes each", chips, float64(used)/(1<<20), used/chips)
	runtime.KeepAlive(c)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAnEntryIsNotUsedOutsideItsTime(t *testing.T) {
	i := HardwareRoots().lines[Milan].issuers[0]
	c := newCache(2)
	k, e := remembered(t, i, 1)
	e.notBefore, e.notAfter = time.Unix(1000, 0), time.Unix(2000, 0)
	c.leaves.Put(k, e)
	for at, want := range map[int64]bool{999: false, 1000: true, 2000: true, 2001: false} {
		if _, got := c.leaves.get(k, time.Unix(at, 0)); got != want {
			t.Errorf("at %d: found %t, want %t", at, got, want)
		}
	}
}

// What a verification allocates does not depend on how much is remembered.
func TestAFullCacheAllocatesNothingMore(t *testing.T) {
	at := time.Date(2022, 9, 25, 0, 55, 28, 0, time.UTC)
	ev := attest.Evidence{Platform: platform, Body: testdata.AttestationBytes, Endorsements: [][]byte{testdata.VcekBytes}}
	allocations := func(others int) float64 {
		v, err := New(HardwareRoots())
		if err != nil {
			t.Fatal(err)
		}
		k, e := remembered(t, v.roots.lines[Milan].issuers[0], 0)
		for n := range others {
			binary.BigEndian.PutUint64(k[:], uint64(n))
			v.cache.leaves.Put(k, e)
		}
		verify := func() {
			if _, err := v.Authenticate(t.Context(), ev, at); err != nil {
				t.Fatal(err)
			}
		}
		verify()
		return testing.AllocsPerRun(20, verify)
	}
	empty, full := allocations(0), allocations(DefaultCacheSize)
	if full > empty+1 { // a garbage collection may empty a pool of the standard library's
		t.Errorf("%.0f allocations with a full cache, %.0f with an empty one", full, empty)
	}
	t.Logf("%.0f allocations, with a full cache %.0f", empty, full)
}
