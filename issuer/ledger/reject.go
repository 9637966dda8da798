package ledger

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
)

// Rejection is evidence that did not verify: Malformed, Untrusted or Stale.
// Whoever sent it is a stranger, so nothing of it reaches the disk.
type Rejection struct {
	Kind      attest.Kind     `json:"kind"`
	Check     string          `json:"check"`
	Detail    string          `json:"detail"` // the error's text, clipped
	Peer      string          `json:"peer"`
	Reference string          `json:"reference"`
	Platform  attest.Platform `json:"tee"`
	At        time.Time       `json:"time"`
}

// RejectionCount counts the rejections of one check since the server started.
type RejectionCount struct {
	Kind  attest.Kind `json:"kind"`
	Check string      `json:"check"`
	Count uint64      `json:"count"`
}

const (
	maxChecks     = 256 // distinct checks; further ones are counted as "other"
	samplesEach   = 16  // samples kept of one check, the newest
	maxDetail     = 512 // bytes kept of each text
	otherRejected = "other"
)

// rejections holds counters and a ring of samples for each check, so that a
// flood of one kind does not wash the others away. Its size is bounded whatever
// arrives: 256 × 16 samples of at most 2.5 kB.
type rejections struct {
	mu sync.Mutex
	by map[rejectionKey]*rejectionRing
}

type rejectionKey struct {
	kind  attest.Kind
	check string
}

type rejectionRing struct {
	count   uint64
	samples []Rejection // a ring: the next one goes to count % samplesEach
}

// Reject counts evidence that did not verify, and samples it. It never blocks
// on anything but a short lock, and never touches the store.
func (l *Ledger) Reject(r Rejection) { l.rejected.add(r) }

// Rejections returns the counters, largest first, and the samples, newest first.
func (l *Ledger) Rejections() ([]RejectionCount, []Rejection) { return l.rejected.list() }

func (s *rejections) add(r Rejection) {
	r.Detail, r.Peer = clip(r.Detail, maxDetail), clip(r.Peer, maxDetail)
	r.Check, r.Reference = clip(r.Check, maxDetail), clip(r.Reference, maxDetail)
	r.Platform = attest.Platform(clip(string(r.Platform), maxDetail))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[rejectionKey]*rejectionRing{}
	}
	key := rejectionKey{r.Kind, r.Check}
	ring := s.by[key]
	if ring == nil {
		if len(s.by) >= maxChecks {
			key.check = otherRejected
			ring = s.by[key]
		}
		if ring == nil {
			ring = new(rejectionRing)
			s.by[key] = ring
		}
	}
	if len(ring.samples) < samplesEach {
		ring.samples = append(ring.samples, r)
	} else {
		ring.samples[ring.count%samplesEach] = r
	}
	ring.count++
}

func (s *rejections) list() ([]RejectionCount, []Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts []RejectionCount
	var samples []Rejection
	for key, ring := range s.by {
		counts = append(counts, RejectionCount{key.kind, key.check, ring.count})
		samples = append(samples, ring.samples...)
	}
	slices.SortFunc(counts, func(a, b RejectionCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Check, b.Check))
	})
	slices.SortFunc(samples, func(a, b Rejection) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Reference, b.Reference))
	})
	return counts, samples
}

// clip shortens a stranger's text.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
