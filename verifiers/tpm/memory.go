package tpm

import (
	"context"
	"sync"
	"time"
)

// Binding is what a second round showed: this AK and this EK are in one TPM. EK
// is SHA-256 of the EK's DER SubjectPublicKeyInfo, AK is the AK's name.
type Binding struct {
	EK       [32]byte
	AK       []byte
	Reset    uint32    // resetCount and restartCount when the TPM was last seen
	Restart  uint32    //
	HasClock bool      // whether they are known: only for a primary of the endorsement hierarchy
	At       time.Time // when it was last shown
}

// Bindings remembers which AK belongs to which EK, one AK for each EK. It is safe
// for concurrent use. Lookup is asked once for every renewal, so that it answers
// from memory. An error means that it cannot tell, never "not known".
type Bindings interface {
	Lookup(ctx context.Context, ek [32]byte) (Binding, bool, error)
	// Remember puts or replaces the binding of b.EK.
	Remember(ctx context.Context, b Binding) error
	// Forget is for operators: the next attestation of the EK activates its AK again.
	// The verifier itself never forgets.
	Forget(ctx context.Context, ek [32]byte) error
}

// Inventory holds the EKs that an operator owns, each in a group. It is safe for
// concurrent use, and answers from memory. An error means that it cannot tell.
type Inventory interface {
	Group(ctx context.Context, ek [32]byte) (group string, ok bool, err error)
}

// MemoryBindings is a Bindings that lasts as long as the process: for tests and
// tools. The zero value is ready.
type MemoryBindings struct {
	mu sync.Mutex
	m  map[[32]byte]Binding
}

var _ Bindings = (*MemoryBindings)(nil)

// Lookup implements [Bindings]. It never fails.
func (m *MemoryBindings) Lookup(_ context.Context, ek [32]byte) (Binding, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.m[ek]
	return b, ok, nil
}

// Remember implements [Bindings]. It never fails.
func (m *MemoryBindings) Remember(_ context.Context, b Binding) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = make(map[[32]byte]Binding)
	}
	m.m[b.EK] = b
	return nil
}

// Forget implements [Bindings]. It never fails.
func (m *MemoryBindings) Forget(_ context.Context, ek [32]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.m, ek)
	return nil
}

// MemoryInventory is a fixed Inventory: the group of each EK digest. It is for
// tests and tools.
type MemoryInventory map[[32]byte]string

var _ Inventory = MemoryInventory(nil)

// Group implements [Inventory]. It never fails.
func (m MemoryInventory) Group(_ context.Context, ek [32]byte) (string, bool, error) {
	g, ok := m[ek]
	return g, ok, nil
}
