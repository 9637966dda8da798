package agent

import (
	"math/rand/v2"
	"time"
)

// Waits between failed attempts. With full jitter a thousand agents that lost
// their server at once come back spread over the whole wait.
const (
	retryBase  = 250 * time.Millisecond
	retryCap   = 30 * time.Second
	deniedBase = 5 * time.Second // a refusal by policy changes only when people change something
	deniedCap  = time.Minute
	retryFloor = 50 * time.Millisecond
	// maxRetryAfter is how long a server may ask an agent to stay away.
	maxRetryAfter = 5 * time.Minute
)

// backoff counts failures in a row.
type backoff struct {
	failures int
	rand     func() float64 // uniform in [0,1); nil is math/rand/v2
}

// next returns how long to wait: uniform between 0 and base·2ⁿ (at most limit),
// never less than retryFloor.
func (b *backoff) next(base, limit time.Duration) time.Duration {
	top := limit
	if b.failures < 32 && base<<b.failures < limit && base<<b.failures > 0 {
		top = base << b.failures
	}
	b.failures++
	r := rand.Float64
	if b.rand != nil {
		r = b.rand
	}
	return max(time.Duration(r()*float64(top)), retryFloor)
}

func (b *backoff) reset() { b.failures = 0 }
