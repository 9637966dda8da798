package issuer

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
)

// turns shares among trust domains what the machine can verify at once. Most of
// an attestation's cost is in verifying signatures, so that so many at a time are
// let do it; the others wait, each trust domain in a line of its own, and the
// lines take turns. However long one line is, the next of another is one turn
// away; and each has some places that no other takes, so that one whose
// verifications wait (for a certificate from elsewhere) does not hold up the
// others.
//
// Who would wait longer than its own deadline is told so at once: what is served
// is served in time. The estimate is the line before it, times what a turn has
// taken of late.
type turns struct {
	mu      sync.Mutex
	free    int
	reserve int           // places that each trust domain has for itself
	lines   []*line       // of the trust domains that have one
	ring    []*line       // those with somebody waiting, whose turn is next first
	mean    time.Duration // how long a place was held, of late
}

// line is one trust domain's.
type line struct {
	held    int
	waiting *list.List // of *ticket
}

// ticket waits for a turn.
type ticket struct{ granted chan struct{} }

// places is how many verify at once. More than there are processors: some wait
// for certificates from elsewhere.
func places(trustDomains int) int { return max(4*runtime.GOMAXPROCS(0), 8, 2*trustDomains) }

func newTurns() *turns { return &turns{free: places(1)} }

// share says how many trust domains there are. Places that are held stay so.
func (t *turns) share(trustDomains int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	total, held := places(trustDomains), 0
	for _, l := range t.lines {
		held += l.held
	}
	t.free, t.reserve = total-held, max(total/(2*max(trustDomains, 1)), 1)
	t.next()
}

// line opens a trust domain's line.
func (t *turns) line() *line {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &line{waiting: list.New()}
	t.lines = append(t.lines, l)
	return l
}

// forget closes a line in which nobody is any more.
func (t *turns) forget(l *line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = slices.DeleteFunc(t.lines, func(x *line) bool { return x == l })
}

// mayHold reports whether a line may have another place now; the lock is held.
func (t *turns) mayHold(l *line) bool {
	others := 0
	for _, x := range t.lines {
		if x != l {
			others += max(t.reserve-x.held, 0)
		}
	}
	return t.free > others
}

// next gives the free places to those whose turn it is; the lock is held.
func (t *turns) next() {
	for i := 0; i < len(t.ring); {
		l := t.ring[i]
		if !t.mayHold(l) {
			i++ // another's reserve may still be free
			continue
		}
		front := l.waiting.Front()
		l.waiting.Remove(front)
		if k, ok := front.Value.(*ticket); ok {
			t.hold(l)
			close(k.granted)
		}
		t.ring = slices.Delete(t.ring, i, i+1)
		if l.waiting.Len() > 0 {
			t.ring = append(t.ring, l)
		}
		i = 0
	}
}

func (t *turns) hold(l *line) { t.free--; l.held++ }

// take waits for a place. end gives it back, once. after is what remains to be
// done when the turn is over. The error is of kind Unavailable, and says when to
// come back, or the context's.
func (t *turns) take(ctx context.Context, l *line, after time.Duration) (end func(), err error) {
	t.mu.Lock()
	if t.mayHold(l) && l.waiting.Len() == 0 {
		t.hold(l)
		t.mu.Unlock()
		return t.ender(l), nil
	}
	wait := t.estimate(l)
	if by, ok := ctx.Deadline(); ok && time.Until(by) < wait+t.mean+after {
		t.mu.Unlock()
		return nil, comeBack("overload", wait, fmt.Sprintf("it would wait for %s, longer than it may take", wait.Round(time.Millisecond)))
	}
	k := &ticket{granted: make(chan struct{})}
	at := l.waiting.PushBack(k)
	if l.waiting.Len() == 1 {
		t.ring = append(t.ring, l)
	}
	t.mu.Unlock()
	select {
	case <-k.granted:
		return t.ender(l), nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-k.granted: // meanwhile
		t.giveBack(l)
	default:
		l.waiting.Remove(at)
		if l.waiting.Len() == 0 {
			t.ring = slices.DeleteFunc(t.ring, func(x *line) bool { return x == l })
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, late("there was no time left when its turn came")
	}
	return nil, ctx.Err()
}

// estimate is how long the next in a line would wait: for those before it in its
// own, and as many turns of each other line, but not for more than there are. The
// lock is held.
func (t *turns) estimate(l *line) time.Duration {
	own := l.waiting.Len() + 1
	ahead, held := own, l.held
	for _, x := range t.lines {
		if x != l {
			ahead += min(x.waiting.Len(), own)
			held += x.held
		}
	}
	return time.Duration(ahead) * t.mean / time.Duration(max(t.free+held, 1))
}

// ender measures how long the place is held.
func (t *turns) ender(l *line) func() {
	start := time.Now()
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.measured(time.Since(start))
		t.giveBack(l)
	})
}

// measured moves the mean by an eighth of the difference.
func (t *turns) measured(d time.Duration) { t.mean += (d - t.mean) / 8 }

func (t *turns) giveBack(l *line) {
	t.free++
	l.held--
	t.next()
}

// waiting is how many wait in a line.
func (t *turns) waiting(l *line) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return l.waiting.Len()
}

// notReadyRetry is when to ask a server again whose authority has not been
// published for long enough; another server may be ready.
const notReadyRetry = 10 * time.Second

// turn is one attestation's, from its evidence to its end.
type turn struct {
	s     *Server
	end   func()    // of the place; nil while it has none
	leave func()    // in flight no more
	start time.Time // when its evidence was there
}

// takeTurn waits until the server has time for the attestation, if there will be
// time before its deadline, and an authority to sign with. Checks:
// authority_not_ready, overload (unavailable), deadline (stale).
func (a *attestation) takeTurn(ctx context.Context) (*turn, error) {
	if err := a.ca.Ready(); attest.CheckOf(err) == "authority_not_ready" {
		return nil, comeBack("authority_not_ready", notReadyRetry, err.Error())
	}
	if limit := int64(a.settings().Limits.InFlight); a.working.Add(1) > limit {
		a.working.Add(-1)
		a.metrics.limited.WithLabelValues("attestation", "in_flight").Inc()
		return nil, comeBack("overload", retryAfter, fmt.Sprintf("%d attestations are in flight", limit))
	}
	t := &turn{s: a.Server, start: time.Now(), leave: sync.OnceFunc(func() { a.working.Add(-1) })}
	if err := t.take(ctx); err != nil {
		t.leave()
		return nil, err
	}
	return t, nil
}

func (t *turn) take(ctx context.Context) error {
	f := t.s.front.Load()
	end, err := f.turns.take(ctx, t.s.line.Load(), time.Duration(t.s.rest.Load()))
	if err != nil {
		var w *waitError
		if errors.As(err, &w) {
			t.s.metrics.limited.WithLabelValues("attestation", "overload").Inc()
		}
		return err
	}
	t.end = end
	return nil
}

// pause gives the place to others while the client is waited for; resume waits
// for another turn.
func (t *turn) pause() {
	if t.end != nil {
		t.end()
		t.end = nil
	}
}

func (t *turn) resume(ctx context.Context) error { return t.take(ctx) }

// verified says that the costly part is over: what is left waits for the ledger,
// which serves many at once.
func (t *turn) verified() {
	t.pause()
	t.start = time.Now()
}

// over ends the turn. It may be called after verified, or instead of it.
func (t *turn) over(served bool) {
	t.pause()
	if served { // how long ledger and CA take, of late
		old := t.s.rest.Load()
		t.s.rest.Store(old + (int64(time.Since(t.start))-old)/8)
	}
	t.leave()
}
