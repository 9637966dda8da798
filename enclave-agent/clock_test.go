package agent

import (
	"context"
	"crypto/x509"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// twoClocks are set by a test.
type twoClocks struct {
	mu   sync.Mutex
	wall time.Time
	boot time.Duration
}

func (c *twoClocks) Wall() time.Time     { c.mu.Lock(); defer c.mu.Unlock(); return c.wall }
func (c *twoClocks) Boot() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return c.boot }
func (c *twoClocks) pass(wall, boot time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.boot = c.wall.Add(wall), c.boot+boot
}

// setClock is the machine's clock, which a test's host sets by an offset.
type setClock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *setClock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return SystemClock{}.Wall().Add(c.offset)
}
func (c *setClock) Boot() time.Duration { return SystemClock{}.Boot() }
func (c *setClock) set(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.offset = d }

func TestTheAgentsTimeIsTheServersCarriedOnByTheTimeSinceBoot(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	c := &twoClocks{wall: start, boot: time.Hour}
	k := &timekeeper{clock: c}
	if got := k.now(); !got.Equal(start) {
		t.Errorf("before a server: %s, want the wall clock", got)
	}
	if _, far := k.departure(); far {
		t.Error("departs from nothing")
	}
	// Asked at 1h, answered at 1h+2s: the server's time was right at 1h+1s.
	c.pass(2*time.Second, 2*time.Second)
	server := start.Add(30 * time.Second)
	k.anchor(server, time.Hour, time.Hour+2*time.Second)
	if got, want := k.now(), server.Add(time.Second); !got.Equal(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	// The host sets the wall clock: the agent's time goes on as before.
	c.pass(-10*time.Hour, 5*time.Second)
	if got, want := k.now(), server.Add(6*time.Second); !got.Equal(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	if moved := k.anchor(server.Add(8*time.Second), c.Boot(), c.Boot()); moved != 2*time.Second {
		t.Errorf("moved by %s, want 2s", moved)
	}
}

func TestAWallClockDepartsBeyondAMinuteInEitherDirection(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		by  time.Duration
		far bool
	}{{0, false}, {MaxDeparture, false}, {-MaxDeparture, false}, {MaxDeparture + time.Millisecond, true}, {-MaxDeparture - time.Millisecond, true}, {24 * time.Hour, true}} {
		c := &twoClocks{wall: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
		k := &timekeeper{clock: c}
		k.anchor(c.wall, 0, 0)
		c.pass(x.by, 0)
		if by, far := k.departure(); by != x.by || far != x.far {
			t.Errorf("%s: departs by %s, too far %v", x.by, by, far)
		}
	}
}

// A host that holds the machine stops both clocks; then the wall clock is set
// right from outside.
func TestAMachineThatWasHeldNoticesByItsWallClock(t *testing.T) {
	t.Parallel()
	c := &twoClocks{wall: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	k := &timekeeper{clock: c}
	k.anchor(c.wall, 0, 0)
	c.pass(3*time.Hour, time.Second)
	if _, far := k.departure(); !far {
		t.Fatal("not noticed")
	}
	k.anchor(c.Wall(), c.Boot(), c.Boot()) // the next attestation asks for the time again
	if by, far := k.departure(); far || by != 0 {
		t.Errorf("still departs by %s", by)
	}
}

func TestTheSystemsTimeSinceBootGoesOn(t *testing.T) {
	t.Parallel()
	a := SystemClock{}.Boot()
	time.Sleep(2 * time.Millisecond)
	if b := (SystemClock{}).Boot(); a <= 0 || b <= a {
		t.Errorf("%s, then %s", a, b)
	}
}

func TestServingStopsWhileTheWallClockIsWrongAndResumes(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	clock := &setClock{}
	cfg := s.config(t)
	cfg.Clock = clock
	a, _ := runAgent(t, cfg)
	before := served(t, a)
	attempts := len(s.heard())
	clock.set(-2 * time.Minute)
	eventually(t, "serving stops", func() bool { _, err := current(t, a); return status.Code(err) == codes.Unavailable })
	eventually(t, "it asked the server for the time", func() bool { return len(s.heard()) > attempts })
	if _, err := current(t, a); status.Code(err) != codes.Unavailable {
		t.Errorf("the server agrees that the wall clock is wrong, and it serves: %v", err)
	}
	clock.set(30 * time.Second) // within the limit
	if after := served(t, a); after == before {
		t.Error("it did not attest again")
	}
}

// Once a server told the time, its certificate is checked by that time: a host
// that sets the wall clock can neither keep the agent from its server nor have
// it accept one that has ended.
func TestTheServersCertificateIsCheckedByTheAgentsTime(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t) // its certificate ends in an hour
	s.start()
	clock := &setClock{}
	cfg := s.config(t)
	cfg.Clock = clock
	a := must(New(cfg))
	attest := func() error {
		l := must(a.members[0].server.dial(s.address, nil, nil)) // a handshake of its own
		defer func() { _ = l.Close() }()
		_, err := a.members[0].attestOnce(context.Background(), l)
		return err
	}
	clock.set(3 * time.Hour)
	wantStale := func(when string) {
		t.Helper()
		if err := attest(); asError(err).Check != "server_chain" {
			t.Errorf("%s: %v, want server_chain", when, err)
		}
	}
	wantStale("a wall clock far ahead, and no server's time yet")
	clock.set(0)
	if err := attest(); err != nil {
		t.Fatal(err)
	}
	clock.set(3 * time.Hour)
	if err := attest(); err != nil {
		t.Errorf("the host set the wall clock: %v", err)
	}
	s.stop()
	s.leaf = s.bootstrap.serverLeaf(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	s.start()
	clock.set(-90 * time.Minute) // when that certificate was good
	wantStale("a certificate that has ended, and a wall clock set back")
}

func TestAnSVIDEndsByTheServersTimeAndNotByTheWallClock(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.life = 2 * time.Second
	s.start()
	clock := &setClock{offset: -50 * time.Second} // within the limit: serving goes on
	cfg := s.config(t)
	cfg.Clock = clock
	a, _ := runAgent(t, cfg)
	served(t, a)
	s.stop()
	eventually(t, "the SVID is no longer served", func() bool { _, err := current(t, a); return status.Code(err) == codes.PermissionDenied })
}

func TestAScheduleWaitsForItsMomentAndIsOnlyBroughtForward(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		start := time.Now()
		s.set(start.Add(30*time.Minute), start)
		done := make(chan time.Duration, 1)
		go func() {
			if s.wait(context.Background(), time.Now) == nil {
				done <- time.Since(start)
			}
		}()
		time.Sleep(time.Minute)
		s.advance(start.Add(2 * time.Hour)) // later: nothing changes
		time.Sleep(time.Minute)
		s.advance(start.Add(10 * time.Minute))
		if got := <-done; got != 10*time.Minute {
			t.Errorf("waited %s", got)
		}
	})
}

// Timers stand still in a suspended machine; the time since boot does not.
func TestAScheduleNoticesWithinHalfAMinuteThatTheMachineSlept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		start := time.Now()
		var mu sync.Mutex
		var slept time.Duration
		now := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(slept) }
		s.set(start.Add(30*time.Minute), start)
		done := make(chan error, 1)
		go func() { done <- s.wait(context.Background(), now) }()
		time.Sleep(5 * time.Second)
		mu.Lock()
		slept = time.Hour
		mu.Unlock()
		if err := <-done; err != nil || time.Since(start) > 5*time.Second+recheck {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestEventsRightAfterAnAttestationAreTakenTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		start := time.Now()
		s.set(start.Add(30*time.Minute), start.Add(minInterval))
		for range 100 {
			s.advance(start)
		}
		if err := s.wait(context.Background(), time.Now); err != nil || time.Since(start) != minInterval {
			t.Errorf("%v after %s, want %s", err, time.Since(start), minInterval)
		}
	})
}

// The server may have decided before it changed its mind, and asked.
func TestARequestThatArrivesDuringAnAttestationIsHeededAfterIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		start := time.Now()
		s.set(start, time.Time{})
		if err := s.wait(context.Background(), time.Now); err != nil {
			t.Fatal(err)
		}
		s.begin()
		time.Sleep(2 * time.Second)
		s.advance(start.Add(20 * time.Second))
		s.advance(start.Add(12 * time.Second))
		s.advance(start.Add(15 * time.Second))
		time.Sleep(time.Second)
		if got := s.set(start.Add(30*time.Minute), time.Now().Add(minInterval)); !got.Equal(start.Add(12 * time.Second)) {
			t.Errorf("the moment is %s after the start, want 12s", got.Sub(start))
		}
		// A second attestation, for further keys.
		s.set(start.Add(40*time.Minute), time.Now().Add(minInterval))
		s.end()
		if err := s.wait(context.Background(), time.Now); err != nil || time.Since(start) != 12*time.Second {
			t.Errorf("%v after %s, want 12s", err, time.Since(start))
		}
		// It was heeded: the next attestation is the last that was asked for.
		s.begin()
		s.set(start.Add(time.Hour), time.Now().Add(minInterval))
		s.end()
		if got := s.next(); !got.Equal(start.Add(time.Hour)) {
			t.Errorf("asked once, it would attest a third time at %s", got.Sub(start))
		}
	})
}

func TestARequestOfThisMomentDuringAnAttestationWaitsForTheLeastInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		start := time.Now()
		s.begin()
		s.advance(start)
		s.set(start.Add(time.Hour), start.Add(minInterval))
		s.end()
		if got := s.next(); !got.Equal(start.Add(minInterval)) {
			t.Errorf("the next is %s after the start, want %s", got.Sub(start), minInterval)
		}
	})
}

func TestAScheduleEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule()
		s.set(time.Now().Add(time.Hour), time.Now())
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if s.wait(ctx, time.Now) == nil {
			t.Error("waited to the end")
		}
	})
}

func TestTheMomentOfARenewalIsDrawnFromTheWholeWindow(t *testing.T) {
	t.Parallel()
	start := time.Now()
	lo, hi := time.Hour, time.Duration(0)
	for range 1000 {
		d := between(start, start.Add(time.Minute)).Sub(start)
		lo, hi = min(lo, d), max(hi, d)
	}
	if lo < 0 || lo > 2*time.Second || hi < 58*time.Second || hi > time.Minute {
		t.Errorf("drawn from %s to %s of a minute", lo, hi)
	}
	if got := between(start, start); !got.Equal(start) {
		t.Error("an empty window")
	}
}
