package ledger

import (
	"sync"
	"time"
)

// Quotas bound what attesters can make a server store. A zero field takes its
// default; issuance itself has no quota here.
type Quotas struct {
	// DenialsPerInstance and DenialsPerHour bound the denials that are kept in
	// an hour: of one instance (12), and of all together (600).
	DenialsPerInstance int
	DenialsPerHour     int
	// Denials and DenialBytes bound those kept at all (100,000 and 512 MiB):
	// beyond it the oldest make room.
	Denials     int
	DenialBytes int64
	// EvidencePerInstance bounds the evidence of one instance that is kept in an
	// hour (12). EvidenceBytes is the budget for evidence of issuances (2 GiB),
	// DeniedEvidenceBytes that for denials (256 MiB): the one cannot displace
	// the other.
	EvidencePerInstance int
	EvidenceBytes       int64
	DeniedEvidenceBytes int64
}

func (q Quotas) withDefaults() Quotas {
	def(&q.DenialsPerInstance, 12)
	def(&q.DenialsPerHour, 600)
	def(&q.Denials, 100_000)
	def(&q.DenialBytes, 512<<20)
	def(&q.EvidencePerInstance, 12)
	def(&q.EvidenceBytes, 2<<30)
	def(&q.DeniedEvidenceBytes, 256<<20)
	return q
}

// SetQuotas puts other quotas in force. What is stored stays until its time is
// over, or until there is too much of it.
func (l *Ledger) SetQuotas(q Quotas) {
	q = q.withDefaults()
	l.quotas.Store(&q)
	l.evidence.bound(q.EvidenceBytes)
	l.deniedBytes.bound(q.DeniedEvidenceBytes)
	l.denialPayload.bound(q.DenialBytes)
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// window counts by key within the current hour of the given clock. It forgets
// everything at the full hour, so that it needs no timers, and is bounded: with
// maxKeys in it, unknown keys are over their quota.
type window struct {
	mu     sync.Mutex
	hour   int64
	total  int
	counts map[string]int
}

const maxKeys = 100_000

// take counts one more under key, unless key has perKey or all have total
// already. A total of 0 is no bound.
func (w *window) take(key string, at time.Time, perKey, total int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if hour := at.Unix() / 3600; w.counts == nil || hour != w.hour {
		w.hour, w.total, w.counts = hour, 0, map[string]int{}
	}
	n, known := w.counts[key]
	if n >= perKey || total > 0 && w.total >= total || !known && len(w.counts) >= maxKeys {
		return false
	}
	w.counts[key]++
	w.total++
	return true
}

// budget counts bytes against a limit.
type budget struct {
	mu    sync.Mutex
	used  int64
	limit int64
}

// take reserves n bytes.
func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.limit-b.used {
		return false
	}
	b.used += n
	return true
}

// bound changes the limit.
func (b *budget) bound(limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
}

// set replaces what is used by what the store says.
func (b *budget) set(used int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = used
}

// known remembers digests that came before, so many of them: what is forgotten
// counts once more, which is the safe side.
type known struct {
	mu   sync.Mutex
	seen map[[32]byte]struct{}
}

const maxKnown = 16_384

func (k *known) has(digest [32]byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.seen[digest]
	return ok
}

func (k *known) add(digest [32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil || len(k.seen) >= maxKnown {
		k.seen = make(map[[32]byte]struct{})
	}
	k.seen[digest] = struct{}{}
}

// forget empties it: what was stored may have been pruned.
func (k *known) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = nil
}
