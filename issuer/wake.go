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
// ledger each, and each policy of the past is read once for all who hold something
// by it. It holds up nothing but itself.

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

// overtaken has those judged again who hold, from this moment on, what a policy
// granted that is no longer in force: it changed between the decision and the
// record, and they may have been judged by what was on record before.
func (s *Server) overtaken(g *policy.Grant) {
	var ids []string
	for _, is := range g.Issues() {
		ids = append(ids, is.Identity.SPIFFEID)
	}
	if s.watchers.again(ids) {
		s.judgeSoon()
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
	event := reattest(assayv1.Reattest_REASON_POLICY_CHANGED, s.settings().ReattestSpread)
	// Those whose policy of the past is not in memory wait for it together.
	later := map[[32]byte][]*watcher{}
	judge := func(w *watcher) {
		staleness := s.watchers.staleness(w)
		concerned, err := s.concerned(ctx, w, now, past)
		var missing *missingPolicy
		switch {
		case errors.As(err, &missing):
			later[missing.digest] = append(later[missing.digest], w)
		case err != nil:
			complete = false
			s.log.WarnContext(ctx, "whether the policy concerns an agent cannot be told yet", "spiffe_id", w.spiffeID, "error", err)
		default:
			s.watchers.judge(w, digest, staleness, concerned, event)
			judged++
			if concerned {
				asked++
			}
		}
	}
	for _, w := range s.watchers.unjudged(digest) {
		if ctx.Err() != nil {
			return true
		}
		judge(w)
	}
	for len(later) > 0 {
		for held, group := range later {
			if ctx.Err() != nil || s.policy.Current() != now {
				return true // the next change has asked for a judgement of its own
			}
			delete(later, held)
			if err := past.load(ctx, held); err != nil {
				complete = false
				s.log.WarnContext(ctx, "a policy of the past cannot be read yet", "agents", len(group), "error", err)
				continue
			}
			for _, w := range group {
				judge(w) // who has renewed meanwhile may wait for another
			}
		}
	}
	if asked > 0 {
		s.metrics.woken.Add(float64(asked))
		s.log.InfoContext(ctx, "asked agents whom the policy concerns to attest again", "policy", policyName(now), "within", s.settings().ReattestSpread, "agents", asked, "of", judged)
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
	if w.woken && held.Entry.Reference == shown.Entry.Reference {
		return true, nil // it was asked, and what became of it is not known
	}
	digest := now.Digest()
	if slices.Equal(held.Entry.Policy.Digest, digest[:]) {
		return false, nil
	}
	if len(held.Entry.Policy.Digest) != len(digest) {
		return true, nil
	}
	before, err := past.get([32]byte(held.Entry.Policy.Digest))
	if err != nil {
		return false, err
	}
	if before == nil {
		return true, nil // its policy is no longer kept
	}
	at := s.now()
	return !before.Entitlement(held.Entry.Claims, at).Equal(now.Entitlement(held.Entry.Claims, at)), nil
}

// newest is the last issuance of the SPIFFE ID to the instance of the item, by any
// server, or the item itself.
func (s *Server) newest(ctx context.Context, item ledger.Item, spiffeID string) (ledger.Item, error) {
	later, err := s.ledger.List(ctx, ledger.Filter{
		Outcome: ledger.Granted, Instance: string(item.Entry.Instance), SPIFFEID: spiffeID, Limit: 1,
	})
	if err != nil || len(later) == 0 || later[0].Entry.Reference == item.Entry.Reference || !later[0].Entry.Time.After(item.Entry.Time) {
		return item, err
	}
	if !slices.ContainsFunc(later[0].Entry.Identities, func(id ledger.Identity) bool { return id.SPIFFEID == spiffeID }) {
		return ledger.Item{}, fmt.Errorf("entry %d: the look-up table says that it is of %s, the entry does not", later[0].Sequence, spiffeID)
	}
	return later[0], nil
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

// missingPolicy says that a policy has to be loaded before it can be compared
// with.
type missingPolicy struct{ digest [32]byte }

func (m *missingPolicy) Error() string { return fmt.Sprintf("policy %x is not loaded", m.digest[:8]) }

// get is the policy of that digest, if it is loaded; nil when its content is no
// longer kept.
func (p *pastPolicies) get(digest [32]byte) (*policy.Bundle, error) {
	b, ok := p.known[digest]
	if !ok {
		return nil, &missingPolicy{digest}
	}
	p.keep(digest, b) // used last, dropped last
	return b, nil
}

// load reads a policy from the history, and compiles it: seconds, for a large one.
func (p *pastPolicies) load(ctx context.Context, digest [32]byte) error {
	b, err := p.read(ctx, digest)
	if err != nil {
		return err
	}
	p.keep(digest, b)
	return nil
}

func reattest(reason assayv1.Reattest_Reason, within time.Duration) *assayv1.WatchEvent {
	return &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: reason, WithinMs: within.Milliseconds()}}}
}
