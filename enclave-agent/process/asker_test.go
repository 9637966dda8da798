package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowEngine answers every question after a moment, and counts them.
type slowEngine struct {
	url             string
	asked, now, top atomic.Int64
	release         chan struct{} // closed: it answers
}

func newSlowEngine(t *testing.T) (*slowEngine, *asker) {
	t.Helper()
	e := &slowEngine{release: make(chan struct{})}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked.Add(1)
		at := e.now.Add(1)
		defer e.now.Add(-1)
		for top := e.top.Load(); at > top && !e.top.CompareAndSwap(top, at); top = e.top.Load() {
		}
		<-e.release
		_, _ = fmt.Fprintf(w, `{"Id":%q}`, r.URL.Path)
	}))
	t.Cleanup(s.Close)
	e.url = s.URL
	return e, newAsker(&http.Transport{})
}

type answer struct {
	ID string `json:"Id"`
}

func TestAnEngineIsAskedFewQuestionsAtOnce(t *testing.T) {
	e, a := newSlowEngine(t)
	var all sync.WaitGroup
	for i := range 400 {
		all.Go(func() {
			path := fmt.Sprintf("/%d", i%20)
			if got, err := ask[answer](t.Context(), a, e.url+path, "", 100, false); err != nil || got.ID != path {
				t.Errorf("%s: %v, %v", path, got, err)
			}
		})
	}
	for e.now.Load() < maxAsking {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // a fifth would come now
	close(e.release)
	all.Wait()
	if top := e.top.Load(); top != maxAsking {
		t.Errorf("%d questions at once, want %d", top, maxAsking)
	}
	// Each of twenty is asked once, or once more by who came between two answers.
	if n := e.asked.Load(); n < 20 || n > 40 {
		t.Errorf("%d questions for 400 of 20 kinds", n)
	}
}

func TestWhoNoLongerWaitsTakesNobodysAnswer(t *testing.T) {
	e, a := newSlowEngine(t)
	impatient, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := ask[answer](impatient, a, e.url+"/c", "", 100, false)
		left <- err
	}()
	for e.now.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	patient := make(chan error, 1)
	go func() {
		_, err := ask[answer](t.Context(), a, e.url+"/c", "", 100, false)
		patient <- err
	}()
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	close(e.release)
	if err := <-patient; err != nil {
		t.Errorf("who waited: %v", err)
	}
}

func TestAnAnswerStandsForASecond(t *testing.T) {
	e, a := newSlowEngine(t)
	close(e.release)
	for _, step := range []struct {
		fresh bool
		asked int64
	}{{false, 1}, {false, 1}, {true, 2}, {false, 2}} {
		if _, err := ask[answer](t.Context(), a, e.url, "", 100, step.fresh); err != nil || e.asked.Load() != step.asked {
			t.Errorf("%v: asked %d times, %v", step, e.asked.Load(), err)
		}
	}
	for len(keptBy(a)) > 0 {
		time.Sleep(10 * time.Millisecond) // nothing stays for want of a next question
	}
	if _, err := ask[answer](t.Context(), a, e.url, "", 100, false); err != nil || e.asked.Load() != 3 {
		t.Errorf("later: asked %d times, %v", e.asked.Load(), err)
	}
}

func keptBy(a *asker) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for url := range a.kept {
		out = append(out, url)
	}
	return out
}

func TestTheNumberOfAProcessIsThatOfItsDescriptor(t *testing.T) {
	own, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(own) }()
	if pid, err := pidOf(own, 0); err != nil || pid != os.Getpid() {
		t.Errorf("%d, %v, want %d", pid, err, os.Getpid())
	}
	c := exec.Command("true")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(ended) }()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if pid, err := pidOf(ended, 0); !errors.Is(err, ErrChanged) {
		t.Errorf("of a process that has ended: %d, %v", pid, err)
	}
	if pid, err := pidOf(1<<20, 0); err == nil {
		t.Errorf("of no descriptor: %d", pid)
	}
}
