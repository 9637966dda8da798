package issuer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/attest"
)

// held takes places until none is to be had without waiting.
func held(t *testing.T, ts *turns, l *line, n int) []func() {
	t.Helper()
	var ends []func()
	for range n {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // whoever would have to wait is told so
		end, err := ts.take(ctx, l, 0)
		if err != nil {
			return ends
		}
		ends = append(ends, end)
	}
	return ends
}

func TestATrustDomainThatTakesAllItCanLeavesTheOthersTheirPlaces(t *testing.T) {
	ts := newTurns()
	ts.share(3)
	a, b, c := ts.line(), ts.line(), ts.line()
	total := places(3)
	flood := held(t, ts, a, 10*total)
	if want := total - 2*ts.reserve; len(flood) != want {
		t.Errorf("one of three holds %d of %d places, want %d", len(flood), total, want)
	}
	more := held(t, ts, b, 10*total)
	last := held(t, ts, c, 10*total)
	if len(more) < ts.reserve || len(last) < ts.reserve {
		t.Errorf("the others got %d and %d places, want %d at least", len(more), len(last), ts.reserve)
	}
	for _, ends := range [][]func(){flood, more, last} {
		for _, end := range ends {
			end()
			end() // twice gives one back
		}
	}
	if ts.free != total || a.held+b.held+c.held != 0 {
		t.Errorf("%d free of %d, held %d %d %d", ts.free, total, a.held, b.held, c.held)
	}
}

func TestAloneATrustDomainHasEveryPlace(t *testing.T) {
	ts := newTurns()
	ts.share(1)
	l := ts.line()
	if n := len(held(t, ts, l, 1000)); n != places(1) {
		t.Errorf("%d places, want %d", n, places(1))
	}
}

// However long one line is, the first of another is one turn away.
func TestLinesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTurns()
		ts.share(2)
		a, b := ts.line(), ts.line()
		ends := append(held(t, ts, a, 1000), held(t, ts, b, 1000)...)
		var mu sync.Mutex
		var order []string
		wait := func(name string, l *line) {
			go func() {
				end, err := ts.take(context.Background(), l, 0)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				end()
			}()
			synctest.Wait()
		}
		for range 100 {
			wait("a", a)
		}
		wait("b", b)
		// Of a's places one becomes free: of those the next two go to a and to b.
		ends[0]()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(order) != 101 || order[0] != "b" && order[1] != "b" {
			t.Errorf("%d turns, b's was not among the first two: %v", len(order), order[:min(len(order), 5)])
		}
		for _, end := range ends[1:] {
			end()
		}
	})
}

func TestWhoWouldNotBeServedInTimeIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTurns()
		ts.share(1)
		l := ts.line()
		ts.mean = time.Second // as measured
		ends := held(t, ts, l, 1000)
		n := len(ends)
		// So many wait that the next one's turn is about ten seconds away.
		waiting, cancel := context.WithCancel(context.Background())
		for range 10 * n {
			go func() { _, _ = ts.take(waiting, l, 0) }()
		}
		synctest.Wait()
		start := time.Now()
		soon, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		_, err := ts.take(soon, l, 0)
		var w *waitError
		if !errors.As(err, &w) || attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "overload" {
			t.Fatalf("got %v", err)
		}
		if time.Since(start) != 0 {
			t.Errorf("it was told after %s", time.Since(start))
		}
		if w.after < 9*time.Second || w.after > 11*time.Second {
			t.Errorf("told to come back after %s, want about 10 s", w.after)
		}
		// Who has the time waits.
		later, stop2 := context.WithTimeout(context.Background(), 15*time.Second)
		defer stop2()
		got := make(chan error, 1)
		go func() {
			end, err := ts.take(later, l, 0)
			if err == nil {
				end()
			}
			got <- err
		}()
		synctest.Wait()
		cancel() // the others leave
		synctest.Wait()
		for _, end := range ends {
			end()
		}
		if err := <-got; err != nil {
			t.Errorf("who had the time: %v", err)
		}
		if ts.free != n || l.held != 0 || l.waiting.Len() != 0 || len(ts.ring) != 0 {
			t.Errorf("%d free of %d, %d held, %d waiting", ts.free, n, l.held, l.waiting.Len())
		}
	})
}

func TestWhatRemainsAfterATurnCountsForWhetherThereIsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTurns()
		l := ts.line()
		held(t, ts, l, 1000)
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		if _, err := ts.take(ctx, l, 2*time.Second); attest.CheckOf(err) != "overload" {
			t.Errorf("the ledger alone takes longer than there is time: %v", err)
		}
	})
}

func TestAPlaceThatComesWithTheEndOfItsWaiterIsNotLost(t *testing.T) {
	for range 200 {
		ts := newTurns()
		l := ts.line()
		ends := held(t, ts, l, 1000)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if end, err := ts.take(ctx, l, 0); err == nil {
				end()
			}
		}()
		go cancel()
		ends[0]()
		<-done
		for _, end := range ends[1:] {
			end()
		}
		if ts.free != places(1) || l.held != 0 {
			t.Fatalf("%d free of %d, %d held", ts.free, places(1), l.held)
		}
		cancel()
	}
}
