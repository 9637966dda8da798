package sevsnp

import (
	"crypto/sha256"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/lru"
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
	leaves  memory[*endorsement]
	issuers memory[*issuer]
	crls    memory[*crl]

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
	return &cache{leaves: newMemory[*endorsement](size), issuers: newMemory[*issuer](small), crls: newMemory[*crl](small)}
}

func (c *cache) stats() CacheStats {
	return CacheStats{
		Endorsements: c.leaves.Len(), Issuers: c.issuers.Len(), CRLs: c.crls.Len(), Size: int(c.leaves.Limit()),
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.leaves.Evictions(),
		Signatures: c.signatures.Load(), Panics: c.panics.Load(),
	}
}

// timed is something that is good at some times only.
type timed interface{ validAt(t time.Time) bool }

// memory remembers values by digest, and answers only while they are good.
type memory[V timed] struct{ *lru.Cache[digest, V] }

func newMemory[V timed](size int) memory[V] { return memory[V]{lru.New[digest, V](size)} }

// get returns the value, if it is known and good at that time.
func (m memory[V]) get(k digest, at time.Time) (V, bool) {
	v, ok := m.Get(k)
	if !ok || !v.validAt(at) {
		var none V
		return none, false
	}
	return v, true
}
