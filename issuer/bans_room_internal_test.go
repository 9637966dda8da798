package issuer

import (
	"testing"
	"time"
)

func TestOneInstanceHoldsOnlySoManyLiveSVIDs(t *testing.T) {
	l, at := newLive(), time.Unix(1e9, 0)
	ends := make([]time.Time, 16) // of sixteen identities
	for i := range ends {
		ends[i] = at.Add(time.Hour)
	}
	taken := 0
	for l.take("a", ends, at) == 0 {
		if taken += len(ends); taken > 2*maxLive {
			t.Fatal("there is no end")
		}
	}
	if taken != maxLive {
		t.Errorf("%d live SVIDs, want %d", taken, maxLive)
	}
	if wait := l.take("a", ends, at.Add(time.Minute)); wait != 59*time.Minute {
		t.Errorf("come back after %s", wait)
	}
	if wait := l.take("b", ends, at); wait != 0 {
		t.Errorf("another waits for %s", wait)
	}
	// What never came to be on record counts no more, and what has ended neither.
	l.giveBack("a", ends)
	if wait := l.take("a", ends, at); wait != 0 {
		t.Errorf("what was given back: %s", wait)
	}
	if wait := l.take("a", ends, at.Add(time.Hour)); wait != 0 {
		t.Errorf("when all have ended: %s", wait)
	}
	// An instance that renews in time never waits.
	for now := at; now.Before(at.Add(48 * time.Hour)); now = now.Add(30 * time.Minute) {
		for i := range ends {
			ends[i] = now.Add(time.Hour)
		}
		if wait := l.take("steady", ends, now); wait != 0 {
			t.Fatalf("one that renews at half time waits for %s", wait)
		}
	}
}

func TestOneInstanceBeginsToWatchOnlySoOften(t *testing.T) {
	var w watchers
	for i := range watchesPerMinute {
		if wait := w.opens("a"); wait != 0 {
			t.Fatalf("watch %d waits for %s", i+1, wait)
		}
	}
	if w.opens("a") == 0 {
		t.Error("there is no end")
	}
	if w.opens("b") != 0 {
		t.Error("another waits too")
	}
}
