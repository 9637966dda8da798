package replay

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// seen is one set of claims, by whatever number of records.
type seen struct {
	instance  attest.Instance
	n         uint64
	newest    time.Time
	reference string    // of the newest
	at        time.Time // of the newest: when it was decided
	then      [16]byte  // what was decided by the newest, see decided
	t         *Transition
}

func (m *memory) seen(r *Record, then [16]byte, t *Transition) *seen {
	return &seen{instance: r.Instance, n: 1, newest: r.Time, reference: r.Reference, at: r.moment(), then: then, t: t}
}

// shards is how many parts the memory has, so that cores seldom wait for each
// other. A fingerprint is uniform.
const shards = 64

// memory knows the sets of claims that were seen, up to a bound. When a part is
// full, a set is folded into its group and forgotten: should it come again, it
// counts as another.
type memory struct {
	o     *Options
	parts [shards]part

	mu        sync.Mutex // of what follows
	groups    groups
	forgotten uint64
}

type part struct {
	mu    sync.Mutex
	known map[[32]byte]*seen
}

func newMemory(o *Options) *memory {
	m := &memory{o: o, groups: groups{o: o, byKey: map[string]*Group{}}}
	for i := range m.parts {
		m.parts[i].known = map[[32]byte]*seen{}
	}
	return m
}

// add judges a record, unless the same was judged before.
func (m *memory) add(r *Record) {
	key := policy.Fingerprint(r.Claims)
	if m.o.Each {
		m.fold(m.seen(r, [16]byte{}, m.compare(r)))
		return
	}
	then := r.decided()
	p := &m.parts[key[0]%shards]
	p.mu.Lock()
	s := p.known[key]
	if s != nil && s.counts(m.o, r, then) {
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()

	t := m.compare(r) // what takes long; another core may do the same, and one of them counts

	p.mu.Lock()
	s = p.known[key]
	if s != nil {
		defer p.mu.Unlock()
		s.n++
		if r.newer(s.newest, s.reference) {
			n := s.n
			*s = *m.seen(r, then, t)
			s.n = n
		}
		return
	}
	var old *seen
	if len(p.known) >= max(m.o.MaxDistinct/shards, 1) {
		for k, x := range p.known { // any: maps are walked from a random place
			old = x
			delete(p.known, k)
			break
		}
	}
	p.known[key] = m.seen(r, then, t)
	p.mu.Unlock()
	if old != nil {
		m.mu.Lock()
		m.forgotten++
		m.mu.Unlock()
		m.fold(old)
	}
}

// counts adds a record to a set of claims, where that takes no judging: it is
// older than what counts, or decided alike.
func (s *seen) counts(o *Options, r *Record, then [16]byte) bool {
	if !r.newer(s.newest, s.reference) {
		s.n++
		return true
	}
	if o.AtRecorded || o.Against == nil && (then != s.then || !s.steady(r.moment())) {
		return false
	}
	s.n++
	s.newest, s.reference, s.at, s.then = r.Time, r.Reference, r.moment(), then
	return true
}

// steady reports whether what was decided would be the same at another time.
func (s *seen) steady(at time.Time) bool {
	b := s.t.Before
	return b == nil || b.steady == nil || at.Before(*b.steady) && s.at.Before(*b.steady)
}

func (m *memory) compare(r *Record) *Transition {
	t := m.o.Compare(r)
	return &t
}

func (m *memory) fold(s *seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups.fold(s)
}

// finish folds all that is left, in whatever order: groups do not depend on it.
func (m *memory) finish() {
	for i := range m.parts {
		for _, s := range m.parts[i].known {
			m.fold(s)
		}
		m.parts[i].known = nil
	}
}

// decided is a digest of what was decided then, by which policy.
func (r *Record) decided() (out [16]byte) {
	t := r.Then
	if t == nil {
		return out
	}
	h := sha256.New()
	_, _ = h.Write(t.Policy.Digest[:]) // a hash never fails
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, t.Policy.Revision))
	for _, s := range []string{t.Policy.Name, t.Outcome, t.Reason, t.Workload, strings.Join(t.SPIFFEIDs, " ")} {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0})
	}
	return [16]byte(h.Sum(nil)[:16])
}
