package tpm

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// BenchmarkStart makes a machine with a P-256 EK, boots it and turns it off.
func BenchmarkStart(b *testing.B) {
	needTPM(b)
	a := newTestAuthority(b)
	for b.Loop() {
		tpm, err := a.Start(Machine{EKs: []EKKind{P256}})
		if err != nil {
			b.Fatal(err)
		}
		if err := tpm.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReset reboots a machine.
func BenchmarkReset(b *testing.B) {
	tpm := startMachine(b, Machine{})
	for b.Loop() {
		if err := tpm.Reset(Boot{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkQuote has the TPM quote PCR 0 to 7 with a P-256 key: what part of an
// attestation is the software TPM's own.
func BenchmarkQuote(b *testing.B) {
	tpm := startMachine(b, Machine{})
	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(testAK())}.Execute(tpm)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: make([]byte, 32)}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect: *selection(tpm2.TPMAlgSHA256, 0xff, 0, 0),
		}.Execute(tpm)
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMeasurements computes a boot's registers and log without a TPM.
func BenchmarkMeasurements(b *testing.B) {
	for b.Loop() {
		if _, err := Measurements(Boot{Image: "ledger"}); err != nil {
			b.Fatal(err)
		}
	}
}
