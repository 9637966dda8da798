package policytest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/policy"
)

// Result is the outcome of one case.
type Result struct {
	Case     *Case
	Decision policy.Decision
	// Differences say what is otherwise than the case wants, a line each; none
	// where it passes.
	Differences []string
}

// Passed reports whether the decision is what the case wants.
func (r Result) Passed() bool { return len(r.Differences) == 0 }

// Check evaluates one case, whose claims are known.
func (c *Case) Check(b *policy.Bundle) Result {
	switch c.Rollout {
	case RolloutIn:
		b = b.AssumeRollout(true)
	case RolloutOut:
		b = b.AssumeRollout(false)
	case RolloutUnknown:
	}
	r := Result{Case: c, Decision: b.Explain(c.Claims, c.At)}
	d, w := &r.Decision, c.Want
	differ := func(format string, a ...any) { r.Differences = append(r.Differences, fmt.Sprintf(format, a...)) }
	if d.Outcome != w.Outcome {
		why := d.Reason
		if d.Detail != "" {
			why += ": " + d.Detail
		}
		if d.Outcome == policy.Granted {
			why = "by workload " + d.Workload
		}
		differ("outcome: want %s, got %s (%s)", w.Outcome, d.Outcome, why)
	}
	if w.Reason != "" && d.Reason != w.Reason {
		differ("reason: want %s, got %s", w.Reason, d.Reason)
	}
	if w.Outcome == policy.Granted {
		c.granted(b, d, differ)
		return r
	}
	if w.Fails != nil {
		c.fails(d, differ)
	} else if w.Workload != "" && !slices.ContainsFunc(d.Workloads, func(x policy.WorkloadResult) bool { return x.Name == w.Workload }) {
		differ("workload: the policy has no workload %s for this TEE", w.Workload)
	}
	return r
}

func (c *Case) granted(b *policy.Bundle, d *policy.Decision, differ func(string, ...any)) {
	w := c.Want
	if d.Outcome != policy.Granted {
		if near := d.NearestFirst(); len(near) > 0 {
			for _, r := range near[0].Rules {
				if !r.Holds {
					differ("  %s %s: expected %s, got %s (%s)", r.Rule, r.Op, r.Expected, r.Got, r.Position)
				}
			}
		}
		return
	}
	if w.Workload != "" && d.Workload != w.Workload {
		differ("workload: want %s, got %s", w.Workload, d.Workload)
	}
	if w.SPIFFEIDs != nil {
		got := []string{}
		for _, id := range b.Entitlement(c.Claims, c.At).Identities {
			got = append(got, id.SPIFFEID)
		}
		slices.Sort(got)
		if !slices.Equal(got, w.SPIFFEIDs) {
			differ("spiffe_ids: want %s, got %s", list(w.SPIFFEIDs), list(got))
		}
	}
	if !w.ValidUntil.IsZero() && (d.ValidUntil == nil || !d.ValidUntil.Equal(w.ValidUntil)) {
		got := "no end"
		if d.ValidUntil != nil {
			got = d.ValidUntil.UTC().Format("2006-01-02T15:04:05Z07:00")
		}
		differ("valid_until: want %s, got %s", w.ValidUntil.UTC().Format("2006-01-02T15:04:05Z07:00"), got)
	}
}

// fails compares which rules do not hold, of the workload that the case names or
// of the nearest.
func (c *Case) fails(d *policy.Decision, differ func(string, ...any)) {
	near := d.NearestFirst()
	if c.Want.Workload != "" {
		near = slices.DeleteFunc(near, func(x policy.WorkloadResult) bool { return x.Name != c.Want.Workload })
	}
	if len(near) == 0 {
		differ("fails: the policy has no such workload for this TEE")
		return
	}
	got := []string{}
	for _, r := range near[0].Rules {
		if !r.Holds {
			got = append(got, r.Rule)
		}
	}
	slices.Sort(got)
	if slices.Equal(got, c.Want.Fails) {
		return
	}
	differ("fails: want %s, got %s of workload %s", list(c.Want.Fails), list(got), near[0].Name)
}

func list(of []string) string {
	if len(of) == 0 {
		return "none"
	}
	return strings.Join(of, ", ")
}

// Verifier verifies recorded evidence as of its time, and returns its claims.
type Verifier func(ctx context.Context, e Evidence, read Reader) (Claims, error)

// Verify verifies the evidence of the cases that have some. The error says which
// case it is of.
func (f *File) Verify(ctx context.Context, v Verifier, read Reader) error {
	done := map[string]Claims{}
	for i := range f.Cases {
		c := &f.Cases[i]
		if c.Evidence == nil {
			continue
		}
		claims, ok := done[c.Evidence.Position]
		if !ok {
			var err error
			if claims, err = v(ctx, *c.Evidence, read); err != nil {
				return fmt.Errorf("%s: case %q: the evidence %s: %w", c.Evidence.Position, c.Name, c.Evidence.File, err)
			}
			done[c.Evidence.Position] = claims
		}
		c.Claims = claims
	}
	return nil
}
