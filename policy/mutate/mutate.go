package mutate

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/diff"
	"github.com/assay-project/assay/policy/policytest"
)

// Report says what a policy and its tests let pass.
type Report struct {
	Policy string `json:"policy"` // "name@revision"
	Cases  int    `json:"cases"`
	Claims Claims `json:"claims"`
	Rules  Rules  `json:"rules"`
}

// Claims are the mutants of claims.
type Claims struct {
	Mutants   int           `json:"mutants"`
	Refused   int           `json:"refused"`
	Tolerated []ClaimResult `json:"tolerated"`
	Survivors []ClaimResult `json:"survivors"`
}

// Rules are the mutants of the policy.
type Rules struct {
	Mutants    int          `json:"mutants"`
	Noticed    int          `json:"noticed"`
	Equivalent []RuleResult `json:"equivalent"`
	Survivors  []RuleResult `json:"survivors"`
}

// ClaimResult is a mutant of claims that the policy admits.
type ClaimResult struct {
	Case     string        `json:"case"` // whose claims it was made of
	Position string        `json:"position"`
	Mutant   string        `json:"mutant"`
	Workload string        `json:"workload"` // that admits it
	Why      string        `json:"why"`      // it is tolerated
	At       time.Time     `json:"at"`
	Claims   attest.Claims `json:"claims"`
}

// RuleResult is a mutant of the policy that no test notices.
type RuleResult struct {
	Workload string `json:"workload"`
	Rule     string `json:"rule"`
	Change   string `json:"change"`
	Position string `json:"position"`
	Why      string `json:"why"`
	// About Claims at At the mutant says something else than the policy, which
	// refuses them in most cases: a case with them would notice. nil where none was
	// found.
	At     *time.Time     `json:"at"`
	Claims *attest.Claims `json:"claims"`
}

// Survivors is the number of mutants that should not have passed.
func (r *Report) Survivors() int { return len(r.Claims.Survivors) + len(r.Rules.Survivors) }

// Counted is the number of mutants, without those that are meant or change nothing.
func (r *Report) Counted() int {
	return r.Claims.Mutants - len(r.Claims.Tolerated) + r.Rules.Mutants - len(r.Rules.Equivalent)
}

// Score is the share of the mutants that count that did not survive, from 0 to 1.
func (r *Report) Score() float64 {
	if r.Counted() == 0 {
		return 1
	}
	return float64(r.Counted()-r.Survivors()) / float64(r.Counted())
}

// Options of a run.
type Options struct {
	// Progress is told how many mutants have been tried; may be nil.
	Progress func(done, total int)
}

// ErrNoGrant is returned where no case grants: there are no claims to begin with.
var ErrNoGrant = errors.New("no case grants: there are no claims of which mutants could be made")

// ErrFails is returned where a case fails before anything is changed.
var ErrFails = errors.New("the tests fail as they are")

// Run makes mutants of the claims of the cases that grant, and of the policy. The
// cases are those of all files of tests about the policy, with their claims known.
func Run(ctx context.Context, b *policy.Bundle, cases []policytest.Case, opts Options) (*Report, error) {
	r := &Report{
		Policy: b.Version(), Cases: len(cases),
		Claims: Claims{Tolerated: []ClaimResult{}, Survivors: []ClaimResult{}},
		Rules:  Rules{Equivalent: []RuleResult{}, Survivors: []RuleResult{}},
	}
	model := b.Model()
	grants := 0
	for i := range cases {
		c := &cases[i]
		x := c.Check(b)
		if !x.Passed() {
			return nil, fmt.Errorf("%w: %s: %s: %s", ErrFails, c.Position, c.Name, x.Differences[0])
		}
		if x.Decision.Outcome != policy.Granted {
			continue
		}
		grants++
		at := slices.IndexFunc(model.Workloads, func(w *policy.ModelWorkload) bool { return w.Name == x.Decision.Workload })
		r.claims(b, c, granted{c.Claims, model.Workloads[at]})
	}
	if grants == 0 {
		return nil, ErrNoGrant
	}
	return r, r.rules(ctx, b, cases, opts)
}

// claims asks the policy about the mutants of one case's claims.
func (r *Report) claims(b *policy.Bundle, c *policytest.Case, g granted) {
	for _, m := range g.mutants() {
		if reflect.DeepEqual(m.Claims, policy.CloneClaims(g.claims)) {
			continue // it is so already: keys in software, for whom that is good
		}
		r.Claims.Mutants++
		one := *c
		one.Claims = m.Claims
		d := one.Check(b).Decision
		if d.Outcome != policy.Granted {
			r.Claims.Refused++
			continue
		}
		x := ClaimResult{Case: c.Name, Position: c.Position, Mutant: m.Name, Workload: d.Workload, At: c.At, Claims: m.Claims}
		why, ok := g.tolerated(m)
		if x.Why = why; ok {
			r.Claims.Tolerated = append(r.Claims.Tolerated, x)
		} else {
			r.Claims.Survivors = append(r.Claims.Survivors, x)
		}
	}
}

// rules asks the tests about the mutants of the policy.
func (r *Report) rules(ctx context.Context, b *policy.Bundle, cases []policytest.Case, opts Options) error {
	all := b.Mutants()
	from := cases[0].At
	for _, c := range cases {
		if c.At.Before(from) {
			from = c.At
		}
	}
	for i, m := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if opts.Progress != nil {
			opts.Progress(i, len(all))
		}
		r.Rules.Mutants++
		var changed *policy.Bundle // made when a case may notice
		noticed := slices.ContainsFunc(cases, func(c policytest.Case) bool {
			if !m.Touches(c.Claims, c.At) {
				return false
			}
			if changed == nil {
				changed = m.Bundle()
			}
			return !c.Check(changed).Passed()
		})
		if noticed {
			r.Rules.Noticed++
			continue
		}
		if changed == nil {
			changed = m.Bundle()
		}
		if err := r.survivor(ctx, b, changed, m, from); err != nil {
			return err
		}
	}
	return nil
}

// survivor finds claims that would have told the mutant from the policy.
func (r *Report) survivor(ctx context.Context, b, changed *policy.Bundle, m policy.Mutant, from time.Time) error {
	x := RuleResult{Workload: m.Workload, Rule: m.Claim, Change: m.Change, Position: m.Position}
	d, err := diff.Compare(ctx, b, changed, diff.Options{From: from})
	if err != nil {
		return err
	}
	switch {
	case len(d.Widenings) > 0:
		w := d.Widenings[0]
		x.Why, x.At, x.Claims = "no case shows claims that only this refuses", &w.At, &w.Claims
	case len(d.Narrowings) > 0:
		w := d.Narrowings[0]
		x.Why, x.At, x.Claims = "no case shows claims that only this would deny, as ambiguous", &w.At, &w.Claims
	case d.Same():
		x.Why = "the other rules refuse all that it refuses"
		r.Rules.Equivalent = append(r.Rules.Equivalent, x)
		return nil
	default:
		x.Why = "no case notices, and no claims were found that would tell"
	}
	r.Rules.Survivors = append(r.Rules.Survivors, x)
	return nil
}
