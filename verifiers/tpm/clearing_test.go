package tpm_test

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// underStorage is an AK under the storage root, whose clock the TPM hides.
const underStorage = 1

// Between the clearing and the next quote of the AK that is known, another key of the
// same TPM is activated: one that tells nothing about the counters must not replace
// what is remembered of them.
func TestAnAKWithoutACounterLaundersNoClearing(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	before := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, before, ch, before.exchange(b)); err != nil {
		t.Fatal(err)
	}
	hidden := w.mint(t, order{extra: b.B[:], akKind: rsa2048, hierarchy: underStorage})
	if c, err := enrol(t, v, hidden, ch, hidden.exchange(b)); err == nil && !c.Cleared {
		t.Errorf("activated: cleared %t, clock %+v", c.Cleared, c.Clock)
	}
	cleared := w.mint(t, order{extra: b.B[:], reset: 1})
	if c, err := enrol(t, v, cleared, ch, cleared.exchange(b)); err != nil || !c.Cleared {
		t.Errorf("after that: %v, %+v", err, c)
	}
}

// What an older server remembered without counters is a reason to activate again.
func TestAMemoryWithoutCountersIsActivatedAgain(t *testing.T) {
	w := newWorld(t)
	memory := new(tpm.MemoryBindings)
	v := w.verifier(t, tpm.WithBindings(memory))
	ch, b := challenge(t, nil)
	m := w.mint(t, order{extra: b.B[:]})
	if err := memory.Remember(t.Context(), tpm.Binding{EK: digestOf(spkiOf(t, m.ek.Public())), AK: m.akName}); err != nil {
		t.Fatal(err)
	}
	if _, err := enrol(t, v, m, ch, nil); attest.CheckOf(err) != tpm.CheckAKUnactivated {
		t.Errorf("without a second round: %v", err)
	}
	if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
		t.Error(err)
	}
	if c, err := enrol(t, v, m, ch, nil); err != nil || c.Cleared {
		t.Errorf("renewal: %v", err)
	}
}

// A cleared TPM that sends a log of another boot is refused, and still cleared when
// it sends its own.
func TestAWrongEventLogHasNoClearingForgotten(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	before := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, before, ch, before.exchange(b)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wrong := w.mint(t, order{extra: b.B[:], reset: 1, log: other(t)})
		if _, err := enrol(t, v, wrong, ch, wrong.exchange(b)); attest.CheckOf(err) != tpm.CheckEventLogReplay {
			t.Fatalf("the log of another boot: %v", err)
		}
	}
	cleared := w.mint(t, order{extra: b.B[:], reset: 1})
	if c, err := enrol(t, v, cleared, ch, cleared.exchange(b)); err != nil || !c.Cleared {
		t.Errorf("%v, %+v", err, c)
	}
}
