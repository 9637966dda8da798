package tpm_test

import (
	"context"
	"sync"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/tpm"
)

// shelf is an inventory that an operator changes.
type shelf struct {
	mu sync.Mutex
	m  tpm.MemoryInventory
}

func (s *shelf) Group(ctx context.Context, ek [32]byte) (string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.Group(ctx, ek)
}

func (s *shelf) set(m tpm.MemoryInventory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m = m
}

// The second round takes as long as the attester likes. Claims say what the operator
// says when it is over.
func TestAnEKThatLeavesTheInventoryInTheSecondRoundIsNotInIt(t *testing.T) {
	w := newWorld(t)
	ch, b := challenge(t, nil)
	for name, noCertificate := range map[string]bool{"with a certificate": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			m := w.mint(t, order{extra: b.B[:], noEKCert: noCertificate})
			ek := digestOf(spkiOf(t, m.ek.Public()))
			inventory := &shelf{m: tpm.MemoryInventory{ek: "rack-4"}}
			memory := new(tpm.MemoryBindings)
			v := w.verifier(t, tpm.WithInventory(inventory), tpm.WithBindings(memory))
			during := func(m2 tpm.MemoryInventory) verifiers.Exchange {
				return func(ctx context.Context, credential []byte) ([]byte, error) {
					inventory.set(m2)
					return m.exchange(b)(ctx, credential)
				}
			}
			c, err := enrol(t, v, m, ch, during(nil))
			switch {
			case noCertificate:
				if c != nil || attest.CheckOf(err) != tpm.CheckEKCertificate {
					t.Errorf("removed: %v, %+v", err, c)
				}
				if _, ok, _ := memory.Lookup(t.Context(), ek); ok {
					t.Error("it is remembered")
				}
			case err != nil || c.EKInventory != "" || c.EKCertificate == nil:
				t.Errorf("removed: %v, %+v", err, c)
			}
			inventory.set(tpm.MemoryInventory{ek: "rack-4"})
			m.evidence = w.mint(t, order{extra: b.B[:], noEKCert: noCertificate, reset: 6}).evidence // activates again
			if c, err := enrol(t, v, m, ch, during(tpm.MemoryInventory{ek: "rack-5"})); err != nil || c.EKInventory != "rack-5" {
				t.Errorf("moved: %v, %+v", err, c)
			}
		})
	}
}
