package issuer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
)

func TestARateIsForEachAndForAMinute(t *testing.T) {
	r := newRates(3)
	at := time.Unix(1_800_000_000, 0)
	for i := range 3 {
		if wait := r.take("a", at); wait != 0 {
			t.Fatalf("the %d. of three waits %s", i+1, wait)
		}
	}
	wait := r.take("a", at)
	if wait < 19*time.Second || wait > 20*time.Second {
		t.Errorf("the fourth waits %s, want 20 s", wait)
	}
	if r.take("a", at) != wait {
		t.Error("who asks too early waits longer for it")
	}
	if wait := r.take("b", at); wait != 0 {
		t.Errorf("another waits %s", wait)
	}
	if wait := r.take("a", at.Add(21*time.Second)); wait != 0 {
		t.Errorf("who came back when told waits %s", wait)
	}
}

func TestRatesAreForgottenFromTheOldest(t *testing.T) {
	r := newRates(1)
	r.max = 100
	at := time.Unix(1_800_000_000, 0)
	for i := range 1000 {
		r.take(fmt.Sprint(i), at)
	}
	if len(r.byKey) != 100 || r.recent.Len() != 100 {
		t.Errorf("%d and %d are remembered", len(r.byKey), r.recent.Len())
	}
	if r.take("999", at) == 0 {
		t.Error("the newest was forgotten")
	}
	if r.take("0", at) != 0 {
		t.Error("the oldest was not")
	}
}

func TestAnotherRateHoldsForThoseWhoAreKnown(t *testing.T) {
	r := newRates(1)
	at := time.Unix(1_800_000_000, 0)
	r.take("a", at)
	r.resize(at, 60)
	if wait := r.take("a", at); wait < 900*time.Millisecond || wait > time.Second {
		t.Errorf("waits %s, want a second", wait)
	}
}

func TestARefusalSaysWhenToComeBack(t *testing.T) {
	for after, want := range map[time.Duration][2]time.Duration{
		0:                {minRetry, 2 * minRetry},
		10 * time.Second: {10 * time.Second, 15 * time.Second},
		time.Hour:        {maxRetry, maxRetry * 3 / 2},
	} {
		err := fmt.Errorf("step: %w", comeBack("x", after, "no room"))
		if attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "x" {
			t.Errorf("%v", err)
		}
		for range 100 {
			if got := retryOf(err); got < want[0] || got > want[1] {
				t.Errorf("%s: come back after %s", after, got)
			}
		}
	}
	if retryOf(errors.New("other")) != retryAfter {
		t.Error("any other refusal")
	}
}

func TestCallsAreFinishedBeforeTheEnd(t *testing.T) {
	var c calls
	for range 2 {
		if !c.enter() {
			t.Fatal("refused")
		}
	}
	cut := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.close(10*time.Millisecond, func() { close(cut) })
	}()
	<-cut // nobody left in time
	if c.enter() {
		t.Error("one came in after the end")
	}
	c.leave()
	select {
	case <-done:
		t.Fatal("closed before all had left")
	case <-time.After(10 * time.Millisecond):
	}
	c.leave()
	<-done
	c.close(0, nil) // again is nothing
}
