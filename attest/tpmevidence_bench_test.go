package attest_test

import (
	"bytes"
	"testing"

	"github.com/assay-project/assay/attest"
)

// A body as an agent sends it: 16 registers, a quote, two certificates.
func BenchmarkDecodeTPMEvidence(b *testing.B) {
	e := whole()
	e.PCRs = map[uint32][]byte{}
	for i := range uint32(16) {
		e.PCRs[i] = bytes.Repeat([]byte{byte(i)}, 32)
	}
	e.EKCertificate = make([]byte, 1000)
	body, err := e.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := attest.DecodeTPMEvidence(body); err != nil {
			b.Fatal(err)
		}
	}
}
