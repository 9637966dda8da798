package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/diff"
)

// policyDiff is the JSON output of `policy diff` (docs/reference/cli.md).
type policyDiff struct {
	Same       bool              `json:"same"`
	A          diff.Policy       `json:"a"`
	B          diff.Policy       `json:"b"`
	From       time.Time         `json:"from"`
	Widenings  []diff.Difference `json:"widenings"`
	Narrowings []diff.Difference `json:"narrowings"`
	Changes    []diff.Change     `json:"changes"`
	Undecided  []diff.Undecided  `json:"undecided"`
	FailedOn   []string          `json:"failed_on"`
}

// diffWords are what --fail-on takes.
var diffWords = []string{"widening", "narrowing", "change", "undecided"}

func policyDiffCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "Say what policy B would admit that A refuses, and the reverse",
		Long: `Compare two policies by what they admit, not by their text: what B admits that A
refuses (a widening), what A admits that B refuses (a narrowing), and what changes
for claims that both admit: identities, lifetimes, audiences, attributes, selectors,
what results show, the end. Each comes with claims that show it, about which both
policies were asked.

Order, names of sets, notes, and what is said in other words are no difference. Only
what is so from --from on counts, now if it is not given. Expressions are compared
by trying claims at which they are likely to turn: where none tells two apart that
are not written the same, that is undecided, and said so.

A and B may be plain or signed; who signed is not looked at. Exit code 6 is for
--fail-on alone.`,
		Example: `  assay policy diff policy.yaml draft.yaml
  assay policy diff policy.yaml draft.yaml --fail-on widening,undecided
  assay policy diff old.signed new.signed --output json
  assay policy diff policy.yaml draft.yaml --from 2027-02-01T00:00:00Z --claims`,
		Args: cobra.ExactArgs(2),
	}
	var from timeValue
	var failOn []string
	var claims bool
	f := c.Flags()
	f.Var(&from, "from", "compare from this time on instead of now")
	f.StringSliceVar(&failOn, "fail-on", nil, "end with exit code 6 on any of this `LIST`: "+strings.Join(diffWords, ", "))
	f.BoolVar(&claims, "claims", false, "print the claims of each counterexample")
	// The flag exists: it was added above.
	_ = c.RegisterFlagCompletionFunc("fail-on", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return diffWords, cobra.ShellCompDirectiveNoFileComp
	})
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		for _, x := range failOn {
			if !slices.Contains(diffWords, x) {
				return cli.Usagef("a list of "+strings.Join(diffWords, ", "), "--fail-on %q", x)
			}
		}
		var bundles [2]*policy.Bundle
		for i, file := range args {
			raw, err := readDocument(c, file)
			if err != nil {
				return err
			}
			if bundles[i], err = compileDocument(file, raw); err != nil {
				return err
			}
		}
		bar := newBar(c.ErrOrStderr(), "compared", "workload")
		r, err := diff.Compare(c.Context(), bundles[0], bundles[1], diff.Options{From: from.or(now), Progress: bar.tell})
		bar.wipe()
		if err != nil {
			return err
		}
		out := policyDiff{
			Same: r.Same(), A: r.A, B: r.B, From: r.From, Widenings: r.Widenings, Narrowings: r.Narrowings,
			Changes: r.Changes, Undecided: r.Undecided, FailedOn: []string{},
		}
		counts := map[string]int{"widening": len(r.Widenings), "narrowing": len(r.Narrowings), "change": len(r.Changes), "undecided": len(r.Undecided)}
		for _, x := range diffWords {
			if slices.Contains(failOn, x) && counts[x] > 0 {
				out.FailedOn = append(out.FailedOn, x)
			}
		}
		if *output == cli.JSON {
			if err := cli.PrintJSON(c.OutOrStdout(), out); err != nil {
				return err
			}
			if len(out.FailedOn) > 0 {
				return &cli.Silent{Code: cli.Denied}
			}
			return nil
		}
		if err := printDiff(cli.NewPage(c.OutOrStdout()), r, claims); err != nil {
			return err
		}
		if len(out.FailedOn) > 0 {
			return &attest.Error{Kind: attest.Denied, Check: "diff", Err: errors.New("--fail-on: " + strings.Join(out.FailedOn, ", ")), Hint: "each is listed with claims that show it; --claims prints them"}
		}
		return nil
	}
	return c
}

func printDiff(p *cli.Page, r *diff.Report, claims bool) error {
	if r.Same() {
		p.Linef("SAME: %s and %s admit the same from %s on, and grant it the same", r.A.Policy, r.B.Policy, stamp(r.From))
		return p.Err()
	}
	p.Linef("%s to %s, from %s on: %s, %s, %s, %d undecided", r.A.Policy, r.B.Policy, stamp(r.From), cli.Count(len(r.Widenings), "widening"),
		cli.Count(len(r.Narrowings), "narrowing"), cli.Count(len(r.Changes), "change"), len(r.Undecided))
	show := func(title string, ds []diff.Difference, refuses string) {
		for _, d := range ds {
			p.Title("%s by workload %s (%s)", title, d.Workload, d.TEE)
			for _, w := range d.What {
				p.Linef("  %s", w)
			}
			p.Facts(cli.Fact{Name: "when", Value: stretch(d.From, d.Until)}, cli.Fact{Name: refuses + " says", Value: d.Why})
			counterexample(p, d.Claims, d.At, claims)
		}
	}
	show("B ADMITS what A refuses,", r.Widenings, "A")
	show("B REFUSES what A admits", r.Narrowings, "B")
	for _, x := range r.Changes {
		whose := "by workload " + x.B
		if x.A != x.B {
			whose += ", was " + x.A
		}
		p.Title("B GRANTS otherwise %s (%s)", whose, x.TEE)
		for _, w := range x.What {
			p.Linef("  %s", w)
		}
		p.Facts(cli.Fact{Name: "when", Value: stretch(x.From, x.Until)})
		counterexample(p, x.Claims, x.At, claims)
	}
	for _, u := range r.Undecided {
		p.Title("UNDECIDED: workload %s of %s (%s)", u.Workload, u.In, u.TEE)
		p.Linef("  %s", u.Why)
		for _, w := range u.What {
			p.Linef("    %s", w)
		}
	}
	return p.Err()
}

func stretch(from time.Time, until *time.Time) string {
	if until == nil {
		return "from " + stamp(from) + " on"
	}
	return "from " + stamp(from) + " up to " + stamp(*until)
}

// counterexample prints claims as JSON, which `claims: {file: …}` of a test reads.
func counterexample(p *cli.Page, c attest.Claims, at time.Time, all bool) {
	if !all {
		return
	}
	b, err := json.Marshal(c)
	if err != nil {
		return // claims have a form in JSON
	}
	p.Linef("  for example, at %s: %s", stamp(at), b)
}

// bar shows on a terminal how much is done, on one line that is wiped at the end.
type bar struct {
	w          io.Writer
	verb, noun string
	next       time.Time
	shown      bool
}

const barEvery = 200 * time.Millisecond

func newBar(w io.Writer, verb, noun string) *bar {
	if !cli.IsTerminal(w) {
		w = nil
	}
	return &bar{w: w, verb: verb, noun: noun, next: time.Now().Add(barEvery)}
}

func (b *bar) tell(done, total int) {
	if now := time.Now(); b.w != nil && now.After(b.next) {
		b.next, b.shown = now.Add(barEvery), true
		_, _ = fmt.Fprintf(b.w, "\r%s %d of %s", b.verb, done, cli.Count(total, b.noun))
	}
}

func (b *bar) wipe() {
	if b.shown {
		_, _ = fmt.Fprintf(b.w, "\r%60s\r", "")
	}
}
