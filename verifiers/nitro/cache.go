package nitro

import (
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/lru"
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
	leaves  *lru.Cache[digest, *link]
	issuers *lru.Cache[digest, *link]

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
	return &cache{leaves: lru.New[digest, *link](size), issuers: lru.New[digest, *link](size)}
}

func (c *cache) leaf(k digest, at time.Time) *link {
	l := valid(c.leaves, k, at)
	if l != nil {
		c.leafHits.Add(1)
	}
	return l
}

func (c *cache) issuer(k digest, at time.Time) *link { return valid(c.issuers, k, at) }

// valid returns a remembered link, or nil if it is unknown or not valid at that
// time. One whose time has passed is forgotten.
func valid(c *lru.Cache[digest, *link], k digest, at time.Time) *link {
	l, ok := c.Get(k)
	switch {
	case !ok || at.Before(l.notBefore):
		return nil
	case at.After(l.notAfter):
		c.Remove(k)
		return nil
	}
	return l
}

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
			c.leaves.Put(f.key, f.link)
		} else {
			c.issuers.Put(f.key, f.link)
		}
	}
}

func (c *cache) stats() CacheStats {
	return CacheStats{
		Leaves: c.leaves.Len(), Issuers: c.issuers.Len(), Size: int(c.leaves.Limit()),
		LeafHits: c.leafHits.Load(), IssuerHits: c.issuerHits.Load(), Misses: c.misses.Load(),
		Evictions:  c.leaves.Evictions() + c.issuers.Evictions(),
		Signatures: c.signatures.Load(), Panics: c.panics.Load(),
	}
}
