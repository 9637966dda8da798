package nitro

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultCacheSize is how many chain prefixes are remembered of each kind. At
// about 5 KB each, both kinds full are 40 MB.
const DefaultCacheSize = 4096

// cache remembers chain prefixes that verified, by digest. Invariants:
//
//   - Only [Verifier.Authenticate] fills it, and only with the chain of a
//     document whose COSE signature verified. Strangers cannot write to it.
//   - An entry answers only at times at which every certificate of its prefix
//     is valid. At other times it is as if it were not there, and the chain is
//     verified, and refused, in full.
//   - It never grows beyond its size: the least recently used entry goes.
//   - Leaves and issuers are kept apart: enclaves come and go by the thousand,
//     and must not push out the few issuers that make each of them cheap.
type cache struct {
	leaves  *lru
	issuers *lru

	leafHits, issuerHits, misses, signatures, panics atomic.Uint64
}

// CacheStats counts what the chain cache did, for metrics. The counters only
// grow.
type CacheStats struct {
	Leaves     int // chains remembered now
	Issuers    int // chain prefixes without leaf remembered now
	Size       int // the most of each kind
	LeafHits   uint64
	IssuerHits uint64 // unknown leaf under a known issuer
	Misses     uint64 // nothing known but the root
	Evictions  uint64
	// Signatures counts P-384 verifications of certificates. The one of each
	// document itself is not in it.
	Signatures uint64
	// Panics counts documents on which nitrite panicked. Each was refused as
	// malformed, check "panic"; any is worth a look.
	Panics uint64
}

func newCache(size int) *cache {
	return &cache{leaves: newLRU(size), issuers: newLRU(size)}
}

func (c *cache) leaf(k digest, at time.Time) *link {
	l := c.leaves.get(k, at)
	if l != nil {
		c.leafHits.Add(1)
	}
	return l
}

func (c *cache) issuer(k digest, at time.Time) *link { return c.issuers.get(k, at) }

func (c *cache) count(issuerKnown bool) {
	if issuerKnown {
		c.issuerHits.Add(1)
	} else {
		c.misses.Add(1)
	}
}

// remember stores what a document that verified has shown.
func (c *cache) remember(fs []fresh) {
	for _, f := range fs {
		if f.leaf {
			c.leaves.put(f.key, f.link)
		} else {
			c.issuers.put(f.key, f.link)
		}
	}
}

func (c *cache) stats() CacheStats {
	return CacheStats{
		Leaves: c.leaves.len(), Issuers: c.issuers.len(), Size: c.leaves.size,
		LeafHits: c.leafHits.Load(), IssuerHits: c.issuerHits.Load(), Misses: c.misses.Load(),
		Evictions:  c.leaves.evictions.Load() + c.issuers.evictions.Load(),
		Signatures: c.signatures.Load(), Panics: c.panics.Load(),
	}
}

// lru is a map of bounded size that forgets what was not used for longest. A
// size of 0 remembers nothing.
type lru struct {
	size      int
	evictions atomic.Uint64

	mu    sync.Mutex
	byKey map[digest]*list.Element // of entry
	order *list.List               // most recently used first
}

type entry struct {
	key  digest
	link *link
}

func newLRU(size int) *lru {
	return &lru{size: size, byKey: make(map[digest]*list.Element), order: list.New()}
}

// get returns the link, or nil if it is unknown or not valid at that time. An
// entry whose time has passed is dropped.
func (c *lru) get(k digest, at time.Time) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[k]
	if !ok {
		return nil
	}
	l := e.Value.(entry).link // the list holds entries only
	if at.After(l.notAfter) {
		c.order.Remove(e)
		delete(c.byKey, k)
		return nil
	}
	if at.Before(l.notBefore) {
		return nil
	}
	c.order.MoveToFront(e)
	return l
}

func (c *lru) put(k digest, l *link) {
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
		delete(c.byKey, oldest.Value.(entry).key) // the list holds entries only
		c.evictions.Add(1)
	}
	c.byKey[k] = c.order.PushFront(entry{key: k, link: l})
}

func (c *lru) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}
