package tpm

import (
	"crypto/sha256"
	"sync/atomic"
	"time"
	"weak"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/lru"
)

// DefaultCacheSize is how many keys and certificates are remembered, of each: an
// AK, an EK and its certificate for each machine. At less than 3 KB each, all of
// them are below 64 MB.
const DefaultCacheSize = 10_000

// What replayed event logs say is remembered up to a number of bytes: logShare for
// each log, of maxLogs at most. Machines of one image and hardware share theirs as a
// rule, but not always. Most say less than 10 KB, and some as much as 150 KB.
const (
	maxLogs  = 1024
	logShare = 16 << 10
)

// maxWaiting is how many claims can await activation and be remembered after it.
const maxWaiting = 1024

// digest is SHA-256 of what is remembered, with its role in front.
type digest [sha256.Size]byte

func digestOf(role string, parts ...[]byte) digest {
	h := sha256.New()
	h.Write([]byte(role)) // never fails
	for _, p := range parts {
		h.Write(p)
	}
	return digest(h.Sum(nil))
}

// vouched is what a certificate says whose chain verified.
type vouched struct {
	key       [32]byte // SHA-256 of the SubjectPublicKeyInfo
	ek        *attest.EKCertificate
	cloud     *attest.CloudInstance
	notBefore time.Time // of all the chain
	notAfter  time.Time
}

func (v *vouched) validAt(at time.Time) bool { return !at.Before(v.notBefore) && !at.After(v.notAfter) }

// cache remembers what verified. Invariants:
//
//   - It is filled only with evidence of which everything verified, and where an
//     AK awaits activation, when [Verifier.Activate] has succeeded: until then it can
//     be anybody's key, shown beside the EK of another. Strangers cannot write to it.
//     An event log is replayed, and remembered, only then.
//   - Nothing in it shares memory with the evidence that it came in.
//   - A certificate answers only at times at which all of its chain is valid. At
//     other times it is as if it were not there, and the chain is verified, and
//     refused, in full.
//   - It never grows beyond its size: the least recently used entry goes.
//   - What binds an AK to an EK is never in it: that is for [Bindings].
type cache struct {
	keys  *lru.Cache[digest, *public]
	certs *lru.Cache[digest, *vouched]
	logs  *lru.Cache[digest, *attest.MeasuredBoot]
	// waiting is what claims that await activation have shown: two keys and two
	// certificates at most. It does not keep the claims. Strangers can make it forget:
	// what is forgotten is only not remembered this time.
	waiting *lru.Cache[weak.Pointer[attest.TPM], *fresh]

	hits, misses, signatures, panics atomic.Uint64
}

// CacheStats counts what the cache did, for metrics. The counters only grow.
type CacheStats struct {
	Keys         int // public areas, remembered now
	Certificates int // of EKs and AKs, remembered now
	EventLogs    int // replayed, remembered now
	Size         int // the most keys, and the most certificates
	Hits         uint64
	Misses       uint64
	Evictions    uint64
	// Signatures counts verifications of certificates' signatures. Those of quotes
	// and certifications are not in it.
	Signatures uint64
	// Panics counts evidence on which a library panicked. Each was refused as
	// malformed, check "panic"; any is worth a look.
	Panics uint64
}

func newCache(size int) *cache {
	return &cache{
		keys: lru.New[digest, *public](size), certs: lru.New[digest, *vouched](size),
		logs:    lru.NewWeighted[digest](int64(min(size, maxLogs))*logShare, weigh),
		waiting: lru.New[weak.Pointer[attest.TPM], *fresh](min(size, maxWaiting)),
	}
}

func (c *cache) stats() CacheStats {
	return CacheStats{
		Keys: c.keys.Len(), Certificates: c.certs.Len(), EventLogs: c.logs.Len(), Size: int(c.keys.Limit()),
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.keys.Evictions() + c.certs.Evictions() + c.logs.Evictions(),
		Signatures: c.signatures.Load(), Panics: c.panics.Load(),
	}
}

// certificate returns what a known certificate says, if all of its chain is valid
// at that time.
func (c *cache) certificate(k digest, at time.Time) *vouched {
	v, ok := c.certs.Get(k)
	if !ok || !v.validAt(at) {
		c.misses.Add(1)
		return nil
	}
	c.hits.Add(1)
	return v
}

// fresh is what one evidence showed that was not known: it is remembered when
// all of the evidence has verified.
type fresh struct {
	keys  map[digest]*public
	certs map[digest]*vouched
}

// remember stores what claims have shown, or has it wait for their activation.
func (c *cache) remember(t *attest.TPM, f *fresh) {
	if len(f.keys)+len(f.certs) == 0 {
		return
	}
	if t.AKTrust == "" {
		own := *f // f is a part of the evidence, all of which it would keep
		c.waiting.Put(weak.Make(t), &own)
		return
	}
	c.store(f)
}

// activated stores what the claims have shown that an activation was about, if it
// succeeded.
func (c *cache) activated(t *attest.TPM, succeeded bool) {
	if c.waiting.Len() == 0 {
		return
	}
	p := weak.Make(t)
	f, ok := c.waiting.Get(p)
	if !ok {
		return
	}
	c.waiting.Remove(p)
	if succeeded {
		c.store(f)
	}
}

func (c *cache) store(f *fresh) {
	for k, v := range f.keys {
		c.keys.Put(k, v)
	}
	for k, v := range f.certs {
		c.certs.Put(k, v)
	}
}

// key returns a known public area, or takes it apart and holds it to its check.
// A known one has passed all of that.
func (c *cache) key(role string, area []byte, f *fresh) (p *public, known bool, err error) {
	sum := digestOf(role, area)
	if p, ok := c.keys.Get(sum); ok {
		return p, true, nil
	}
	if p, err = parsePublic(area); err != nil {
		return nil, false, err
	}
	if f.keys == nil {
		f.keys = make(map[digest]*public, 2)
	}
	f.keys[sum] = p
	return p, false, nil
}

// weigh is about how many bytes of memory a log's claims take: each of their values
// has a header and its place in a list or map beside its bytes.
func weigh(m *attest.MeasuredBoot) int64 {
	const own, each = 512, 64
	n := own + len(m.Firmware) + len(m.CommandLine) + each*len(m.Replayed)
	for _, list := range [][]attest.Bytes{m.Loaders, m.GRUBFiles} {
		for _, b := range list {
			n += each + len(b)
		}
	}
	for _, byName := range []map[string]attest.Bytes{m.Keys, m.Unified} {
		for name, b := range byName {
			n += 2*each + len(name) + len(b)
		}
	}
	for _, s := range m.GRUBCommands {
		n += each + len(s)
	}
	return int64(n)
}
