package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Waits between watches. A server that does not answer watches costs nothing
// but the wait until an SVID's own renewal.
const (
	watchBase   = 500 * time.Millisecond
	watchCap    = time.Minute
	watchStable = time.Minute // a watch that lasted this long was a good one
)

// maxWithin bounds the window over which a server spreads renewals, one hour.
const maxWithin = time.Hour

// watch listens for the server's word that this agent should attest again, and
// for changes of the bundle. It needs a live SVID; it never ends before ctx.
//
// After each renewal it is opened anew with the new SVID: the server judges a watch by
// the SVID that it shows, and those of the same attestation. The one before is held
// until the new one stands, so that no event falls between the two.
func (m *member) watch(ctx context.Context) error {
	var open sync.WaitGroup
	defer open.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pause backoff
	leave := func() {} // ends the watch of the SVID before
	for {
		own, err := m.waitForIdentity(ctx)
		if err != nil {
			return nil // the agent is stopping
		}
		began := m.time.clock.Boot()
		stands, ended := make(chan struct{}), make(chan error, 1)
		once, end := context.WithCancel(ctx)
		open.Go(func() {
			defer end()
			_, err := guard(func() (struct{}, error) { return struct{}{}, m.watchOnce(once, own, stands) })
			if status.Code(err) == codes.Unauthenticated {
				m.turnedAway(own)
			}
			ended <- err
		})
		renewed, err := m.untilRenewed(ctx, own, stands, ended, leave)
		switch {
		case ctx.Err() != nil:
			return nil
		case renewed && closed(stands):
			leave = end
			continue
		case renewed:
			end() // the one before still stands
			continue
		}
		if m.time.clock.Boot()-began >= watchStable {
			pause.reset()
		}
		wait := pause.next(watchBase, watchCap)
		if status.Code(err) == codes.Unimplemented {
			wait = watchCap
		}
		m.log.Debug("watch ended", "error", errorText(err), "retry_in", wait.Round(time.Millisecond).String())
		if sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// untilRenewed waits for the end of a watch, or for an SVID that takes the place of
// the one it shows; once the watch stands it leaves the one before.
func (m *member) untilRenewed(ctx context.Context, own *svid, stands <-chan struct{}, ended <-chan error, leave func()) (renewed bool, err error) {
	for {
		changed := m.agent.changed.next()
		if now := m.state.watchable(); now != nil && now != own {
			if closed(stands) {
				leave()
			}
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case err := <-ended:
			return false, err
		case <-stands:
			leave()
			stands = nil
		case <-changed:
		}
	}
}

// closed reports whether a channel is; one that is nil was.
func closed(c <-chan struct{}) bool {
	if c == nil {
		return true
	}
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// turnedAway hears that the server does not take an SVID any more that is held: the
// agent attests again, and learns then whether it is to have another. That is once for
// each SVID, and later and later where the server turns away what it has just issued.
func (m *member) turnedAway(own *svid) {
	if !slices.Contains(m.state.held(), own) || own.turnedAway.Swap(true) {
		return
	}
	now := m.time.now()
	m.away.mu.Lock()
	if now.Sub(m.away.last) > watchStable {
		m.away.pause.reset()
		m.away.wait = 0
	} else {
		m.away.wait = m.away.pause.next(minInterval, watchCap)
	}
	m.away.last = now
	wait := m.away.wait
	m.away.mu.Unlock()
	m.log.Info("the server does not take this agent's SVID any more: attesting again", "spiffe_id", own.id.String(), "in", wait.Round(time.Millisecond).String())
	m.plan.advance(now.Add(wait))
}

// turnings are the times that the server turned an SVID away.
type turnings struct {
	mu    sync.Mutex
	pause backoff
	last  time.Time
	wait  time.Duration
}

// waitForIdentity blocks until there is a live SVID to authenticate with.
func (m *member) waitForIdentity(ctx context.Context) (*svid, error) {
	for {
		_, changed, _ := m.state.view() // a halt does not keep the agent from talking to its server
		if own := m.state.watchable(); own != nil {
			return own, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// Bounds of what a server may have an agent do by a watch: a bundle a second is taken,
// the last one, since each is checked and handed to every workload; and a server that
// sends more than so many events within a second has the watch ended.
const (
	bundleEvery = time.Second
	maxEvents   = 100
)

var errFlood = errors.New("more than 100 events within a second")

// watchOnce holds one watch, on a connection of its own that shows the SVID. It closes
// stands when the server has taken it.
func (m *member) watchOnce(ctx context.Context, own *svid, stands chan<- struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cert := own.certificate()
	l, err := m.dial(func() *tls.Certificate { return cert })
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	stream, err := assayv1.NewAttestationClient(l).Watch(ctx, &assayv1.WatchRequest{})
	if err != nil {
		return err
	}
	events, ended := make(chan *assayv1.WatchEvent), make(chan error, 1)
	go func() { // ends with the stream
		for {
			ev, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case events <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	w := &watched{member: m}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev := <-events:
			if stands != nil {
				close(stands)
				stands = nil
			}
			if err := w.take(ev); err != nil {
				return err
			}
		case <-w.due:
			if err := w.takeBundle(); err != nil {
				return err
			}
		case err := <-ended:
			if early := w.takeBundle(); errors.Is(err, io.EOF) {
				return early
			}
			return err
		}
	}
}

// watched is what one watch has brought.
type watched struct {
	*member
	second time.Time // since when events are counted
	events int
	said   map[assayv1.Reattest_Reason]bool // in this second

	bundle *assayv1.TrustBundle // the last one, which is to be taken
	taken  time.Time
	due    <-chan time.Time
}

// take counts an event and acts on it; on a bundle perhaps later.
func (w *watched) take(ev *assayv1.WatchEvent) error {
	now := time.Now() // with its monotonic reading: nobody sets it
	if w.said == nil || now.Sub(w.second) >= time.Second {
		w.second, w.events, w.said = now, 0, map[assayv1.Reattest_Reason]bool{}
	}
	if w.events++; w.events > maxEvents {
		w.log.Warn("the server floods the watch: it is ended, and opened again later")
		return errFlood
	}
	switch e := ev.GetEvent().(type) {
	case *assayv1.WatchEvent_Reattest:
		reason := e.Reattest.GetReason()
		w.heedReattest(e.Reattest, !w.said[reason])
		w.said[reason] = true
	case *assayv1.WatchEvent_Bundle:
		w.bundle = e.Bundle
		if wait := bundleEvery - now.Sub(w.taken); wait > 0 {
			if w.due == nil {
				w.due = time.After(wait)
			}
			return nil
		}
		return w.takeBundle()
	default:
		if !w.said[-1] {
			w.log.Debug("the server sent an event that this version does not know")
		}
		w.said[-1] = true
	}
	return nil
}

// takeBundle takes the last bundle, if there is one to take.
func (w *watched) takeBundle() error {
	b := w.bundle
	w.bundle, w.due = nil, nil
	if b == nil {
		return nil
	}
	w.taken = time.Now()
	return w.heedBundle(b)
}

// heedReattest brings the next attestation forward.
func (m *member) heedReattest(r *assayv1.Reattest, say bool) {
	within := min(max(time.Duration(min(r.GetWithinMs(), maxWithin.Milliseconds()))*time.Millisecond, 0), maxWithin)
	now := m.time.now()
	m.plan.advance(between(now, now.Add(within)))
	m.tokens.forget() // whatever changed: the server is asked about the next one
	if say {
		m.log.Info("the server asks for a new attestation", "reason", r.GetReason().String(), "within", within.String())
	}
}

// heedBundle takes a bundle.
func (m *member) heedBundle(sent *assayv1.TrustBundle) error {
	b, err := checkBundle(sent, m.of.TrustDomain)
	if err == nil {
		err = m.fits(m.state.held(), b)
	}
	if err != nil {
		m.log.Warn("the server sent a trust bundle that is not accepted", "check", attest.CheckOf(err), "error", err.Error())
		return err
	}
	newer, vouches := m.state.adoptBundle(b)
	if held := m.state.bundleHeld(); !newer && b.older(held) {
		m.log.Info("the server's trust bundle is older than the one that is held, and left out", "sequence", b.sequence, "revision", b.revision)
	}
	if newer {
		m.log.Info("new trust bundle", "sequence", b.sequence, "revision", b.revision, "authorities", len(b.authorities), "federated", len(b.federated))
		m.warnOfDropped(b)
	}
	if !vouches {
		// An authority is gone that signed what this agent holds.
		m.plan.advance(m.time.now())
	}
	return nil
}

// warnOfDropped tells of foreign bundles that this agent cannot read.
func (m *member) warnOfDropped(b *trustBundle) {
	for _, why := range b.dropped {
		m.log.Warn("a foreign trust bundle is left out; that trust domain is not trusted", "why", why)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return clip(err.Error())
}
