package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifiers"
)

// ReasonBanned is the reason of a decision that a ban made; its detail names the
// ban. The agent is told what every denial says.
const ReasonBanned = "banned"

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// errBanned is a refusal because of a ban. Text and check of the answer are those
// of every denial by policy.
func errBanned(b *store.Ban) error {
	return &attest.Error{Kind: attest.Denied, Check: "banned", Err: &withheld{"policy does not grant this", fmt.Errorf("%s (%s): %s", b.ID, b.Kind, b.Reason)}}
}

// notBanned is asked for claims that verified, before policy is; and again with
// the SPIFFE IDs that it would grant. The set that was asked tells later whether
// anything changed meanwhile.
func (s *Server) notBanned(c attest.Claims, ids ...string) (*banSet, *store.Ban, error) {
	if err := s.bans.stale(); err != nil {
		return nil, nil, err
	}
	set := s.bans.current.Load()
	return set, set.hit(s.now(), c, ids...), nil
}

// banned puts a refusal because of a ban on record, as a denial with what policy
// would have said beside it: so it takes about as long as one, too.
func (a *attestation) banned(ctx context.Context, v *verifiers.Verified, b *store.Ban) error {
	d := a.policy.Current().Evaluate(v.Claims(), a.now())
	d.Outcome, d.Reason, d.Detail = policy.Refused, ReasonBanned, clip(fmt.Sprintf("%s, by %s %s: %s", b.ID, b.Kind, b.Value, b.Reason), 1024)
	d.Workload, d.ValidUntil, d.Ownership = "", nil, false
	a.recordDenial(ctx, v, d)
	return errBanned(b)
}

// grantedIDs are the SPIFFE IDs of a grant.
func grantedIDs(g *policy.Grant) []string {
	issues := g.Issues()
	out := make([]string, len(issues))
	for i, is := range issues {
		out[i] = is.Identity.SPIFFEID
	}
	return out
}

// BansChanged has the server read who is banned: another server changed it, or
// what it changed may not have been heard. It never blocks.
func (s *Server) BansChanged() { s.bans.changed() }

// banning keeps what the server knows of bans as new as the store, until ctx ends,
// and has those looked at whom a change may concern.
func (s *Server) banning(ctx context.Context) error {
	tick := time.NewTicker(banPoll)
	defer tick.Stop()
	failing := false
	for {
		different, err := s.bans.read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if !failing {
				s.log.ErrorContext(ctx, "who is banned cannot be read", "error", err, "serving_for", banStaleness)
			}
			failing = true
		default:
			failing = false
			if different {
				s.watchers.lookAgain(false)
			}
			s.bans.keepSoon()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.bans.changes:
		}
	}
}

// denying keeps the deny-list, until ctx ends. It may take long, and holds up
// nothing else.
func (s *Server) denying(ctx context.Context) error {
	swept := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.bans.keep:
			swept = s.keepDenied(ctx, swept)
		}
	}
}

// settle is how long after a ban SVIDs are still looked for that were allowed by
// a server that had not heard of it.
const settle = 2 * time.Minute

// keepDenied has what falls under standing bans in the deny-list, and the list
// signed. Everything is looked through once after a start: the server that banned
// may have been killed before it had.
func (s *Server) keepDenied(ctx context.Context, swept bool) bool {
	set, now := s.bans.current.Load(), s.now()
	var rules []*banRule
	from := now
	for i := range set.rules {
		r := &set.rules[i]
		if r.Stands(now) && (!swept || now.Sub(r.Since) < settle) {
			rules = append(rules, r)
			from = earlier(from, r.Since.Add(-settle))
		}
	}
	f := store.FindHeld{EndsAfter: now}
	if swept {
		f.MadeAfter = from
	}
	ok := true
	if len(rules) > 0 {
		if _, err := s.denyHolders(ctx, rules, f); err != nil {
			ok = false
			if ctx.Err() == nil {
				s.log.ErrorContext(ctx, "what bans hit cannot be found yet", "error", err)
			}
		}
	}
	err := s.renewDenyList(ctx)
	if before := s.denyListProblem.Swap(&problem{err}); err != nil && ctx.Err() == nil && (before == nil || before.err == nil || before.err.Error() != err.Error()) {
		s.log.ErrorContext(ctx, "the deny-list cannot be renewed", "error", err)
	}
	return swept || ok
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// problem is an error that an operator should look at, or none.
type problem struct{ err error }

// holding is whom bans hit: instances in the order of their last attestation, and
// their SVIDs.
type holding struct {
	instances []string
	rows      []store.Revocation
}

// holders finds the SVIDs among those that f selects which fall under one of the
// rules.
func (s *Server) holders(ctx context.Context, rules []*banRule, f store.FindHeld) (holding, error) {
	var out holding
	if len(rules) == 1 { // what the look-up columns know narrows the search
		switch r := rules[0]; r.Kind {
		case store.BanInstance:
			if guest := attest.Instance(r.Value).Guest(); guest != r.Value {
				f.Prefix = guest
			} else {
				f.Instance = r.Value
			}
		case store.BanSPIFFEID:
			f.SPIFFEID = r.Value
		case store.BanHardware, store.BanExpr:
		}
	}
	byClaims := slices.ContainsFunc(rules, func(r *banRule) bool { return r.Kind == store.BanHardware || r.Kind == store.BanExpr })
	seen := map[string]bool{}
	known := map[string]attest.Claims{} // of the entry before
	for h, err := range store.EachHeld(ctx, s.bans.st, s.td.Name(), f) {
		if err != nil {
			return out, err
		}
		claims, ok := known[h.Reference]
		damaged := false
		if !ok && byClaims {
			if claims, damaged, err = s.claimsOf(ctx, h); err != nil {
				return out, err
			}
			if clear(known); !damaged {
				known[h.Reference] = claims
			}
		}
		for _, r := range rules {
			hit := false
			switch r.Kind {
			case store.BanInstance:
				hit = attest.Instance(h.Instance).Guest() == attest.Instance(r.Value).Guest()
			case store.BanSPIFFEID:
				hit = h.SPIFFEID == r.Value
			case store.BanHardware, store.BanExpr:
				hit = damaged || r.hits(claims, nil)
			}
			if !hit {
				continue
			}
			if !seen[h.Instance] {
				seen[h.Instance] = true
				out.instances = append(out.instances, h.Instance)
			}
			out.rows = append(out.rows, store.Revocation{
				TrustDomain: s.td.Name(), Serial: h.Serial, Ban: r.ID, KeyThumbprint: h.KeyThumbprint, NotAfter: h.NotAfter,
				Reason: r.Reason, Actor: r.Actor, At: s.now(),
			})
		}
	}
	return out, nil
}

// claimsOf is what the ledger says of an SVID. Where it says nothing that can be
// believed, every ban by claims hits: who could damage a row would hide himself, and
// with an error here everybody else too. That the database is away is an error.
func (s *Server) claimsOf(ctx context.Context, h store.HeldIdentity) (_ attest.Claims, damaged bool, err error) {
	facts, err := s.held.of(ctx, s.ledger, h.Serial)
	if err == nil {
		return facts.claims, false, nil
	}
	if attest.KindOf(err) == attest.Unavailable || ctx.Err() != nil {
		return attest.Claims{}, false, err
	}
	// Again, and with a look at whether the database answers at all.
	if _, perr := s.bans.st.HeldIdentities(ctx, s.td.Name(), store.FindHeld{Serial: h.Serial, Limit: 1}); perr != nil {
		return attest.Claims{}, false, perr
	}
	if facts, err = s.held.of(ctx, s.ledger, h.Serial); err == nil {
		return facts.claims, false, nil
	}
	if attest.KindOf(err) == attest.Unavailable || ctx.Err() != nil {
		return attest.Claims{}, false, err
	}
	s.log.ErrorContext(ctx, "the entry of an SVID cannot be read: every ban by claims hits it", "serial", h.Serial, "chain", h.Chain, "sequence", h.Sequence, "error", err)
	return attest.Claims{}, true, nil
}

// denyHolders takes back what holders finds. What is taken back already is left
// alone.
func (s *Server) denyHolders(ctx context.Context, rules []*banRule, f store.FindHeld) (holding, error) {
	found, err := s.holders(ctx, rules, f)
	if err != nil {
		return found, err
	}
	set := s.bans.current.Load()
	var rows []store.Revocation
	for _, r := range found.rows {
		if set == nil || !slices.Contains(set.revoked[r.Serial], revokedBy{r.Ban}) {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return found, nil
	}
	for batch := range slices.Chunk(rows, 1000) {
		if _, err := s.bans.st.AddRevocations(ctx, batch); err != nil {
			return found, err
		}
	}
	s.bans.changed()
	return found, nil
}
