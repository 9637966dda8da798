package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/edit"
)

// addedReference is the JSON output of `policy add-reference`.
type addedReference struct {
	File      string       `json:"file"`
	Written   bool         `json:"written"` // false with --dry-run
	Policy    string       `json:"policy"`
	Previous  string       `json:"previous"`
	Set       string       `json:"set"`
	Created   bool         `json:"created"` // the set is new
	Claim     *string      `json:"claim"`   // what the value was measured for
	Value     string       `json:"value"`
	NotBefore *time.Time   `json:"not_before"`
	NotAfter  *time.Time   `json:"not_after"`
	Note      string       `json:"note"`
	Source    string       `json:"source"`
	Line      int          `json:"line"`
	Ended     []endedValue `json:"ended"`
	Warnings  []finding    `json:"warnings"` // those that were not there before
}

// endedValue is a value that was given an end.
type endedValue struct {
	Value    string     `json:"value"`
	Note     string     `json:"note"`
	Line     int        `json:"line"`
	NotAfter time.Time  `json:"not_after"`
	Before   *time.Time `json:"previous_not_after"`
}

// addFlags are what `policy add-reference` is asked for.
type addFlags struct {
	set, value, from, log, claim, note, source, out string
	bank                                            bankValue
	notBefore, notAfter, endOthers                  timeValue
	revision                                        uint64
	create, dryRun                                  bool
}

func policyAddReferenceCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "add-reference FILE --set SET",
		Short: "Add a release to a reference set, and leave the rest of the file as it is",
		Long: `Add a value to a reference set of a policy: the measurement of an image, or a value
that is given. The revision grows. Every other byte of the file stays: comments,
order, layout. What comes out is read again, must say what it said before and the
new value, and replaces the file at once.

--from measures an enclave image (EIF), or takes what 'assay measure … --output
json' printed; --from-event-log measures a TPM's boot log. Which of the values is
meant follows from the rules that use the set; --claim says it where they do not.

--not-before and --not-after are when it is accepted. --end-others gives all other
values of the set an end, so that the new release and the old overlap until then;
those that end before stay as they are.`,
		Example: `  assay policy add-reference policy.yaml --set payments-images --from payments-42.eif --note "release 42"
  assay policy add-reference policy.yaml --set payments-images --from payments-42.eif --not-before 2027-01-15T00:00:00Z --end-others 2027-01-31T00:00:00Z
  assay policy add-reference policy.yaml --set our-chips --value 8f1e2d3c4b5a6978 --note "rack 5" --dry-run`,
		Args: cobra.ExactArgs(1),
	}
	a := addFlags{bank: "sha256"}
	f := c.Flags()
	f.StringVar(&a.set, "set", "", "`NAME` of the reference set")
	f.StringVar(&a.from, "from", "", "`FILE` to measure: an enclave image, or JSON of a measure command")
	f.StringVar(&a.log, "from-event-log", "", "boot event log `FILE` to measure")
	f.Var(&a.bank, "bank", "the bank of PCRs, with --from-event-log: sha256, sha384")
	f.StringVar(&a.value, "value", "", "the `VALUE` itself, as the policy is to have it")
	f.StringVar(&a.claim, "claim", "", "which `CLAIM` of what is measured, such as pcr8; default: the one that the set is used for")
	f.Var(&a.notBefore, "not-before", "the value is accepted from this moment on")
	f.Var(&a.notAfter, "not-after", "the value is accepted up to this moment")
	f.Var(&a.endOthers, "end-others", "the other values of the set are accepted up to this moment")
	f.StringVar(&a.note, "note", "", "a line of `TEXT` that decisions show; default: name and version of the image, where it has them")
	f.StringVar(&a.source, "source", "", "where the value came from, a line of `TEXT`; default: the name of the file")
	f.Uint64Var(&a.revision, "revision", 0, "`REVISION` of the changed policy; default: one more")
	f.BoolVar(&a.create, "create", false, "make the set where the policy has none of this name")
	f.BoolVar(&a.dryRun, "dry-run", false, "say what would change, and change nothing")
	f.StringVar(&a.out, "out", "", "write to this `FILE` instead; - is standard output")
	_ = c.MarkFlagRequired("set") // the flag exists: it was added above
	c.MarkFlagsOneRequired("from", "from-event-log", "value")
	c.MarkFlagsMutuallyExclusive("from", "from-event-log", "value")
	c.MarkFlagsMutuallyExclusive("dry-run", "out")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"bank": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"sha256", "sha384"}, cobra.ShellCompDirectiveNoFileComp
		},
		"set": completeSets,
	} {
		_ = c.RegisterFlagCompletionFunc(flag, complete) // the flags exist
	}
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.run(c, args[0], *output, now())
	}
	return c
}

// completeSets offers the sets of the policy that is named already.
func completeSets(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	src, err := cli.ReadFile(args[0], policy.MaxSize)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return setsOf(strictyaml.OpenLimit(args[0], src, policy.MaxSize).Root()), cobra.ShellCompDirectiveNoFileComp
}

func setsOf(root *strictyaml.Node) []string {
	var out []string
	if sets := root.Get("references"); sets != nil {
		for _, f := range sets.Fields {
			out = append(out, f.Key.Value)
		}
	}
	return out
}

func (a *addFlags) run(c *cobra.Command, file string, output cli.Format, now time.Time) error {
	if file == "-" && a.from == "-" || file == "-" && a.log == "-" {
		return cli.Usagef("give one of them as a file", "policy and image cannot both be standard input")
	}
	src, err := readInput(c, file)
	if err != nil {
		return err
	}
	r := edit.Reference{Set: a.set, Value: a.value, NotBefore: a.notBefore.Time, NotAfter: a.notAfter.Time, Note: a.note, Source: a.source}
	var claim *string
	if a.value == "" {
		if claim, err = a.measure(c, file, src, &r); err != nil {
			return err
		}
	} else if a.claim != "" {
		return cli.Usagef("", "--claim is for what is measured: --value is the value")
	}
	res, err := edit.AddReference(file, src, r, edit.Options{Revision: a.revision, Create: a.create, EndOthers: a.endOthers.Time})
	if err != nil {
		var e *edit.Error
		if errors.As(err, &e) {
			return cli.Usagef(e.Hint, "%w", err)
		}
		return err
	}
	if err := a.write(c, file, res.Source); err != nil {
		return err
	}
	return a.report(c, file, output, now, r, claim, res)
}

// measure fills in value, note and source from a file, and says for which claim.
func (a *addFlags) measure(c *cobra.Command, file string, src []byte, r *edit.Reference) (*string, error) {
	var (
		m   *imageMeasured
		err error
	)
	if a.log != "" {
		m, err = readBootLog(c, a.log, a.bank)
	} else {
		m, err = readMeasured(c, a.from)
	}
	if err != nil {
		return nil, err
	}
	claim, err := a.claimOf(m, strictyaml.OpenLimit(file, src, policy.MaxSize).Root())
	if err != nil {
		return nil, err
	}
	v, ok := m.values[claim]
	if !ok {
		return nil, cli.Usagef("it has "+m.claims(), "%s has no %s", m.file, claim)
	}
	r.Value = v.String()
	if r.Note == "" {
		r.Note = clipTo(strings.Trim(yamlString(m.name), `"`), 200)
	}
	if r.Source == "" && m.file != "-" {
		r.Source = clipTo(strings.Trim(yamlString(m.file), `"`), 200)
	}
	return &claim, nil
}

// claimOf is the claim that a set is used for, among those that were measured.
func (a *addFlags) claimOf(m *imageMeasured, root *strictyaml.Node) (string, error) {
	uses := usesOf(root, a.set)
	var of, others []string
	for _, u := range uses {
		switch {
		case u.tee != string(m.platform):
			others = append(others, u.tee+"'s "+u.claim)
		case !slices.Contains(of, u.claim):
			of = append(of, u.claim)
		}
	}
	switch {
	case len(of) == 0 && len(others) > 0:
		return "", cli.Usagef("name the set for images of "+string(m.platform), "the set %s is used for %s, and %s is an image of %s", a.set, strings.Join(others, ", "), m.file, m.platform)
	case a.claim != "":
		if len(of) > 0 && !slices.Contains(of, a.claim) {
			return "", cli.Usagef("", "the set %s is used for %s, and not for %s", a.set, strings.Join(of, ", "), a.claim)
		}
		return a.claim, nil
	case len(of) == 1:
		return of[0], nil
	case len(of) == 0 && m.primary() != "":
		return m.primary(), nil
	case len(of) == 0:
		return "", cli.Usagef("there are "+m.claims(), "no rule uses the set %s: --claim says which value is meant", a.set)
	}
	return "", cli.Usagef("a set for each claim is easier to read", "the set %s is used for %s: --claim says which value is meant", a.set, strings.Join(of, ", "))
}

// use is a rule that takes its values from a set.
type use struct{ tee, claim string }

func usesOf(root *strictyaml.Node, set string) []use {
	var out []use
	workloads := root.Get("workloads")
	if workloads == nil {
		return nil
	}
	for _, w := range workloads.Items {
		tee, match := w.Get("tee"), w.Get("match")
		if tee == nil || match == nil {
			continue
		}
		for _, rule := range match.Fields {
			for _, matcher := range rule.Value.Fields {
				if matcher.Value.Kind == strictyaml.Scalar && matcher.Value.Value == set {
					out = append(out, use{tee.Value, rule.Key.Value})
				}
			}
		}
	}
	return out
}

// write puts the changed policy where it belongs, with the mode of what was there.
func (a *addFlags) write(c *cobra.Command, file string, content []byte) error {
	to := a.out
	switch {
	case a.dryRun:
		return nil
	case to == "":
		to = file
	}
	if to == "-" {
		return writeOut(c, to, content)
	}
	mode := os.FileMode(0o644) // as an editor would
	if real, err := filepath.EvalSymlinks(to); err == nil {
		to = real // a link stays one
	} else if info, err := os.Lstat(to); err == nil && info.Mode()&os.ModeSymlink != 0 {
		return cli.Usagef("name the file itself", "%s is a link to nothing", to)
	}
	if info, err := os.Stat(to); err == nil {
		mode = info.Mode().Perm()
	}
	return replaceFileAs(to, content, mode)
}

func (a *addFlags) report(c *cobra.Command, file string, output cli.Format, now time.Time, r edit.Reference, claim *string, res *edit.Result) error {
	out := addedReference{
		File: file, Written: !a.dryRun, Policy: res.Bundle.Version(), Previous: res.Before.Version(),
		Set: r.Set, Created: res.Created, Claim: claim, Value: r.Value, NotBefore: known(r.NotBefore.Truncate(time.Second)), NotAfter: known(r.NotAfter.Truncate(time.Second)),
		Note: r.Note, Source: r.Source, Line: res.Line, Ended: []endedValue{}, Warnings: findings(newFindings(res, now)),
	}
	if a.out != "" {
		out.File = a.out
	}
	for _, e := range res.Ended {
		out.Ended = append(out.Ended, endedValue{e.Value, e.Note, e.Line, e.NotAfter, known(e.Until)})
	}
	for _, w := range newFindings(res, now) {
		cli.WarnBlock(c.ErrOrStderr(), w.Render())
	}
	to := c.OutOrStdout()
	if out.File == "-" {
		to = c.ErrOrStderr() // standard output has the policy
	}
	if output == cli.JSON {
		return cli.PrintJSON(to, out)
	}
	return out.print(cli.NewPage(to))
}

// newFindings are the warnings that the change has brought.
func newFindings(res *edit.Result, now time.Time) strictyaml.Errors {
	lint := policy.LintOptions{At: now}
	seen := map[string]int{}
	for _, w := range res.Before.Lint(lint) {
		seen[w.Code+w.Msg]++
	}
	var out strictyaml.Errors
	for _, w := range res.Bundle.Lint(lint) {
		if seen[w.Code+w.Msg]--; seen[w.Code+w.Msg] < 0 {
			out = append(out, w)
		}
	}
	return out
}

func (o *addedReference) print(p *cli.Page) error {
	verb := "added to"
	if o.Created {
		verb = "made"
	}
	if o.Written {
		p.Linef("%s is %s now; it was %s", o.File, o.Policy, o.Previous)
	} else {
		p.Linef("%s would be %s; it is %s, and nothing was written", o.File, o.Policy, o.Previous)
	}
	value := o.Value
	if o.Claim != nil {
		value = *o.Claim + " " + value
	}
	facts := []cli.Fact{{Name: verb, Value: fmt.Sprintf("%s (line %d)", o.Set, o.Line)}, {Name: "value", Value: value}}
	window := func(name string, t *time.Time) {
		if t != nil {
			facts = append(facts, cli.Fact{Name: name, Value: stamp(*t)})
		}
	}
	window("accepted from", o.NotBefore)
	window("accepted until", o.NotAfter)
	if o.Note != "" {
		facts = append(facts, cli.Fact{Name: "note", Value: o.Note})
	}
	p.Facts(facts...)
	if len(o.Ended) > 0 {
		p.Title("End then")
		var rows [][]string
		for _, e := range o.Ended {
			rows = append(rows, []string{stamp(e.NotAfter), fmt.Sprintf("line %d", e.Line), clipTo(e.Value, 24), e.Note})
		}
		p.Table(nil, rows)
	}
	return p.Err()
}
