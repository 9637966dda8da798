package ledger

import (
	"context"
	"log/slog"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// pruneEvery prunes beside the writer, which so never waits for it longer than
// for one small transaction. The function that it returns waits for the end.
func (l *Ledger) pruneEvery(ctx context.Context, interval time.Duration) (wait func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.prune(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// prune ends retentions. A failure is retried at the next turn.
func (l *Ledger) prune(ctx context.Context) {
	p, err := l.Prune(ctx, l.opt.Now().Add(-l.opt.Retain))
	if err != nil {
		l.log.Warn("ledger: pruning failed", slog.Any("error", err))
		return
	}
	if p != (store.Pruned{}) {
		l.log.Info("ledger: pruned", slog.Int64("evidence", p.Evidence), slog.Int64("event_logs", p.EventLogs), slog.Int64("certificates", p.Certificates), slog.Int64("denials", p.Denials))
	}
}

// Prune deletes evidence, certificates and denials of before a time, and makes
// room where denials have filled theirs; Run does so every hour, for what is
// older than the retention.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (store.Pruned, error) {
	u, err := l.st.Usage(ctx, l.trustDomain)
	if err != nil {
		return store.Pruned{}, unavailable(err)
	}
	keep := l.quotas.Load().Denials
	// By bytes: down to three quarters of the budget, the oldest first.
	if room := l.quotas.Load().DenialBytes / 4 * 3; u.DenialBytes > room {
		keep = min(keep, int(float64(u.Denials)*float64(room)/float64(u.DenialBytes)))
	}
	p, err := l.st.Prune(ctx, l.trustDomain, before, keep)
	if err != nil {
		return store.Pruned{}, unavailable(err)
	}
	l.eventLogs.forget()
	return p, l.measure(ctx)
}
