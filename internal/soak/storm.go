package soak

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// event is one thing that goes wrong, or that an operator does.
type event struct {
	at   time.Duration // since the storm began
	name string
	do   func(ctx context.Context) error
}

// plan draws all events from the seed. Outages are shorter than what is left of an
// SVID when it is renewed: what is tried is whether everything comes back, not how
// long agents live without a server.
func (r *run) plan() []event {
	rng := rand.New(rand.NewPCG(r.Seed, 0x736f616b)) //nolint:gosec // reproducible is the point
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)))
	}
	var out []event
	add := func(at time.Duration, name string, do func(ctx context.Context) error) {
		out = append(out, event{at, name, do})
	}
	quiet := min(15*time.Second, r.Duration/5) // at the end, for what was begun
	for at := between(time.Second, 3*time.Second); at < r.Duration-quiet; at += between(2*time.Second, 9*time.Second) {
		s, pause := r.servers[rng.IntN(2)], between(0, 3*time.Second)
		switch n := rng.IntN(100); {
		case n < 40:
			add(at, fmt.Sprintf("kill -9 server %s for %s", s.name, pause.Round(10*time.Millisecond)), func(ctx context.Context) error {
				r.count("server killed")
				return r.interrupt(ctx, s, syscall.SIGKILL, pause)
			})
		case n < 50:
			add(at, fmt.Sprintf("stop server %s for %s", s.name, pause.Round(10*time.Millisecond)), func(ctx context.Context) error {
				r.count("server stopped")
				return r.interrupt(ctx, s, syscall.SIGTERM, pause)
			})
		case n < 70:
			add(at, fmt.Sprintf("kill -9 the database for %s", pause.Round(10*time.Millisecond)), func(ctx context.Context) error {
				r.count("database killed")
				return r.crash(ctx, pause)
			})
		case n < 85:
			add(at, fmt.Sprintf("push a policy to server %s", s.name), func(ctx context.Context) error { return r.push(ctx, s) })
		case n < 95:
			add(at, fmt.Sprintf("rotate the X.509 authority of server %s by force", s.name), func(ctx context.Context) error { return r.rotate(ctx, s, "x509") })
		default:
			add(at, fmt.Sprintf("rotate the verifier key of server %s by force", s.name), func(ctx context.Context) error { return r.rotate(ctx, s, "verifier") })
		}
	}
	for _, e := range r.misuse() {
		add(e.at, e.name, e.do)
	}
	slices.SortStableFunc(out, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return out
}

// storm makes the events happen, each at its time; those that take long go on
// beside the next ones.
func (r *run) storm(ctx context.Context) error {
	events := r.plan()
	r.say("the storm: seed %d, %d events in %s, %d agents", r.Seed, len(events), r.Duration, r.Agents)
	began := time.Now()
	var running sync.WaitGroup
	for i, e := range events {
		if !sleep(ctx, time.Until(began.Add(e.at))) {
			break
		}
		r.say("#%d %s", i+1, e.name)
		running.Go(func() {
			if err := e.do(ctx); err != nil && ctx.Err() == nil {
				r.violated("event", "#%d %s: %v", i+1, e.name, err)
			}
		})
	}
	sleep(ctx, time.Until(began.Add(r.Duration)))
	running.Wait()
	return ctx.Err()
}

// interrupt ends a server and starts it again. One that another event has ended is
// left to that.
func (r *run) interrupt(ctx context.Context, s *server, sig syscall.Signal, pause time.Duration) error {
	if !s.alive() {
		return nil
	}
	if err := s.stop(sig); err != nil {
		return err
	}
	sleep(ctx, pause)
	return s.start()
}

// crash kills all processes of the database at once, and starts it again.
func (r *run) crash(ctx context.Context, pause time.Duration) error {
	r.database.mu.Lock()
	defer r.database.mu.Unlock()
	if err := r.database.cluster.Crash(); err != nil {
		return err
	}
	sleep(ctx, pause)
	return r.database.cluster.Recover()
}

// insist repeats what an operator does until it works: a server that is being
// killed answers nobody.
func (r *run) insist(ctx context.Context, limit time.Duration, do func() error) error {
	for end := time.Now().Add(limit); ; {
		err := do()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		sleep(ctx, 500*time.Millisecond)
	}
}

// push puts the next revision of the policy into force on one server, and looks
// whether the other follows.
func (r *run) push(ctx context.Context, s *server) error {
	r.mu.Lock()
	r.revision++
	revision := r.revision
	r.mu.Unlock()
	file := r.path(fmt.Sprintf("policy-%d.yaml", revision))
	if err := os.WriteFile(file, []byte(policyText(revision)), 0o600); err != nil {
		return err
	}
	superseded := false
	err := r.insist(ctx, 60*time.Second, func() error {
		_, err := r.command(ctx, "assay", "policy", "push", file, "--admin", s.admin)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil && r.revision > revision { // another push has come to a server meanwhile, with a higher number
			superseded = true
			return nil
		}
		return err
	})
	if err != nil || superseded {
		return err
	}
	r.count("policy pushed")
	began := time.Now()
	for _, o := range r.servers {
		if err := r.insist(ctx, 60*time.Second, func() error {
			if got := o.policy(ctx); got < revision {
				return fmt.Errorf("server %s has revision %d in force, %d was pushed to server %s", o.name, got, revision, s.name)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	r.say("   revision %d is in force on both servers, %s after the push", revision, time.Since(began).Round(10*time.Millisecond))
	return nil
}

// calm lets the last renewals through, and looks that both servers are ready.
func (r *run) calm(ctx context.Context) error {
	r.say("calm")
	for _, s := range r.servers {
		if !s.alive() {
			if err := s.start(); err != nil {
				return err
			}
		}
		if err := s.await(ctx, time.Minute); err != nil {
			return err
		}
	}
	sleep(ctx, 3*time.Second)
	return ctx.Err()
}
