package sevsnp_test

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// BenchmarkVerify shows what a verification costs beside the cryptography that
// it cannot avoid. Every sub-benchmark measures the bare P-384 verification of
// the same report in the same loop, turn by turn, so that a busy machine slows
// both, and reports the ratio:
//
//	warm       the endorsement is known: 1 P-384, the report's. Wanted: at most 1.15
//	warm-table the same, with VCEK, ASK and ARK along, as hosts' tables hold them
//	warm-crl   the same, with a CRL along, which is required
//	cold       nothing is known: 1 P-384 and 1 RSA-4096
//	library    go-sev-guest by itself, for comparison
//	recorded   warm, on recorded reports of hardware
//
// ns/op and allocations are those of the pair.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b, amdOrg, sharedKeys())
	m := w.mint(b, order{})
	l := w.lines[sevsnp.Milan]
	floor := bareVerification(b, m.body, m.leaf)
	table := evidence(m.body, l.ark.Raw, l.ask.Raw, m.leaf)

	b.Run("floor", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			floor()
		}
	})
	warm := func(ev attest.Evidence, opts ...sevsnp.Option) func(*testing.B) {
		return func(b *testing.B) {
			v := w.verifier(b, opts...)
			run(b, v, ev, epoch)
			paired(b, floor, func() { run(b, v, ev, epoch) })
		}
	}
	b.Run("warm", warm(m.evidence()))
	b.Run("warm-table", warm(table))
	b.Run("warm-crl", warm(m.evidence(w.crl(b, crlOrder{})), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true})))
	b.Run("cold", func(b *testing.B) {
		v := w.verifier(b, sevsnp.WithCacheSize(0))
		paired(b, floor, func() { run(b, v, m.evidence(), epoch) })
	})
	b.Run("library", func(b *testing.B) {
		a := libraryAttestation(b, m)
		paired(b, floor, func() {
			o := libraryOptions(w, sevsnp.Milan, epoch)
			if err := verify.SnpAttestation(a, o); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("recorded", func(b *testing.B) {
		for _, r := range recordings(b) {
			if !slices.Contains([]string{"ms-azure-turin-v5", "trustee-aws-vlek-milan-v3", "ms-azure-genoa-v3"}, r.name) {
				continue
			}
			b.Run(r.name, func(b *testing.B) {
				v := hardware(b)
				run(b, v, r.evidence(), r.at)
				paired(b, bareVerification(b, r.body, r.leaf), func() { run(b, v, r.evidence(), r.at) })
			})
		}
	})
}

// BenchmarkRefuse is what a stranger's report costs that names no endorsement,
// and one with a forged endorsement.
func BenchmarkRefuse(b *testing.B) {
	w := newWorld(b, fakeOrg, sharedKeys())
	m := w.mint(b, order{})
	forged := newWorld(b, fakeOrg, fakeKeys{w.keys.asvk, w.keys.ark, w.keys.ask}).mint(b, order{})
	for name, ev := range map[string]attest.Evidence{"no-endorsement": evidence(m.body), "forged-endorsement": forged.evidence()} {
		b.Run(name, func(b *testing.B) {
			v := w.verifier(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Authenticate(b.Context(), ev, epoch); err == nil {
					b.Fatal("verified")
				}
			}
		})
	}
}

func run(b *testing.B, v *sevsnp.Verifier, ev attest.Evidence, at time.Time) {
	if _, err := v.Authenticate(b.Context(), ev, at); err != nil {
		b.Fatal(err)
	}
}

// paired runs both in turn, and reports the time of the second over that of the
// first.
func paired(b *testing.B, floor, f func()) {
	b.Helper()
	b.ReportAllocs()
	var bare, whole time.Duration
	for b.Loop() {
		t0 := time.Now()
		floor()
		t1 := time.Now()
		f()
		bare, whole = bare+t1.Sub(t0), whole+time.Since(t1)
	}
	b.ReportMetric(float64(whole)/float64(bare), "x-floor")
	b.ReportMetric(float64(whole.Microseconds())/float64(b.N), "us/verify")
	b.ReportMetric(float64(bare.Microseconds())/float64(b.N), "us/floor")
}

// bareVerification is one P-384 verification of the report's signature by its
// own endorsement's key, hashing included and nothing else.
func bareVerification(b *testing.B, body, leaf []byte) func() {
	b.Helper()
	c, err := x509.ParseCertificate(leaf)
	if err != nil {
		b.Fatal(err)
	}
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		b.Fatal("not ECDSA")
	}
	component := func(off int) *big.Int {
		n := slices.Clone(body[off : off+48])
		slices.Reverse(n)
		return new(big.Int).SetBytes(n)
	}
	r, s := component(0x2a0), component(0x2e8)
	return func() {
		sum := sha512.Sum384(body[:0x2a0])
		if !ecdsa.Verify(key, sum[:], r, s) {
			b.Fatal("the bare verification fails")
		}
	}
}
