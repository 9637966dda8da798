package svid

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// firstWait is how soon a first fetch that failed is tried again. It doubles, up to
// the interval: a program may start before its network does.
const firstWait = time.Second

// follow calls update at once, and then once an interval, less up to a tenth of it,
// so that those who start together do not ask together. It returns when the context
// ends. Errors are logged under the message, with the attributes.
func follow(ctx context.Context, every time.Duration, log *slog.Logger, message string, attributes []any, holds func() bool, update func(context.Context) error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for first := firstWait; ; {
		err := update(ctx)
		if err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, message, append([]any{"error", err}, attributes...)...)
		}
		wait := every
		if err != nil && !holds() {
			wait, first = min(first, every), 2*first
		}
		wait -= time.Duration(rand.Int64N(int64(wait)/10 + 1)) //nolint:gosec // a jitter, no secret
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
