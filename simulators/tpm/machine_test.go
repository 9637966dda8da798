package tpm

import (
	"crypto"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// needTPM skips where there is no software TPM, and says so.
func needTPM(t testing.TB) {
	t.Helper()
	if err := Installed(); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	}
}

func newTestAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// startMachine starts one that ends with the test.
func startMachine(t testing.TB, m Machine, faults ...Fault) *TPM {
	t.Helper()
	needTPM(t)
	return startWith(t, newTestAuthority(t), m, faults...)
}

func startWith(t testing.TB, a *Authority, m Machine, faults ...Fault) *TPM {
	t.Helper()
	if len(m.EKs) == 0 && m.State == "" {
		m.EKs = []EKKind{P256}
	}
	tpm, err := a.Start(m, faults...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tpm.Close() })
	return tpm
}

// readPCRs reads registers 0 to 15 of a bank.
func readPCRs(t testing.TB, tpm transport.TPM, bank crypto.Hash) map[int][]byte {
	t.Helper()
	out := make(map[int][]byte)
	for i := range registers {
		mask := make([]byte, 3)
		mask[i/8] = 1 << (i % 8)
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgID(algorithm(bank)), PCRSelect: mask},
		}}}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.PCRValues.Digests) != 1 {
			t.Fatalf("PCR%d: %d values", i, len(r.PCRValues.Digests))
		}
		out[i] = r.PCRValues.Digests[0].Buffer
	}
	return out
}

func TestABootLeavesTheRegistersThatMeasurementsComputes(t *testing.T) {
	for _, b := range []Boot{{}, {Image: "ledger", SecureBootOff: true}, {Loader: SystemdBoot, CommandLine: "ro"}, {Locality: 3, Firmware: "2"}} {
		start := time.Now()
		tpm := startMachine(t, Machine{Boot: b})
		t.Logf("%+v: started in %v", b, time.Since(start))
		want, err := Measurements(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, bank := range Banks() {
			if diff := cmp.Diff(want.PCRs[bank], readPCRs(t, tpm, bank)); diff != "" {
				t.Errorf("%+v, %v: (-computed +in the TPM)\n%s", b, bank, diff)
			}
		}
		if diff := cmp.Diff(want.Log, tpm.EventLog()); diff != "" {
			t.Errorf("the logs differ: %s", diff)
		}
		start = time.Now()
		if err := tpm.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("closed in %v", time.Since(start))
	}
}

func TestManufacture(t *testing.T) {
	start := time.Now()
	tpm := startMachine(t, Machine{EKs: EKKinds()})
	t.Logf("three keys: started in %v", time.Since(start))
	for _, e := range tpm.EKs() {
		t.Logf("%s %x, certificate %d", e.Kind, e.Digest, len(e.Certificate))
	}
	start = time.Now()
	if err := tpm.Reset(Boot{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("reset in %v", time.Since(start))
}
