package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/mutate"
	"github.com/assay-project/assay/policy/policytest"
)

// policyMutants is the JSON output of `policy mutate` (docs/reference/cli.md): one
// object for each policy.
type policyMutants struct {
	OK     bool          `json:"ok"`
	File   string        `json:"file"`
	Policy string        `json:"policy"` // "name@revision"
	Cases  int           `json:"cases"`
	Score  float64       `json:"score"` // from 0 to 1
	Claims mutate.Claims `json:"claims"`
	Rules  mutate.Rules  `json:"rules"`
}

func policyMutateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "mutate [FILE…]",
		Short: "Find what a policy admits that it should not, and what its tests would not notice",
		Long: `Make mutants, and list those that survive. FILE is as of assay policy test: the
tests that come with a policy are where it begins.

Of the claims that a case says are granted, mutants are made as an attacker or an
accident would: debug mode, each component of the TCB one less, another privilege
level, another image, signer, machine; each claim that the workload names missing,
zeroed, or another; registers exchanged. A survivor is one that the policy still
admits. What is admitted by design (any image of a signer that is pinned) is
tolerated, and listed with -v.

Of the policy mutants are made with one thing less strict each: a rule dropped, a
bound one step wider, one value more in a set, a waiver or a value without end, an
expression that is true. A survivor is one that no case notices; the claims that
would have told are shown with --claims, to make a case of them. A change that
changes nothing is no survivor.

The exit code is 6 where a mutant survives. A mutant only evaluates: it cannot
grant anything.`,
		Example: `  assay policy mutate policy.yaml
  assay policy mutate -v --claims policy.yaml
  assay policy mutate --output json policies/`,
	}
	var verbose, claims bool
	f := c.Flags()
	f.BoolVarP(&verbose, "verbose", "v", false, "list what is tolerated and what changes nothing, too")
	f.BoolVar(&claims, "claims", false, "print the claims that would tell a survivor")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		suites, err := testSuites(c.Context(), args)
		if err != nil {
			return err
		}
		survivors := 0
		for _, same := range byPolicy(suites) {
			var cases []policytest.Case
			for _, s := range same {
				cases = append(cases, s.File.Cases...)
			}
			bar := newBar(c.ErrOrStderr(), "tried", "mutant")
			r, err := mutate.Run(c.Context(), same[0].Bundle, cases, mutate.Options{Progress: bar.tell})
			bar.wipe()
			switch {
			case errors.Is(err, mutate.ErrFails):
				return &attest.Error{Kind: attest.Denied, Check: "test", Err: err, Hint: "`assay policy test` shows all that fail: mutants are made of what passes"}
			case errors.Is(err, mutate.ErrNoGrant):
				return cli.Usagef("add a case that wants outcome: granted", "%s: %s", same[0].PolicyFile, err)
			case err != nil:
				return err
			}
			survivors += r.Survivors()
			if *output == cli.JSON {
				err = cli.PrintJSON(c.OutOrStdout(), policyMutants{
					OK: r.Survivors() == 0, File: same[0].PolicyFile, Policy: r.Policy, Cases: r.Cases, Score: r.Score(), Claims: r.Claims, Rules: r.Rules,
				})
			} else {
				err = printMutants(cli.NewPage(c.OutOrStdout()), same[0].PolicyFile, r, verbose, claims)
			}
			if err != nil {
				return err
			}
		}
		if survivors == 0 {
			return nil
		}
		if *output == cli.JSON {
			return &cli.Silent{Code: cli.Denied}
		}
		return &attest.Error{
			Kind: attest.Denied, Check: "mutate", Err: errors.New(cli.Count(survivors, "mutant survives", "mutants survive")),
			Hint: "make the policy stricter, or add a case that notices: --claims prints claims for one",
		}
	}
	return c
}

// byPolicy puts the tests about one policy together, in the order of the first of
// each.
func byPolicy(suites []*policytest.Suite) [][]*policytest.Suite {
	var out [][]*policytest.Suite
	at := map[string]int{}
	for _, s := range suites {
		name := filepath.Clean(s.PolicyFile)
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name], out = i, append(out, nil)
		}
		out[i] = append(out[i], s)
	}
	return out
}

func printMutants(p *cli.Page, file string, r *mutate.Report, verbose, claims bool) error {
	p.Linef("%s: %s, %s: score %.1f %% (%d of %d mutants)", file, r.Policy, cli.Count(r.Cases, "case"), 100*r.Score(), r.Counted()-r.Survivors(), r.Counted())
	p.Facts(
		cli.Fact{Name: "claims", Value: fmt.Sprintf("%s: %d refused, %d tolerated, %d survive", cli.Count(r.Claims.Mutants, "mutant"), r.Claims.Refused, len(r.Claims.Tolerated), len(r.Claims.Survivors))},
		cli.Fact{Name: "policy", Value: fmt.Sprintf("%s: %d noticed, %d change nothing, %d survive", cli.Count(r.Rules.Mutants, "mutant"), r.Rules.Noticed, len(r.Rules.Equivalent), len(r.Rules.Survivors))},
	)
	for _, s := range r.Claims.Survivors {
		p.Linef("ADMITTED  %s: by workload %s, of the case %q (%s)", s.Mutant, s.Workload, s.Case, s.Position)
		counterexample(p, s.Claims, s.At, claims)
	}
	for _, s := range r.Rules.Survivors {
		p.Linef("UNNOTICED  %s: %s %s (%s): %s", s.Workload, s.Rule, s.Change, s.Position, s.Why)
		if s.Claims != nil {
			counterexample(p, *s.Claims, *s.At, claims)
		}
	}
	if !verbose {
		return p.Err()
	}
	for _, s := range r.Claims.Tolerated {
		p.Linef("tolerated  %s: by workload %s, of the case %q: %s", s.Mutant, s.Workload, s.Case, s.Why)
	}
	for _, s := range r.Rules.Equivalent {
		p.Linef("no change  %s: %s %s (%s): %s", s.Workload, s.Rule, s.Change, s.Position, s.Why)
	}
	return p.Err()
}
