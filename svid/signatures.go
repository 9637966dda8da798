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
type signatures struct {
	mu         sync.Mutex
	max        int
	young, old map[[32]byte]struct{} // two generations: the older goes when the younger is full
}

func newSignatures(n int) *signatures {
	return &signatures{max: n, young: make(map[[32]byte]struct{})}
}

// signatureKey covers the signed bytes and the key that verified them.
func signatureKey(cwt []byte, key Thumbprint) [32]byte {
	h := sha256.New()
	h.Write(key[:])
	h.Write(cwt)
	return [32]byte(h.Sum(nil))
}

func (s *signatures) good(id [32]byte) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.young[id]; ok {
		return true
	}
	if _, ok := s.old[id]; ok {
		s.put(id) // still in use: into the younger generation
		return true
	}
	return false
}

func (s *signatures) add(id [32]byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(id)
}

func (s *signatures) put(id [32]byte) {
	if len(s.young) >= s.max/2 {
		s.old, s.young = s.young, make(map[[32]byte]struct{}, s.max/2)
	}
	s.young[id] = struct{}{}
}
