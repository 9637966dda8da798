package issuer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/assay-project/assay/issuer/ledger"
)

// audit puts what administrators do into the ledger, which is apart from the log:
// it is chained, and nobody can take a line out of it. A call that changes
// something is on record before it is made, and is not made when it cannot be.
// Reads are taken together, one entry for each caller, method and minute; and calls
// that were refused too, within a budget: who may not call at all must not be able
// to fill the ledger.
type audit struct {
	ledger *ledger.Ledger
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	again   map[auditKey]*repeated // calls of this minute
	owed    map[auditKey]int       // of minutes before, that could not be recorded
	budget  *rate.Limiter          // entries about refused calls
	dropped int                    // refused calls of this minute that have none
}

// repeated is how often a call of one kind came again, after the first.
type repeated struct {
	n     int
	first chan struct{} // closed when err says whether the first is on record
	err   error
}

type auditKey struct{ actor, role, method, outcome string }

const (
	auditWindow    = time.Minute
	refusedPerHour = 240 // entries about refused calls
	refusedAtOnce  = 30
	maxAuditKeys   = 1024
	auditTimeout   = 10 * time.Second
)

// Outcomes of actions.
const (
	outcomeAllowed = "allowed"
	outcomeRefused = "refused"
	outcomeFailed  = "failed"
)

func newAudit(l *ledger.Ledger, now func() time.Time, log *slog.Logger) *audit {
	return &audit{
		ledger: l, now: now, log: log, again: map[auditKey]*repeated{}, owed: map[auditKey]int{},
		budget: rate.NewLimiter(rate.Limit(float64(refusedPerHour)/3600), refusedAtOnce),
	}
}

// record puts one action on record, durably.
func (a *audit) record(ctx context.Context, x ledger.Action) error {
	// Who hangs up at once is on record all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	x.At = a.now()
	_, err := a.ledger.RecordAction(ctx, x)
	if err != nil {
		a.log.ErrorContext(ctx, "an administrator's call could not be recorded", "actor", x.Actor, "method", x.Method, "outcome", x.Outcome, "error", err)
	}
	return err
}

// read notes a call that changes nothing. When it returns nil, the first of its kind
// in this minute is on record.
func (a *audit) read(ctx context.Context, x ledger.Action) error {
	k := auditKey{x.Actor, x.Role, x.Method, x.Outcome}
	r, mine := a.count(k)
	if mine {
		err := a.record(ctx, x)
		a.recorded(k, r, err)
		return err
	}
	select { // the first may be on its way, and fail
	case <-r.first:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refused notes a call that was refused, best effort and within the budget.
func (a *audit) refused(ctx context.Context, x ledger.Action) {
	k := auditKey{x.Actor, x.Role, x.Method, x.Outcome}
	r, mine := a.count(k)
	if !mine {
		return
	}
	defer a.recorded(k, r, nil) // what could not be recorded is in the log
	if !a.budget.AllowN(time.Now(), 1) {
		a.drop(1)
		return
	}
	_ = a.record(ctx, x) // it is refused, and the log says that this failed
}

func (a *audit) drop(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropped += n
}

// count counts a call, and reports whether it is the first of its kind in this
// minute: then the caller puts it on record, and says so with recorded.
func (a *audit) count(k auditKey) (r *repeated, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.again[k]; r != nil {
		r.n++
		return r, false
	}
	r = &repeated{first: make(chan struct{})}
	if len(a.again) < maxAuditKeys { // nobody is left out because others are many
		a.again[k] = r
	}
	return r, true
}

// recorded says what became of the first. Where it is not on record, the next call of
// its kind is the first.
func (a *audit) recorded(k auditKey, r *repeated, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.err = err; err != nil && a.again[k] == r {
		delete(a.again, k)
	}
	close(r.first)
}

// run puts on record, each minute, how often calls came again. It returns nil when
// ctx ends.
func (a *audit) run(ctx context.Context) error {
	tick := time.NewTicker(auditWindow)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.flush(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			a.flush(ctx)
		}
	}
}

// flush puts on record how often calls came again. Those that were refused have an
// entry of their own within the budget only, and are one number otherwise. What could
// not be recorded is told the next time.
func (a *audit) flush(ctx context.Context) {
	a.mu.Lock()
	times, dropped := a.owed, a.dropped
	for k, r := range a.again {
		if r.n > 0 {
			times[k] += r.n
		}
	}
	a.again, a.owed, a.dropped = map[auditKey]*repeated{}, map[auditKey]int{}, 0
	a.mu.Unlock()
	for k, n := range times {
		if k.outcome == outcomeRefused && !a.budget.AllowN(time.Now(), 1) {
			dropped += n
			continue
		}
		err := a.record(ctx, ledger.Action{Actor: k.actor, Role: k.role, Method: k.method, Outcome: k.outcome, Detail: fmt.Sprintf("%d times more within a minute", n)})
		if err != nil {
			a.mu.Lock()
			a.owed[k] += n
			a.mu.Unlock()
		}
	}
	if dropped > 0 {
		err := a.record(ctx, ledger.Action{Actor: "others", Method: "various", Outcome: outcomeRefused, Detail: fmt.Sprintf("%d further calls were refused that have no entry of their own", dropped)})
		if err != nil {
			a.drop(dropped)
		}
	}
}
