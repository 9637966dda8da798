package issuer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// maxWatch is how long one watch lasts. The client opens another, and its SVID
// is checked again.
const maxWatch = time.Hour

// Watch tells one agent to attest again before its SVID asks for it. The bundle
// comes at once, so that an agent knows that the watch stands. It ends with OK
// at the SVID's end, or after an hour.
func (s *Server) Watch(_ *assayv1.WatchRequest, stream assayv1.Attestation_WatchServer) error {
	ctx := stream.Context()
	id, cert, err := s.peerSVID(ctx)
	if err != nil {
		return err
	}
	events, leave := s.watchers.join(fmt.Sprintf("%032x", cert.SerialNumber), id.String())
	defer leave()
	s.judgeSoon() // the policy may have changed since its SVID was issued

	bundle, err := s.trustBundle()
	if err != nil {
		s.log.ErrorContext(ctx, "there is no bundle to send", "error", err)
		return status.Error(codes.Internal, "a fault of the server")
	}
	if err := stream.Send(&assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: bundle}}); err != nil {
		return err
	}
	s.log.DebugContext(ctx, "watching", "spiffe_id", id.String())

	end := time.NewTimer(min(cert.NotAfter.Sub(s.now()), maxWatch))
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-s.stopping:
			return nil
		case <-end.C:
			return nil
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

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
}

// watcher is one agent that watches. What it holds is in the ledger, under the
// serial number of the SVID that it showed.
type watcher struct {
	events   chan *assayv1.WatchEvent
	serial   string
	spiffeID string

	// Under the lock; see wake.go.
	judged   bool
	stale    uint64   // how often what is on record changed under an older policy
	judgedBy [32]byte // digest of the policy
	woken    bool     // was asked to attest again because of a policy
}

// pending is how many events wait for a slow client. A client that has that
// many before it will attest again in any case, so further ones are dropped.
const pending = 8

func (w *watchers) join(serial, spiffeID string) (<-chan *assayv1.WatchEvent, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[uint64]*watcher{}
	}
	key := w.next
	x := &watcher{events: make(chan *assayv1.WatchEvent, pending), serial: serial, spiffeID: spiffeID}
	w.next++
	w.waiting[key] = x
	return x.events, func() {
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
