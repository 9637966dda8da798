package tpm_test

import (
	"context"
	"crypto/sha256"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/tpm"
)

func digestOf(b []byte) [32]byte { return sha256.Sum256(b) }

// counted counts the second rounds of a machine.
func counted(x verifiers.Exchange, n *int) verifiers.Exchange {
	return func(ctx context.Context, challenge []byte) ([]byte, error) {
		*n++
		return x(ctx, challenge)
	}
}

// TestAMachineActivatesOnceAndAgainWhenItWasCleared follows one machine through
// its life.
func TestAMachineActivatesOnceAndAgainWhenItWasCleared(t *testing.T) {
	w := newWorld(t)
	memory := new(tpm.MemoryBindings)
	ch, b := challenge(t, nil)
	for _, ekKind := range []string{p256, rsa2048} {
		v := w.verifier(t, tpm.WithBindings(memory))
		for _, s := range []struct {
			what    string
			o       order
			rounds  int
			cleared bool
		}{
			{"first boot", order{}, 1, false},
			{"renewal", order{}, 0, false},
			{"resume", order{restart: 1}, 0, false},
			{"reboot", order{reset: 8}, 0, false},
			{"renewal after it", order{reset: 8}, 0, false},
			{"an answer from before the reboot", order{reset: 7, restart: 1}, 1, true},
			{"back to the present", order{reset: 8}, 0, false},
			{"cleared", order{reset: 1}, 1, true},
			{"renewal after it", order{reset: 1}, 0, false},
			{"resumed", order{reset: 1, restart: 5}, 0, false},
			{"an older restart", order{reset: 1, restart: 4}, 1, true},
			{"another AK", order{reset: 1, restart: 4, akKind: rsa2048}, 1, false},
			{"the first AK again", order{reset: 1, restart: 4}, 1, false},
			{"another AK in a cleared TPM", order{reset: 0xffffffff, akKind: rsa2048}, 1, false},
			{"an AK without readable counters", order{hierarchy: 1, akKind: rsa2048}, 1, false},
			{"the same again", order{hierarchy: 1, akKind: rsa2048}, 0, false},
			{"the first AK", order{reset: 20}, 1, false},
			{"another AK, in a TPM that was cleared", order{reset: 2, akKind: rsa2048}, 1, true},
		} {
			s.o.extra, s.o.ekKind = b.B[:], ekKind
			m := w.mint(t, s.o)
			rounds := 0
			c, err := enrol(t, v, m, ch, counted(m.exchange(b), &rounds))
			if err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
			if rounds != s.rounds || c.Cleared != s.cleared || c.AKTrust != attest.AKActivated {
				t.Errorf("%s: %d rounds, want %d; cleared %t, want %t", s.what, rounds, s.rounds, c.Cleared, s.cleared)
			}
		}
	}
}

// A binding that was voided stays void when the second round fails.
func TestAClearedTPMThatCannotActivateStaysUnknown(t *testing.T) {
	w := newWorld(t)
	memory := new(tpm.MemoryBindings)
	v := w.verifier(t, tpm.WithBindings(memory))
	ch, b := challenge(t, nil)
	m := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
		t.Fatal(err)
	}
	old := w.mint(t, order{extra: b.B[:], reset: 2})
	if _, err := enrol(t, v, old, ch, nil); attest.CheckOf(err) != tpm.CheckAKUnactivated {
		t.Fatalf("cleared and without a second round: %v", err)
	}
	if _, ok, _ := memory.Lookup(t.Context(), digestOf(spkiOf(t, m.ek.Public()))); ok {
		t.Error("the voided binding is still there")
	}
	if _, err := enrol(t, v, m, ch, nil); attest.CheckOf(err) != tpm.CheckAKUnactivated {
		t.Errorf("then the old counters again: %v", err)
	}
}

// Another TPM that holds the same AK blob cannot open a credential to its own EK
// for it: the AK is not in it. One that shows the first TPM's EK cannot either.
func TestAnotherTPMWithTheSameAKIsRefused(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	first := w.mint(t, order{extra: b.B[:]})
	if _, err := enrol(t, v, first, ch, first.exchange(b)); err != nil {
		t.Fatal(err)
	}
	second := w.mint(t, order{extra: b.B[:], ekKind: rsa2048}) // the same AK, another EK
	second.akName = []byte("only its own AK could be activated")
	refused := func(_ context.Context, credential []byte) ([]byte, error) {
		if _, err := second.activate(credential); err == nil {
			t.Error("the credential opened for another AK")
		}
		return make([]byte, 32), nil
	}
	if got, err := enrol(t, v, second, ch, refused); got != nil || attest.CheckOf(err) != tpm.CheckCredentialProof {
		t.Errorf("%v", err)
	}
	third := w.mint(t, order{extra: b.B[:], ak: nil, akKind: p384})
	third.body.EKPublic, third.body.EKCertificate = first.body.EKPublic, first.body.EKCertificate
	third.evidence = evidence(t, third.body, nil, w.maker.issuer.Raw)
	third.ek = second.ek // it does not hold the EK that it shows
	if got, err := enrol(t, v, third, ch, func(_ context.Context, credential []byte) ([]byte, error) {
		if _, err := (minted{ek: second.ek, ekArea: second.ekArea, akName: third.akName}).activate(credential); err == nil {
			t.Error("the credential opened without the EK")
		}
		return make([]byte, 32), nil
	}); got != nil || attest.CheckOf(err) != tpm.CheckCredentialProof {
		t.Errorf("%v", err)
	}
}

// Anybody can show another's EK and certificate beside an AK of their own making.
// What the machine is known by must not be lost by that.
func TestAStrangersAKDoesNotVoidAMachinesBinding(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	m := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
		t.Fatal(err)
	}
	guess := func(context.Context, []byte) ([]byte, error) { return make([]byte, 32), nil }
	for _, x := range []verifiers.Exchange{nil, guess} {
		stranger := w.mint(t, order{extra: b.B[:], reset: 1, akKind: p384})
		if got, err := enrol(t, v, stranger, ch, x); got != nil || attest.KindOf(err) != attest.Untrusted {
			t.Fatalf("%v", err)
		}
	}
	if _, err := enrol(t, v, m, ch, nil); err != nil {
		t.Errorf("the machine must activate again: %v", err)
	}
}
