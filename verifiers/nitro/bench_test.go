package nitro_test

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

// BenchmarkVerify shows what a verification costs beside the cryptography that
// it cannot avoid. Every sub-benchmark measures the bare P-384 verification of
// the same document in the same loop, turn by turn, so that a busy machine slows
// both, and reports the ratio:
//
//	warm-leaf  the chain is known: 1 P-384, the document's. Wanted: at most 1.25
//	new-leaf   the issuers are known: 2 P-384
//	cold       nothing is known: 5 P-384
//	nitrite    the library by itself, for comparison
//	recorded   warm-leaf, on a recorded document of hardware
//
// ns/op and allocations are those of the pair.
func BenchmarkVerify(b *testing.B) {
	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return epoch }})
	if err != nil {
		b.Fatal(err)
	}
	_, binding := challenge(b)
	doc := answer(binding)
	body := mint(b, a, doc)
	floor := bareVerification(b, body)

	b.Run("floor", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			floor()
		}
	})
	b.Run("warm-leaf", func(b *testing.B) {
		v := verifierOf(b, a)
		verify(b, v, body)
		paired(b, floor, func() { verify(b, v, body) })
	})
	b.Run("new-leaf", func(b *testing.B) {
		// Eight leaves in turn through a cache for four: none is ever found, and their
		// issuers always are.
		v := verifierOf(b, a, nitro.WithCacheSize(4))
		bodies := make([][]byte, 8)
		for i := range bodies {
			d := doc
			d.FreshLeaf = true
			bodies[i] = mint(b, a, d)
		}
		i := 0
		paired(b, floor, func() { verify(b, v, bodies[i%len(bodies)]); i++ })
	})
	b.Run("cold", func(b *testing.B) {
		v := verifierOf(b, a, nitro.WithCacheSize(0))
		paired(b, floor, func() { verify(b, v, body) })
	})
	b.Run("nitrite", func(b *testing.B) {
		roots := pool(a)
		paired(b, floor, func() {
			if _, err := nitriteAlone(body, roots, epoch); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("recorded", func(b *testing.B) {
		for _, r := range recordings(b) {
			if r.name != "dstack-nsm-2025" && r.name != "blocky-max-fields-2024" {
				continue
			}
			b.Run(r.name, func(b *testing.B) {
				v := hardware(b)
				run := func() {
					if _, err := v.Authenticate(b.Context(), evidence(r.body), r.at); err != nil {
						b.Fatal(err)
					}
				}
				run()
				paired(b, bareVerification(b, r.body), run)
			})
		}
	})
}

// BenchmarkDecode is what it costs to refuse a stranger's bytes before any
// cryptography: everything up to the pinned root.
func BenchmarkDecode(b *testing.B) {
	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return epoch }})
	if err != nil {
		b.Fatal(err)
	}
	body, v := mint(b, a, simnitro.Document{}), hardware(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Authenticate(b.Context(), evidence(body), epoch); attest.CheckOf(err) != nitro.CheckChainRoot {
			b.Fatal(err)
		}
	}
}

// paired runs both in turn, and reports the median of the second over that of
// the first: a busy machine slows some of the runs, but not the typical one.
func paired(b *testing.B, floor, f func()) {
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
	slices.Sort(bare)
	slices.Sort(whole)
	m, n := bare[len(bare)/2], whole[len(whole)/2]
	b.ReportMetric(float64(n)/float64(m), "x-floor")
	b.ReportMetric(float64(n.Microseconds()), "us/verify")
	b.ReportMetric(float64(m.Microseconds()), "us/floor")
}

func verify(b *testing.B, v *nitro.Verifier, body []byte) {
	b.Helper()
	if _, err := v.Authenticate(b.Context(), evidence(body), epoch); err != nil {
		b.Fatal(err)
	}
}

// bareVerification is one P-384 verification of the document's signature by its
// own leaf, hashing included and nothing else.
func bareVerification(b *testing.B, body []byte) func() {
	b.Helper()
	var msg []cbor.RawMessage
	if err := cbor.Unmarshal(body, &msg); err != nil {
		b.Fatal(err)
	}
	var payload, signature []byte
	if err := cbor.Unmarshal(msg[2], &payload); err != nil {
		b.Fatal(err)
	}
	if err := cbor.Unmarshal(msg[3], &signature); err != nil {
		b.Fatal(err)
	}
	var doc struct {
		Certificate []byte `cbor:"certificate"`
	}
	if err := cbor.Unmarshal(payload, &doc); err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(doc.Certificate)
	if err != nil {
		b.Fatal(err)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		b.Fatal("not ECDSA")
	}
	// Sig_structure of RFC 9052, section 4.4: the head of an array of four, the
	// context, the protected header, no external data, the payload.
	signed := append([]byte("\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40\x59"), 0, 0)
	binary.BigEndian.PutUint16(signed[len(signed)-2:], uint16(len(payload)))
	signed = append(signed, payload...)
	r, s := new(big.Int).SetBytes(signature[:48]), new(big.Int).SetBytes(signature[48:])
	return func() {
		sum := sha512.Sum384(signed)
		if !ecdsa.Verify(key, sum[:], r, s) {
			b.Fatal("the bare verification fails")
		}
	}
}
