package collateral

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// many fills a directory with the certificates of n chips. One is real; in the
// others the chip's name was replaced, for to sign 10,000 with RSA-4096 takes a
// minute. Sizes and names are those of real ones.
func many(t testing.TB, dir string, n int) (sevsnp.Roots, func(i int) (wanted, []byte)) {
	t.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := sevsnp.SimulatedRoots(a.RootsPEM())
	if err != nil {
		t.Fatal(err)
	}
	chip, err := a.Chip(simsnp.Genoa, "one")
	if err != nil {
		t.Fatal(err)
	}
	der, err := chip.VCEK(simsnp.Genoa.DefaultTCB())
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(der, chip.HWID())
	tcb := simsnp.Genoa.DefaultTCB()
	make1 := func(i int) (wanted, []byte) {
		b := bytes.Clone(der)
		if i > 0 {
			binary.BigEndian.PutUint64(b[at:], uint64(i))
		}
		return wanted{
			slot: slot{"genoa", "vcek"}, hwid: b[at : at+64],
			tcb: attest.TCB{Bootloader: tcb.Bootloader, TEE: tcb.TEE, SNP: tcb.SNP, Microcode: tcb.Microcode},
		}, b
	}
	for i := range n {
		w, b := make1(i)
		if err := os.WriteFile(filepath.Join(dir, vcekFile(w.product, w.hwid, w.tcb)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return roots, make1
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestTenThousandChipsFitIntoMemoryAndAreAnsweredFromThere(t *testing.T) {
	const n = 10_000
	dir := t.TempDir()
	roots, chip := many(t, dir, n)
	before := heap()
	c, err := OpenCache(CacheConfig{Dir: dir, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	index := heap()
	// What the first request of each chip does, without its RSA verification.
	for i := range n {
		w, der := chip(i)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		c.remember(w.id(), &Object{DER: cert.Raw, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}, 0)
	}
	after := heap()
	t.Logf("%d chips: index %d KiB, certificates %d KiB", n, (index-before)>>10, (after-index)>>10)
	// The verifier's own cache of 10,000 chains takes less than 32 MiB.
	if total := after - before; total > 32<<20 {
		t.Errorf("%d bytes for %d chips, want at most 32 MiB", total, n)
	}
	s, err := New(Config{Cache: c})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		w, der := chip(i)
		got, err := s.Endorsement(t.Context(), sevsnp.Key{Product: w.product, SigningKey: w.signingKey, ChipID: w.hwid, TCB: w.tcb})
		if err != nil || !bytes.Equal(got, der) {
			t.Fatalf("chip %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Endorsements != n || st.InMemory != n || st.FileReads != 0 {
		t.Errorf("%d in the directory, %d in memory, %d files read; want %d, %d, 0", st.Endorsements, st.InMemory, st.FileReads, n, n)
	}
	runtime.KeepAlive(c)
}

func TestMemoryIsBoundedWhateverTheDirectoryHolds(t *testing.T) {
	dir := t.TempDir()
	roots, chip := many(t, dir, 0)
	c, err := OpenCache(CacheConfig{Dir: dir, Roots: roots, Memory: 100 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range 1000 {
		w, der := chip(i)
		c.hot.Put(w.id(), &held{der: der})
	}
	if n, bytes := c.hot.Len(), c.hot.Weight(); bytes > 100<<10 || n == 0 || n > 100 {
		t.Errorf("%d certificates, %d bytes in memory; want at most 100 KiB of them", n, bytes)
	}
}

func BenchmarkCached(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("%d-chips", n), func(b *testing.B) {
			dir := b.TempDir()
			roots, chip := many(b, dir, n)
			c, err := OpenCache(CacheConfig{Dir: dir, Roots: roots})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			s, err := New(Config{Cache: c})
			if err != nil {
				b.Fatal(err)
			}
			w, _ := chip(0) // the real one
			k := sevsnp.Key{Product: w.product, SigningKey: w.signingKey, ChipID: w.hwid, TCB: w.tcb}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Endorsement(b.Context(), k); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
