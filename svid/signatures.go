package svid

import (
	"crypto/sha256"
	"sync"
)

// defaultSignatures bounds the memory of a source: 64 bytes an entry.
const defaultSignatures = 4096

// signatures remembers which results a verifier key has signed. That is a fact
// about bytes, which no time, bundle or requirement can change; whether the key
// still counts, and everything else, is checked anew each time. So an entry can
// never be stale, and only memory bounds how long it is kept.
type signatures = memory[struct{}]

func newSignatures(n int) *signatures { return newMemory[struct{}](n) }

// signatureKey covers the signed bytes and the key that verified them.
func signatureKey(cwt []byte, key Thumbprint) [32]byte {
	h := sha256.New()
	h.Write(key[:])
	h.Write(cwt)
	return [32]byte(h.Sum(nil))
}

// memory holds facts about bytes, under a digest of all the bytes that they are
// about. A nil memory remembers nothing.
type memory[V any] struct {
	mu         sync.Mutex
	max        int
	young, old map[[32]byte]V // two generations: the older goes when the younger is full
}

func newMemory[V any](n int) *memory[V] {
	return &memory[V]{max: n, young: make(map[[32]byte]V)}
}

func (m *memory[V]) get(id [32]byte) (V, bool) {
	if m == nil {
		var none V
		return none, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.young[id]; ok {
		return v, true
	}
	v, ok := m.old[id]
	if ok {
		m.put(id, v) // still in use: into the younger generation
	}
	return v, ok
}

func (m *memory[V]) good(id [32]byte) bool {
	_, ok := m.get(id)
	return ok
}

func (m *memory[V]) add(id [32]byte) {
	var v V
	m.set(id, v)
}

func (m *memory[V]) set(id [32]byte, v V) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(id, v)
}

func (m *memory[V]) put(id [32]byte, v V) {
	if len(m.young) >= m.max/2 {
		m.old, m.young = m.young, make(map[[32]byte]V, m.max/2)
	}
	m.young[id] = v
}
