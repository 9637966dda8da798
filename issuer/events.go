package issuer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// Several servers share a database, and each remembers what it read there. Events
// is how one hears of what another changed: by the database's word, or by asking
// every so often where that was lost.
//
// Two kinds of listeners: Now is called where the news arrives, and may only mark
// something; Soon runs beside it, may read the database, and is repeated until it
// succeeds. News of one kind that comes while it runs is taken together.

// lostBound is how long a server is ready for more without hearing of changes. Its
// own parts fail closed by themselves, each at its time; this is what tells a
// balancer.
const lostBound = 30 * time.Second

// lostAgain is how often everything is read again while nothing is heard: the
// database may be there, and only its word be lost.
const lostAgain = 5 * time.Second

// soonAgain is how long a listener that failed is left alone.
const soonAgain = time.Second

// Events follows the changes of one trust domain.
type Events struct {
	source      store.Watcher
	trustDomain string
	log         *slog.Logger
	now         func() time.Time

	atOnce map[store.Topic][]func(key string)
	soon   []*soon
	lost   []func()
	since  atomic.Int64 // Unix nanoseconds since when nothing is heard; 0: all is well
}

type soon struct {
	what   string
	topics map[store.Topic]bool
	run    func(ctx context.Context) error
	wanted chan struct{}
}

// NewEvents follows a store that several servers write, and nothing where only one
// does: source may be nil.
func NewEvents(source store.Watcher, trustDomain string, log *slog.Logger, now func() time.Time) *Events {
	e := &Events{source: source, trustDomain: trustDomain, log: log, now: now, atOnce: map[store.Topic][]func(string){}}
	if source != nil {
		e.since.Store(now().UnixNano())
	}
	return e
}

// Now has f called for every change of a topic, with the key of the row; "" is any
// of them. It must not wait for anything. Listeners are set before Run.
func (e *Events) Now(topic store.Topic, f func(key string)) {
	e.atOnce[topic] = append(e.atOnce[topic], f)
}

// Soon has f run after changes of the topics, and again every second while it
// fails.
func (e *Events) Soon(what string, f func(ctx context.Context) error, topics ...store.Topic) {
	s := &soon{what: what, topics: map[store.Topic]bool{}, run: f, wanted: make(chan struct{}, 1)}
	for _, t := range topics {
		s.topics[t] = true
	}
	e.soon = append(e.soon, s)
}

// Lost has f called when changes are no longer heard of, and when they are again:
// whoever must not be late does better to ask. It must not wait for anything.
func (e *Events) Lost(f func()) { e.lost = append(e.lost, f) }

// Ready says why this server may be behind the others, if it may.
func (e *Events) Ready() error {
	since := e.since.Load()
	if since == 0 {
		return nil
	}
	if d := e.now().Sub(time.Unix(0, since)); d > lostBound {
		return fmt.Errorf("the database has not told what other servers change for %s", d.Truncate(time.Second))
	}
	return nil
}

// Run follows until ctx ends, and returns nil then.
func (e *Events) Run(ctx context.Context) error {
	if e.source == nil {
		<-ctx.Done()
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, s := range e.soon {
		running.Go(func() { s.follow(ctx, e.log) })
	}
	running.Go(func() { e.askWhileLost(ctx) })
	return e.source.Watch(ctx, e.hear)
}

// askWhileLost has all listeners read the database, as if everything had changed,
// for as long as its word does not come.
func (e *Events) askWhileLost(ctx context.Context) {
	tick := time.NewTicker(lostAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if e.since.Load() == 0 {
			continue
		}
		for _, s := range e.soon {
			s.want()
		}
	}
}

func (e *Events) hear(ev store.Event) {
	switch ev.Topic {
	case store.TopicLost:
		e.since.CompareAndSwap(0, e.now().UnixNano())
		for _, f := range e.lost {
			f()
		}
		return
	case store.TopicHeard:
		e.since.Store(0)
		for _, f := range e.lost {
			f()
		}
		return
	case store.TopicTrustDomains, store.TopicAuthorities, store.TopicDocuments, store.TopicPolicies, store.TopicInventory, store.TopicBindings,
		store.TopicMembers, store.TopicBans, store.TopicFederations:
	}
	if ev.TrustDomain != e.trustDomain {
		return
	}
	for _, f := range e.atOnce[ev.Topic] {
		f(ev.Key)
	}
	for _, s := range e.soon {
		if s.topics[ev.Topic] {
			s.want()
		}
	}
}

// want has a listener run.
func (s *soon) want() {
	select {
	case s.wanted <- struct{}{}:
	default: // it will see this change too
	}
}

// follow runs a listener whenever it is wanted.
func (s *soon) follow(ctx context.Context, log *slog.Logger) {
	again := time.NewTimer(soonAgain)
	again.Stop()
	defer again.Stop()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.wanted:
		case <-again.C:
		}
		err := s.run(ctx)
		switch {
		case err == nil:
			failed = false
		case ctx.Err() != nil || errors.Is(err, context.Canceled):
			return
		default:
			if !failed { // once a time
				log.WarnContext(ctx, "what another server changed cannot be taken over yet", "what", s.what, "error", err)
			}
			failed = true
			again.Reset(soonAgain)
		}
	}
}
