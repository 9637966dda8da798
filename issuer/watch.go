package issuer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// maxWatch is how long one watch lasts. The client opens another, and its SVID
// is checked again.
const maxWatch = time.Hour

// Watch tells one agent to attest again before its SVID asks for it, and hands on
// every new bundle. The bundle comes at once, so that an agent knows that the watch
// stands. It ends with OK at the SVID's end, or after an hour; and when the SVID is
// taken back before: then the last event says why, and the status is that of every
// call without a live SVID.
func (s *Server) Watch(_ *assayv1.WatchRequest, stream assayv1.Attestation_WatchServer) error {
	ctx := stream.Context()
	p, err := s.livePeer(ctx)
	if err != nil {
		return err
	}
	if wait := s.watchers.opens(p.instance.Guest()); wait > 0 {
		s.metrics.limited.WithLabelValues("watch", "instance").Inc()
		return status.Errorf(codes.Unavailable, "too many watches of this instance: try again in %s", wait.Round(time.Millisecond))
	}
	w, leave := s.watchers.join(p.serial, p.ID.String(), p.instance)
	defer leave()
	s.judgeSoon() // the policy may have changed since its SVID was issued

	if err := s.sendBundle(ctx, stream); err != nil {
		return err
	}
	if ended, err := s.lookAt(stream, p); ended { // something may have happened to one that is not shown
		return err
	}
	s.log.DebugContext(ctx, "watching", "spiffe_id", p.ID.String())

	end := time.NewTimer(min(p.Cert.NotAfter.Sub(s.now()), maxWatch))
	defer end.Stop()
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-s.stopping:
			return nil
		case <-end.C:
			return nil
		case e := <-w.events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-w.nudge:
			if w.bundleDue.Swap(false) {
				if err := s.sendBundle(ctx, stream); err != nil {
					return err
				}
			}
			if ended, err := s.lookAt(stream, p); ended {
				return err
			} else if err != nil {
				again.Reset(lookAfter)
			}
		case <-again.C:
			if ended, err := s.lookAt(stream, p); ended {
				return err
			} else if err != nil {
				again.Reset(lookAfter)
			}
		}
	}
}

// lookAfter is when to look again at an SVID of which nothing could be said.
const lookAfter = 5 * time.Second

// lookAt ends a watch whose SVID has been taken back, or another one of the same
// attestation, after it has told why. Where
// that cannot be told the watch stays: it grants nothing.
func (s *Server) lookAt(stream assayv1.Attestation_WatchServer, p *livePeerFacts) (ended bool, err error) {
	var taken *takenBack
	err = s.standTogether(p.Cert, p.heldFacts, s.now())
	if !errors.As(err, &taken) {
		return false, err
	}
	ctx := stream.Context()
	s.log.InfoContext(ctx, "a watching agent's SVID was taken back", "spiffe_id", p.spiffeID, "serial", p.serial, "reason", taken.reason.String(), "why", taken.why)
	if err := stream.Send(reattest(taken.reason, 0)); err != nil {
		return true, err
	}
	return true, s.notLive(ctx, err)
}

// sendBundle sends what relying parties in the trust domain check with.
func (s *Server) sendBundle(ctx context.Context, stream assayv1.Attestation_WatchServer) error {
	bundle, err := s.trustBundle()
	if err != nil {
		s.log.ErrorContext(ctx, "there is no bundle to send", "error", err)
		return status.Error(codes.Internal, "a fault of the server")
	}
	return stream.Send(&assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: bundle}})
}

// authoritiesChanged is told by the CA: everybody gets the new bundle, and whoever
// holds something that a tainted authority signed finds out by looking.
func (s *Server) authoritiesChanged(bundle bool) { s.watchers.lookAgain(bundle) }

// Reattest asks every watching agent to attest again, spread over a window. It
// returns how many it asked.
func (s *Server) Reattest(ctx context.Context, reason assayv1.Reattest_Reason, within time.Duration) int {
	n := s.watchers.tell(reattest(reason, within))
	s.log.InfoContext(ctx, "asked agents to attest again", "reason", reason.String(), "within", within, "agents", n)
	return n
}

// watchers holds who is watching.
type watchers struct {
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*watcher
	opened  *rates // by guest
}

// watchesPerMinute is how often one instance may begin to watch: each time it is sent
// the whole bundle. An agent does so once an hour, and when its connection breaks.
const watchesPerMinute = 120

// opens takes one opening of a guest's, or says how long to wait.
func (w *watchers) opens(guest string) (wait time.Duration) {
	w.mu.Lock()
	if w.opened == nil {
		w.opened = newRates(watchesPerMinute)
	}
	opened := w.opened
	w.mu.Unlock()
	return opened.take(guest, time.Now())
}

// watcher is one agent that watches. What it holds is in the ledger, under the
// serial number of the SVID that it showed.
type watcher struct {
	events   chan *assayv1.WatchEvent
	nudge    chan struct{} // one: look at the bundle, and at the SVID
	serial   string
	spiffeID string
	instance attest.Instance

	bundleDue atomic.Bool

	// Under the lock; see wake.go.
	judged   bool
	stale    uint64   // how often what is on record changed under an older policy
	judgedBy [32]byte // digest of the policy
	woken    bool     // was asked to attest again because of a policy
}

// pending is how many events wait for a slow client. A client that has that
// many before it will attest again in any case, so further ones are dropped.
const pending = 8

func (w *watchers) join(serial, spiffeID string, instance attest.Instance) (*watcher, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[uint64]*watcher{}
	}
	key := w.next
	x := &watcher{events: make(chan *assayv1.WatchEvent, pending), nudge: make(chan struct{}, 1), serial: serial, spiffeID: spiffeID, instance: instance}
	w.next++
	w.waiting[key] = x
	return x, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, key)
	}
}

// tell sends an event to everybody.
func (w *watchers) tell(e *assayv1.WatchEvent) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.waiting {
		x.send(e)
	}
	return len(w.waiting)
}

// lookAgain has every watch look at its SVID, and send the bundle where it changed.
// However often it is asked meanwhile, a slow client gets the newest bundle once.
func (w *watchers) lookAgain(bundle bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.waiting {
		if bundle {
			x.bundleDue.Store(true)
		}
		select {
		case x.nudge <- struct{}{}:
		default:
		}
	}
}

// watching are the instances that watch.
func (w *watchers) watching() map[attest.Instance]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[attest.Instance]bool, len(w.waiting))
	for _, x := range w.waiting {
		out[x.instance] = true
	}
	return out
}

// unjudged is who is watching now and has not been judged by the policy. Who has
// left meanwhile hears nothing, and takes no harm.
func (w *watchers) unjudged(digest [32]byte) []*watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*watcher
	for _, x := range w.waiting {
		if !x.judged || x.judgedBy != digest {
			out = append(out, x)
		}
	}
	return out
}

// staleness is to be asked for before a watcher is judged.
func (w *watchers) staleness(x *watcher) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return x.stale
}

// judge notes that a watcher was judged by the policy, unless what is on record
// changed meanwhile, and tells it to attest again if that concerns it.
func (w *watchers) judge(x *watcher, digest [32]byte, staleness uint64, concerned bool, e *assayv1.WatchEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.judged, x.judgedBy = x.stale == staleness, digest
	if concerned {
		x.woken = true
		x.send(e)
	}
}

// again has whoever watches under one of the SPIFFE IDs judged once more. It
// reports whether there is anybody.
func (w *watchers) again(spiffeIDs []string) (found bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.waiting {
		if slices.Contains(spiffeIDs, x.spiffeID) {
			x.judged, found = false, true
			x.stale++
		}
	}
	return found
}

// send never blocks.
func (w *watcher) send(e *assayv1.WatchEvent) {
	select {
	case w.events <- e:
	default:
	}
}

func (w *watchers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}
