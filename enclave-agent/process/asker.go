package process

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// maxAsking is how many questions an engine or a kubelet is asked at once, and
// keptFor how long an answer stands: every caller can have one asked for each of its
// calls, and each renewal has all of them ask in the same moment.
const (
	maxAsking = 4
	keptFor   = time.Second
	maxKept   = 256
)

// asker asks one engine or kubelet. Whoever has the same question while it is being
// asked waits for the same answer.
type asker struct {
	client *http.Client
	places chan struct{}
	flight singleflight.Group

	mu   sync.Mutex
	kept map[string]kept
}

type kept struct {
	answer any
	until  time.Time
}

func newAsker(t *http.Transport) *asker {
	t.MaxIdleConns, t.MaxConnsPerHost = maxAsking, maxAsking
	t.IdleConnTimeout, t.ResponseHeaderTimeout = 30*time.Second, lookTimeout
	return &asker{client: &http.Client{CheckRedirect: noRedirect, Transport: t}, places: make(chan struct{}, maxAsking), kept: map[string]kept{}}
}

// ask returns the JSON document under a URL, of at most limit bytes: one that was
// got within the last second, unless fresh is set. The caller does not change it.
func ask[T any](ctx context.Context, a *asker, url, token string, limit int64, fresh bool) (*T, error) {
	if v, ok := a.have(url); ok && !fresh {
		if t, ok := v.(*T); ok {
			return t, nil
		}
	}
	// It belongs to nobody: who asked first may leave while others wait.
	if fresh {
		a.flight.Forget(url) // one under way may have been asked before what is asked for began
	}
	answers := a.flight.DoChan(url, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		select {
		case a.places <- struct{}{}:
			defer func() { <-a.places }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var t T
		if err := get(ctx, a.client, url, token, limit, &t); err != nil {
			return nil, err
		}
		a.keep(url, &t)
		return &t, nil
	})
	select {
	case got := <-answers:
		t, _ := got.Val.(*T)
		return t, got.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *asker) have(url string) (any, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.kept[url]
	return k.answer, ok && time.Now().Before(k.until)
}

func (a *asker) keep(url string, answer any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for u, k := range a.kept {
		if !now.Before(k.until) || len(a.kept) >= maxKept {
			delete(a.kept, u)
		}
	}
	a.kept[url] = kept{answer, now.Add(keptFor)}
	// Nothing large stays for want of a next question.
	time.AfterFunc(keptFor, func() { a.forget(url, answer) })
}

func (a *asker) forget(url string, answer any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept[url].answer == answer {
		delete(a.kept, url)
	}
}
