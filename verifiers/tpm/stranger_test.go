package tpm_test

import (
	"context"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// A stranger with a TPM of his own knows our EK's public half and certificate, and
// may have counters that are below ours. What he cannot prove changes nothing.
func TestAStrangersAKVoidsNoBinding(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	ours := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, ours, ch, ours.exchange(b)); err != nil {
		t.Fatal(err)
	}
	strangers := w.mint(t, order{extra: b.B[:], reset: 2, akKind: rsa2048})
	guess := func(context.Context, []byte) ([]byte, error) { return make([]byte, 32), nil }
	if _, err := enrol(t, v, strangers, ch, guess); attest.CheckOf(err) != tpm.CheckCredentialProof {
		t.Fatalf("a guess: %v", err)
	}
	if _, err := enrol(t, v, ours, ch, nil); err != nil {
		t.Errorf("ours, without a second round: %v", err)
	}
	// With a proof it is a TPM whose counters went back and whose AK is new.
	c, err := enrol(t, v, strangers, ch, strangers.exchange(b))
	if err != nil || !c.Cleared {
		t.Errorf("proved: %v, %+v", err, c)
	}
}
