package agent

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

// MaxDeparture is how far the wall clock may be from the server's time before
// the agent stops serving: the workload beside it checks certificates by the
// wall clock, which the host owns.
const MaxDeparture = time.Minute

// Clock is the two clocks of a machine.
type Clock interface {
	// Wall is the wall clock. In a TEE the host can set it.
	Wall() time.Time
	// Boot is CLOCK_BOOTTIME: the time since boot, suspension included. Nobody
	// sets it; at worst it stands still while the host holds the machine.
	Boot() time.Duration
}

// SystemClock is this machine's [Clock].
type SystemClock struct{}

// Wall is time.Now without its monotonic reading, which would hide that the
// wall clock was set.
func (SystemClock) Wall() time.Time { return time.Now().Round(0) }

// Boot reads CLOCK_BOOTTIME. Where the system has none it is the monotonic
// clock, which stands still during suspension: then the wall clock departs and
// nothing is served, the safe side.
func (SystemClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			return 0
		}
	}
	return time.Duration(ts.Nano())
}

// timekeeper is the agent's notion of time: the time an authenticated server
// told, carried on by CLOCK_BOOTTIME. Before the first server it is the wall
// clock, which then decides nothing but whether that server's certificate is
// in its validity, and is taken to be no earlier than a floor.
//
// The host owns the wall clock, and with it set back a server's key that was stolen
// long ago would be good again at every boot. The floor is what was measured with the
// image: it was made by then, so it is later now. No server that says otherwise is
// believed.
//
// A host that pauses the whole machine stops both clocks of it; on resumption
// the wall clock is set right and departs, serving stops, and the agent asks a
// server for the time again by attesting.
type timekeeper struct {
	clock Clock
	floor time.Time // it is later than this; zero: nothing says so

	mu       sync.Mutex
	anchored bool
	server   time.Time     // the server's time …
	boot     time.Duration // … and CLOCK_BOOTTIME at that moment
}

// anchor takes the server's time, asked for at sent and answered at received
// (both [Clock.Boot]). The moment meant is taken to be the middle, which is
// wrong by at most half the round trip. It returns by how much the notion of
// time moved, 0 at first.
func (k *timekeeper) anchor(server time.Time, sent, received time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := sent + (received-sent)/2
	var moved time.Duration
	if k.anchored {
		moved = server.Sub(k.server.Add(at - k.boot))
	}
	k.anchored, k.server, k.boot = true, server.Round(0), at
	return moved
}

// now is the agent's time.
func (k *timekeeper) now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.anchored {
		if wall := k.clock.Wall(); !wall.Before(k.floor) {
			return wall
		}
		return k.floor
	}
	return k.server.Add(k.clock.Boot() - k.boot)
}

// plausible refuses a server's time that is before the floor, by more than clocks
// differ.
func (k *timekeeper) plausible(server time.Time) error {
	if server.Before(k.floor.Add(-MaxDeparture)) {
		return &attest.Error{
			Kind: attest.Stale, Check: "challenge_time", Err: fmt.Errorf("the server's clock says %s, and this agent was made later: %s", stamp(server), stamp(k.floor)),
			Hint: "is the server's clock right? Or somebody shows a certificate of the past",
		}
	}
	return nil
}

// departure is how far the wall clock is ahead of the agent's time (behind it:
// negative), and whether that is too far. Without an anchor nothing is too far.
func (k *timekeeper) departure() (by time.Duration, tooFar bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.anchored {
		return 0, false
	}
	by = k.clock.Wall().Sub(k.server.Add(k.clock.Boot() - k.boot))
	return by, by > MaxDeparture || by < -MaxDeparture
}
