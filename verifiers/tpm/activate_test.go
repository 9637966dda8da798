package tpm_test

import (
	"context"
	"crypto/sha256"
	"errors"
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
			{"the same again", order{reset: 0xffffffff, akKind: rsa2048}, 0, false},
			{"the first AK, in a TPM that was cleared", order{reset: 20}, 1, true},
			{"another AK, in a TPM that was cleared again", order{reset: 2, akKind: rsa2048}, 1, true},
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

// One who lets the second round fail does not have the clearing forgotten.
func TestAClearedTPMIsClearedUntilItHasActivated(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	m := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
		t.Fatal(err)
	}
	cleared := w.mint(t, order{extra: b.B[:], reset: 2})
	failed := func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the stream has ended") }
	for _, x := range []verifiers.Exchange{nil, failed, nil} {
		if got, err := enrol(t, v, cleared, ch, x); got != nil || err == nil {
			t.Fatalf("verified without a second round: %+v", got)
		}
	}
	if c, err := enrol(t, v, cleared, ch, cleared.exchange(b)); err != nil || !c.Cleared {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := enrol(t, v, cleared, ch, nil); err != nil || c.Cleared {
		t.Errorf("renewal: %+v, %v", c, err)
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
