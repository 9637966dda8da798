package sevsnp

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultCacheSize is how many endorsements are remembered, one per chip and
// TCB. At less than 3 KB each, all of them are below 32 MB.
const DefaultCacheSize = 10_000

// maxRemembered is how many issuers and CRLs are remembered, of each. There are
// two of each per product line; more come with AMD's rotations.
const maxRemembered = 32

// digest is SHA-256 of a certificate's or CRL's DER. It names the item in the
// cache.
type digest [sha256.Size]byte

// cache remembers what verified under the roots. Invariants:
//
//   - Only [Verifier.Authenticate] fills it, and with what an attester brought
//     only after a report's signature verified under it. Strangers cannot write to
//     it. A CRL of the operator's own collateral is remembered when it verified.
//   - An entry answers only at times at which every certificate of its chain is
//     valid. At other times it is as if it were not there, and the chain is
//     verified, and refused, in full.
//   - It never grows beyond its size: the least recently used entry goes.
//   - Whether an endorsement fits a report, and whether it is revoked, is never
//     remembered: both are checked each time.
type cache struct {
	leaves  *lru[*endorsement]
	issuers *lru[*issuer]
	crls    *lru[*crl]

	hits, misses, signatures, panics atomic.Uint64
}

// CacheStats counts what the chain cache did, for metrics. The counters only
// grow.
type CacheStats struct {
	Endorsements int // remembered now
	Issuers      int // ASKs and ASVKs beyond the built-in ones, remembered now
	CRLs         int // remembered now
	Size         int // the most endorsements
	Hits         uint64
	Misses       uint64
	Evictions    uint64
	// Signatures counts RSA-4096 verifications of certificates and CRLs. The
	// P-384 verification of each report is not in it.
	Signatures uint64
	// Panics counts reports on which go-sev-guest panicked. Each was refused as
	// malformed, check "panic"; any is worth a look.
	Panics uint64
}

func newCache(size int) *cache {
	small := min(size, maxRemembered)
	return &cache{leaves: newLRU[*endorsement](size), issuers: newLRU[*issuer](small), crls: newLRU[*crl](small)}
}

func (c *cache) stats() CacheStats {
	return CacheStats{
		Endorsements: c.leaves.len(), Issuers: c.issuers.len(), CRLs: c.crls.len(), Size: c.leaves.size,
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.leaves.evictions.Load(),
		Signatures: c.signatures.Load(), Panics: c.panics.Load(),
	}
}

// timed is something that is good at some times only.
type timed interface{ validAt(t time.Time) bool }

// lru is a map of bounded size that forgets what was not used for longest. A
// size of 0 remembers nothing.
type lru[V timed] struct {
	size      int
	evictions atomic.Uint64

	mu    sync.Mutex
	byKey map[digest]*list.Element // of entry
	order *list.List               // most recently used first
}

type entry[V timed] struct {
	key   digest
	value V
}

func newLRU[V timed](size int) *lru[V] {
	return &lru[V]{size: size, byKey: make(map[digest]*list.Element), order: list.New()}
}

// get returns the value, if it is known and good at that time.
func (c *lru[V]) get(k digest, at time.Time) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var none V
	e, ok := c.byKey[k]
	if !ok {
		return none, false
	}
	v := e.Value.(entry[V]).value // the list holds entries only
	if !v.validAt(at) {
		return none, false
	}
	c.order.MoveToFront(e)
	return v, true
}

func (c *lru[V]) put(k digest, v V) {
	if c.size == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[k]; ok {
		c.order.MoveToFront(e)
		return
	}
	for c.order.Len() >= c.size {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.byKey, oldest.Value.(entry[V]).key) // the list holds entries only
		c.evictions.Add(1)
	}
	c.byKey[k] = c.order.PushFront(entry[V]{key: k, value: v})
}

func (c *lru[V]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}
