package agent

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxRates bounds the users of whom a rate is remembered.
const maxRates = 1024

// userRates is how often each user may have something done, so that none takes the
// others' turns.
type userRates struct {
	perSecond rate.Limit
	burst     int

	mu     sync.Mutex
	byUser map[uint32]*userRate
}

type userRate struct {
	*rate.Limiter
	left int // how many were refused since the last that was allowed
}

func newUserRates(perSecond rate.Limit, burst int) *userRates {
	return &userRates{perSecond: perSecond, burst: burst, byUser: map[uint32]*userRate{}}
}

// allow takes a turn of the user, at a time, and says how many were refused before.
func (u *userRates) allow(user uint32, at time.Time) (ok bool, refused int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.byUser[user]
	if r == nil {
		if len(u.byUser) >= maxRates {
			for k, old := range u.byUser {
				if old.TokensAt(at) >= float64(u.burst) {
					delete(u.byUser, k)
				}
			}
		}
		if len(u.byUser) >= maxRates {
			return false, 0
		}
		r = &userRate{Limiter: rate.NewLimiter(u.perSecond, u.burst)}
		u.byUser[user] = r
	}
	if !r.AllowN(at, 1) {
		r.left++
		return false, r.left
	}
	refused, r.left = r.left, 0
	return true, refused
}
