package issuer

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// teller is a database that tells what the test says.
type teller chan store.Event

func (c teller) Watch(ctx context.Context, on func(store.Event)) error {
	for {
		select {
		case e := <-c:
			on(e)
		case <-ctx.Done():
			return nil
		}
	}
}

// following runs Events for a test, and stops them with it.
func following(t *testing.T, e *Events) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNewsOfOtherServersReachWhomItConcerns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := make(teller)
		e := NewEvents(source, "td", slog.New(slog.DiscardHandler), time.Now)
		var keys []string
		var policies, everything atomic.Int64
		e.Now(store.TopicBindings, func(key string) { keys = append(keys, key) })
		e.Soon("policies", func(context.Context) error { policies.Add(1); return nil }, store.TopicPolicies)
		e.Soon("all", func(context.Context) error { everything.Add(1); return nil }, store.TopicPolicies, store.TopicAuthorities)
		following(t, e)
		for _, ev := range []store.Event{
			{TrustDomain: "td", Topic: store.TopicBindings, Key: "aa"},
			{TrustDomain: "other", Topic: store.TopicBindings, Key: "bb"},
			{TrustDomain: "td", Topic: store.TopicBindings},
			{TrustDomain: "td", Topic: store.TopicPolicies},
		} {
			source <- ev
			synctest.Wait()
		}
		source <- store.Event{TrustDomain: "td", Topic: store.TopicAuthorities}
		source <- store.Event{TrustDomain: "other", Topic: store.TopicPolicies}
		synctest.Wait()
		if len(keys) != 2 || keys[0] != "aa" || keys[1] != "" {
			t.Errorf("keys %q", keys)
		}
		if policies.Load() != 1 || everything.Load() != 2 {
			t.Errorf("policies %d times, everything %d times, want 1 and 2", policies.Load(), everything.Load())
		}
	})
}

func TestWhatFailsIsRepeatedUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := make(teller)
		e := NewEvents(source, "td", slog.New(slog.DiscardHandler), time.Now)
		var calls atomic.Int64
		e.Soon("x", func(context.Context) error {
			if calls.Add(1) < 4 {
				return errors.New("the database is away")
			}
			return nil
		}, store.TopicPolicies)
		following(t, e)
		source <- store.Event{Topic: store.TopicHeard}
		source <- store.Event{Topic: store.TopicHeard} // until then everything is read again and again
		source <- store.Event{TrustDomain: "td", Topic: store.TopicPolicies}
		time.Sleep(time.Minute)
		if n := calls.Load(); n != 4 {
			t.Errorf("%d calls, want 4", n)
		}
	})
}

// What comes while a listener runs is not lost, and not queued up either.
func TestNewsThatComesDuringARunIsTakenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := make(teller)
		e := NewEvents(source, "td", slog.New(slog.DiscardHandler), time.Now)
		var calls atomic.Int64
		e.Soon("x", func(context.Context) error { calls.Add(1); time.Sleep(time.Second); return nil }, store.TopicPolicies)
		following(t, e)
		source <- store.Event{Topic: store.TopicHeard}
		source <- store.Event{Topic: store.TopicHeard}
		source <- store.Event{TrustDomain: "td", Topic: store.TopicPolicies}
		synctest.Wait() // it runs
		for range 100 {
			source <- store.Event{TrustDomain: "td", Topic: store.TopicPolicies}
		}
		time.Sleep(time.Minute)
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls, want one more than the first", n)
		}
	})
}

func TestAServerThatHearsNothingIsNotReadyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := make(teller)
		e := NewEvents(source, "td", slog.New(slog.DiscardHandler), time.Now)
		lost := 0
		e.Lost(func() { lost++ })
		following(t, e)
		ready := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if err := e.Ready(); (err == nil) != want {
				t.Errorf("%s: ready %t, want %t: %v", when, err == nil, want, err)
			}
		}
		ready("at the start", true) // the database was opened a moment ago
		time.Sleep(lostBound + time.Second)
		ready("never having heard anything", false)
		source <- store.Event{Topic: store.TopicHeard}
		ready("now", true)
		time.Sleep(time.Hour)
		ready("in silence", true)
		source <- store.Event{Topic: store.TopicLost}
		time.Sleep(lostBound - time.Second)
		ready("within the bound", true)
		source <- store.Event{Topic: store.TopicLost} // still
		time.Sleep(2 * time.Second)
		ready("beyond it", false)
		source <- store.Event{Topic: store.TopicHeard}
		ready("again", true)
		if lost != 4 {
			t.Errorf("listeners were told %d times, want 4", lost)
		}
	})
}

func TestAServerAloneIsAlwaysReady(t *testing.T) {
	e := NewEvents(nil, "td", slog.New(slog.DiscardHandler), func() time.Time { return time.Unix(1<<40, 0) })
	following(t, e)
	if err := e.Ready(); err != nil {
		t.Error(err)
	}
}
