package ledger

import (
	"context"
	"sync"

	"github.com/assay-project/assay/issuer/store"
)

// rememberedSerials is how many of the newest serial numbers are kept in
// memory: about 6 MB. A renewal comes half a lifetime after its issuance, so at
// 18 issuances a second and the default lifetime of an hour none of them reads
// the database; those that were pushed out do.
const rememberedSerials = 1 << 16

// serials remembers the newest serial numbers that are durably on record. It
// only ever says yes to what was committed; what it does not know is asked of
// the database.
type serials struct {
	mu    sync.Mutex
	known map[string]struct{}
	ring  []string // in the order of arrival; next is the oldest once it is full
	next  int
	limit int
}

func newSerials(limit int) *serials {
	return &serials{known: make(map[string]struct{}), limit: limit}
}

func (s *serials) add(ids []store.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if _, dup := s.known[id.Serial]; dup {
			continue
		}
		if len(s.ring) < s.limit {
			s.ring = append(s.ring, id.Serial)
		} else {
			delete(s.known, s.ring[s.next])
			s.ring[s.next] = id.Serial
			s.next = (s.next + 1) % s.limit
		}
		s.known[id.Serial] = struct{}{}
	}
}

func (s *serials) has(serial string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.known[serial]
	return ok
}

// HasSerial reports whether an issuance of this trust domain named the serial
// (32 digits of lower-case hex): nothing else was ever signed. The newest are
// known without a read of the database, and so are those of other servers, and of
// before a restart, that were asked about lately: what is on record stays there.
func (l *Ledger) HasSerial(ctx context.Context, serial string) (bool, error) {
	if l.serials.has(serial) {
		return true, nil
	}
	known, err := l.Reader.HasSerial(ctx, serial)
	if known && err == nil {
		l.serials.add([]store.Identity{{Serial: serial}})
	}
	return known, err
}
