package issuer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// A policy change wakes the agents whom it concerns, and only those. Whom it
// concerns is a comparison: what an agent holds was issued under one policy, for
// claims that the ledger has; if the policy in force would give the same to the
// same claims now, there is nothing to attest again for. The question is asked
// for every watching agent when the policy changes, and for one that begins to
// watch: the policy may have changed while the server, or the agent, was away.
//
// A reference value whose not_before or not_after passes is no change of the
// policy, and wakes nobody: both policies are asked about one moment. What it
// carried ends by itself at that time, and what it allows is found by the next
// renewal.
//
// One goroutine judges, one agent after the other, with two look-ups in the
// ledger each. It holds up nothing but itself.

// judgeAgain is when to look again at agents who could not be judged because
// the database did not answer.
const judgeAgain = 10 * time.Second

// judgeSoon asks for a judgement. It never blocks; requests are taken together.
func (s *Server) judgeSoon() {
	select {
	case s.judgeNow <- struct{}{}:
	default:
	}
}

// judging keeps every watching agent judged by the policy in force, until ctx
// ends.
func (s *Server) judging(ctx context.Context) error {
	past := &pastPolicies{read: s.policy.past}
	again := time.NewTimer(judgeAgain)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.judgeNow:
		case <-again.C:
		}
		if !s.judgeAll(ctx, past) {
			again.Reset(judgeAgain)
		}
	}
}

// judgeAll judges whoever has not been judged by the policy in force. It
// reports whether all could be.
func (s *Server) judgeAll(ctx context.Context, past *pastPolicies) bool {
	now := s.policy.Current()
	past.put(now)
	digest := now.Digest()
	asked, judged, complete := 0, 0, true
	event := reattest(assayv1.Reattest_REASON_POLICY_CHANGED, s.cfg.ReattestSpread)
	for _, w := range s.watchers.unjudged(digest) {
		if ctx.Err() != nil {
			return true
		}
		concerned, err := s.concerned(ctx, w, now, past)
		if err != nil {
			complete = false
			s.log.WarnContext(ctx, "whether the policy concerns an agent cannot be told yet", "spiffe_id", w.spiffeID, "error", err)
			continue
		}
		s.watchers.judge(w, digest, concerned, event)
		judged++
		if concerned {
			asked++
		}
	}
	if asked > 0 {
		s.metrics.woken.Add(float64(asked))
		s.log.InfoContext(ctx, "asked agents whom the policy concerns to attest again", "policy", policyName(now), "within", s.cfg.ReattestSpread, "agents", asked, "of", judged)
	} else if judged > 0 {
		s.log.DebugContext(ctx, "the policy concerns no agent among those judged", "policy", policyName(now), "judged", judged)
	}
	return complete
}

// concerned reports whether the policy in force would give a watching agent
// something else than what it holds. Where that cannot be told it is yes: an
// attestation too many does no harm.
func (s *Server) concerned(ctx context.Context, w *watcher, now *policy.Bundle, past *pastPolicies) (yes bool, err error) {
	defer func() {
		if v := recover(); v != nil { // a bug, and no reason to stop serving
			s.metrics.panics.Inc()
			s.log.ErrorContext(ctx, "comparing policies panicked", "spiffe_id", w.spiffeID, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			yes, err = true, nil
		}
	}()
	shown, err := s.ledger.BySerial(ctx, w.serial)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil // it was there when the watch began
	}
	if err != nil {
		return false, err
	}
	// The watch may be older than what the agent holds: it has renewed since.
	held, err := s.newest(ctx, shown, w.spiffeID)
	if err != nil {
		return false, err
	}
	if w.woken && held.Sequence == shown.Sequence {
		return true, nil // it was asked, and what became of it is not known
	}
	digest := now.Digest()
	if slices.Equal(held.Entry.Policy.Digest, digest[:]) {
		return false, nil
	}
	if len(held.Entry.Policy.Digest) != len(digest) {
		return true, nil
	}
	before, err := past.get(ctx, [32]byte(held.Entry.Policy.Digest))
	if err != nil {
		return false, err
	}
	if before == nil {
		return true, nil // its policy is no longer kept
	}
	at := s.now()
	return !before.Entitlement(held.Entry.Claims, at).Equal(now.Entitlement(held.Entry.Claims, at)), nil
}

// newest is the last issuance of the SPIFFE ID to the instance of the item, or
// the item itself.
func (s *Server) newest(ctx context.Context, item ledger.Item, spiffeID string) (ledger.Item, error) {
	later, err := s.ledger.List(ctx, ledger.Filter{
		Outcome: ledger.Granted, Instance: string(item.Entry.Instance), After: item.Sequence, Limit: 8,
	})
	if err != nil {
		return ledger.Item{}, err
	}
	for _, l := range later { // newest first
		if slices.ContainsFunc(l.Entry.Identities, func(id ledger.Identity) bool { return id.SPIFFEID == spiffeID }) {
			return l, nil
		}
	}
	return item, nil
}

// pastPolicies are the policies under which watching agents hold what they
// hold. Only one goroutine uses it.
type pastPolicies struct {
	read  func(ctx context.Context, digest [32]byte) (*policy.Bundle, error)
	known map[[32]byte]*policy.Bundle // nil: it is no longer kept
	order [][32]byte                  // oldest first
}

// keptPast bounds the policies that are held in memory beside the one in force.
const keptPast = 4

func (p *pastPolicies) put(b *policy.Bundle) { p.keep(b.Digest(), b) }

func (p *pastPolicies) keep(digest [32]byte, b *policy.Bundle) {
	if p.known == nil {
		p.known = map[[32]byte]*policy.Bundle{}
	}
	if i := slices.Index(p.order, digest); i >= 0 {
		p.order = slices.Delete(p.order, i, i+1)
	}
	p.order = append(p.order, digest)
	p.known[digest] = b
	if len(p.order) > keptPast {
		delete(p.known, p.order[0])
		p.order = slices.Delete(p.order, 0, 1)
	}
}

// get is the policy of that digest; nil when its content is no longer kept.
func (p *pastPolicies) get(ctx context.Context, digest [32]byte) (*policy.Bundle, error) {
	b, ok := p.known[digest]
	if !ok {
		var err error
		if b, err = p.read(ctx, digest); err != nil {
			return nil, err
		}
	}
	p.keep(digest, b) // used last, dropped last
	return b, nil
}

func reattest(reason assayv1.Reattest_Reason, within time.Duration) *assayv1.WatchEvent {
	return &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: reason, WithinMs: within.Milliseconds()}}}
}
