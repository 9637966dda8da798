package issuer

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/lru"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/verifiers"
)

// A deny-list that has no room for all that is denied says so, and whoever follows it
// accepts nobody. So it must not be for one instance to decide how much a ban hits:
// it holds only so many live SVIDs at a time; and a ban or a revocation that would not
// fit is made only when the operator insists.

// maxLive is how many live SVIDs one instance may have been issued by one server, of
// all its SPIFFE IDs. One that renews in time has three of each.
const maxLive = 512

// live counts what instances were issued and has not ended, in memory: a restart of
// the server forgets, and is not for an agent to bring about.
type live struct {
	mu    sync.Mutex
	known *lru.Cache[string, []time.Time] // ends, by guest
}

func newLive() *live { return &live{known: lru.New[string, []time.Time](maxRates)} }

// take counts SVIDs that end at those times, all or none; otherwise it says how long
// until there is room.
func (l *live) take(guest string, ends []time.Time, at time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, _ := l.known.Get(guest)
	now := make([]time.Time, 0, len(before)+len(ends))
	first := time.Time{}
	for _, end := range before {
		if end.After(at) {
			now = append(now, end)
			if first.IsZero() || end.Before(first) {
				first = end
			}
		}
	}
	if len(now) > 0 && len(now)+len(ends) > maxLive {
		l.known.Put(guest, now)
		return first.Sub(at)
	}
	l.known.Put(guest, append(now, ends...))
	return 0
}

// giveBack undoes take for SVIDs that never came to be on record.
func (l *live) giveBack(guest string, ends []time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, _ := l.known.Get(guest)
	now = slices.Clone(now)
	for _, end := range ends {
		if i := slices.IndexFunc(now, end.Equal); i >= 0 {
			now = slices.Delete(now, i, i+1)
		}
	}
	l.known.Put(guest, now)
}

// makeRoom counts what a grant gives an instance. The error is of kind Unavailable
// and says when to come back; undo is for when nothing comes of it. Check:
// instance_live.
func (s *Server) makeRoom(v *verifiers.Verified, g *policy.Grant) (undo func(), err error) {
	guest := v.Claims().Instance().Guest()
	var ends []time.Time
	for _, is := range g.Issues() {
		ends = append(ends, is.NotAfter)
	}
	if wait := s.bans.live.take(guest, ends, s.now()); wait > 0 {
		s.metrics.limited.WithLabelValues("attestation", "instance").Inc()
		return nil, comeBack("instance_live", wait, "this instance holds too many live SVIDs")
	}
	return func() { s.bans.live.giveBack(guest, ends) }, nil
}

// overflow is for how many SVIDs the deny-list would have no room, were these taken
// back too; 0 where they make no difference.
func (s *Server) overflow(rows []store.Revocation) uint64 {
	now, policies := s.now(), 0
	listed := map[string]bool{}
	if set := s.bans.current.Load(); set != nil {
		policies = len(set.policies)
		for _, r := range set.rows {
			if _, revoked := set.revocation(now, r.Serial); revoked && r.NotAfter.After(now) {
				listed[r.Serial] = true
			}
		}
	}
	before := len(listed)
	for _, r := range rows {
		if r.NotAfter.After(now) {
			listed[r.Serial] = true
		}
	}
	if room := svid.DenyListRoom(policies); len(listed) > before && len(listed) > room {
		return uint64(len(listed) - room)
	}
	return 0
}

// errOverflow is a refusal of what the deny-list has no room for.
func errOverflow(omitted uint64, hits int) error {
	return status.Error(codes.FailedPrecondition, fmt.Sprintf("this hits %d live SVIDs, %d more than the deny-list has room for: whoever follows it would accept nobody until enough of them have ended; nothing was changed\n"+
		"hint: deny the policy that they were issued under, or taint the authority that signed them; or insist with --force", hits, omitted))
}
