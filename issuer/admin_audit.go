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
	again   map[auditKey]int // calls of this minute beyond the first
	budget  *rate.Limiter    // entries about refused calls
	dropped int              // refused calls of this minute that have none
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
		ledger: l, now: now, log: log, again: map[auditKey]int{},
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

// read notes a call that changes nothing. The first of its kind in a minute is on
// record when read returns.
func (a *audit) read(ctx context.Context, x ledger.Action) error {
	if !a.first(auditKey{x.Actor, x.Role, x.Method, x.Outcome}) {
		return nil
	}
	return a.record(ctx, x)
}

// refused notes a call that was refused, best effort.
func (a *audit) refused(ctx context.Context, x ledger.Action) {
	if !a.first(auditKey{x.Actor, x.Role, x.Method, x.Outcome}) {
		return
	}
	if !a.budget.AllowN(time.Now(), 1) {
		a.mu.Lock()
		a.dropped++
		a.mu.Unlock()
		return
	}
	_ = a.record(ctx, x) // it is refused, and the log says that this failed
}

// first counts a call, and reports whether it is the first of its kind in this
// minute.
func (a *audit) first(k auditKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok := a.again[k]; ok {
		a.again[k] = n + 1
		return false
	}
	if len(a.again) >= maxAuditKeys {
		return true // nobody is left out because others are many
	}
	a.again[k] = 0
	return true
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

func (a *audit) flush(ctx context.Context) {
	a.mu.Lock()
	again, dropped := a.again, a.dropped
	a.again, a.dropped = map[auditKey]int{}, 0
	a.mu.Unlock()
	for k, n := range again {
		if n > 0 {
			_ = a.record(ctx, ledger.Action{Actor: k.actor, Role: k.role, Method: k.method, Outcome: k.outcome, Detail: fmt.Sprintf("%d times more within a minute", n)})
		}
	}
	if dropped > 0 {
		_ = a.record(ctx, ledger.Action{Actor: "others", Method: "various", Outcome: outcomeRefused, Detail: fmt.Sprintf("%d further calls were refused that have no entry of their own", dropped)})
	}
}
