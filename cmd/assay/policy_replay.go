package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/replay"
)

// replayed is the JSON output of `policy replay`. Report is that of the package
// policy/replay, and docs/design/replay.md describes it.
type replayed struct {
	Source   string        `json:"source"` // "server", or the database's or directory's name
	Since    *time.Time    `json:"since"`
	Until    *time.Time    `json:"until"`
	Warnings []string      `json:"warnings"`
	FailedOn []string      `json:"failed_on"` // which of --fail-on came true
	Report   replay.Report `json:"report"`
}

// replayFlags are the flags of `policy replay`.
type replayFlags struct {
	source    replaySourceFlags
	against   string
	at        replayTime
	againstAt replayTime
	since     replayTime
	until     replayTime
	secret    string
	assumed   assumeValue
	failOn    []string
	explain   string
	each      bool
	members   int
}

func policyReplayCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "replay DRAFT",
		Short: "Try a draft on what a server has recorded: who keeps, loses or gains an identity",
		Long: `Decide by a draft about everybody who attested, as a server recorded it, and
say who would keep an identity, lose, gain or change one: grouped by workload, with
counts, an example for each, and the rules that decide it. The draft may be plain or
signed. Nothing on the server changes.

The records are those of a running server (--admin), of its database (--db, read
only, for its owner), or of files (--dir: what 'assay ledger list --output json' and
'assay evidence verify --output json' wrote, claims, and evidence with --tee). Claims
suffice: evidence that is no longer kept is not missed.

Compared is what the server decided then, with the policy of then as far as it is
kept; or, with --against, what another policy would decide: a FILE, or in-force for
the one that the server has now. The draft decides as of now, or of --at: with a
date in the future it shows what expires until then; "recorded" is each record's own
time. An environment that attested many times with the same claims counts once, by
its newest record.

Whom a rollout admits only the server's secret tells: --rollout-secret reads it,
--assume-rollout does without; otherwise those are undecided.

With --fail-on the exit code is 6 where somebody loses, gains, … (a list): for CI.`,
		Example: `  assay policy replay draft.yaml
  assay policy replay draft.yaml --against in-force --since 30d --fail-on lose,gain
  assay policy replay policy.yaml --at 2027-02-01
  assay policy replay draft.yaml --db /var/lib/assay/assay.db --output json
  assay policy replay draft.yaml --explain as-7k2m4qxw3p`,
		Args: cobra.ExactArgs(1),
	}
	o := replayFlags{since: replayTime{ages: true}, until: replayTime{ages: true}}
	o.source.add(c)
	f := c.Flags()
	f.StringVar(&o.against, "against", "", "compare with this policy `FILE`, or with in-force, instead of what was decided then")
	f.Var(&o.at, "at", "decide as of this time: a date, a moment, or recorded")
	f.Var(&o.againstAt, "against-at", "the time for --against, if not now: a date or a moment")
	f.Var(&o.since, "since", "only records from then on: a date, a moment, or an age as in 30d or 12h")
	f.Var(&o.until, "until", "only records before then, likewise")
	f.StringVar(&o.secret, "rollout-secret", "", "`FILE` with the server's secret of rollouts: rollout.secret in its data directory")
	f.Var(&o.assumed, "assume-rollout", "take rollouts as admitting everybody, or nobody")
	f.StringSliceVar(&o.failOn, "fail-on", nil, "end with exit code 6 on any of this `LIST`: "+strings.Join(failWords, ", "))
	cli.Complete(c, "fail-on", failWords...)
	cli.Complete(c, "assume-rollout", "in", "out")
	f.StringVar(&o.explain, "explain", "", "print the draft's whole explanation of one record, by its `REFERENCE`")
	f.BoolVar(&o.each, "each", false, "count each attestation for itself, not each distinct set of claims")
	f.IntVar(&o.members, "members", 5, "list so many instances of each group, the newest first; -1 lists all")
	c.MarkFlagsMutuallyExclusive("rollout-secret", "assume-rollout")
	c.MarkFlagsMutuallyExclusive("explain", "fail-on")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.run(c, args[0], now().UTC().Truncate(time.Second), *output)
	}
	return c
}

func (o *replayFlags) run(c *cobra.Command, draft string, now time.Time, output cli.Format) error {
	for _, x := range o.failOn {
		if !slices.Contains(failWords, x) {
			return cli.Usagef("a list of "+strings.Join(failWords, ", "), "--fail-on %q", x)
		}
	}
	opt, err := o.options(c, draft, now)
	if err != nil {
		return err
	}
	src, err := o.source.open(c, now)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // only read
	td, err := src.trustDomain(c.Context())
	if err != nil {
		return err
	}
	if td != "" && td != opt.Draft.TrustDomain() {
		return cli.Usagef("one server serves one trust domain", "%s is for trust domain %q, what was recorded is of %q", draft, opt.Draft.TrustDomain(), td)
	}
	if o.against != "" {
		if opt.Against, err = o.current(c, src); err != nil {
			return err
		}
	}
	then := &policiesOfThen{ctx: c.Context(), source: src}
	opt.Policies = then.find
	if o.explain != "" {
		return o.explainOne(c, src, opt, output)
	}
	m := &meter{w: c.ErrOrStderr(), show: cli.IsTerminal(c.ErrOrStderr())}
	report, err := replay.Run(c.Context(), m.watch(src.records(c.Context(), opt.Since, opt.Until, m)), opt)
	m.wipe()
	if err != nil {
		return err
	}
	out := replayed{Source: src.name(), Since: timeOrNil(opt.Since), Until: timeOrNil(opt.Until), Warnings: o.warnings(report, then), FailedOn: []string{}, Report: *report}
	for _, x := range failWords {
		if slices.Contains(o.failOn, x) && failed(x, report) {
			out.FailedOn = append(out.FailedOn, x)
		}
	}
	for _, w := range out.Warnings {
		cli.Warn(c.ErrOrStderr(), "%s", w)
	}
	if output == cli.JSON {
		if err := cli.PrintJSON(c.OutOrStdout(), out); err != nil {
			return err
		}
		if len(out.FailedOn) > 0 {
			return &cli.Silent{Code: cli.Denied}
		}
		return nil
	}
	if err := printReplayed(cli.NewPage(c.OutOrStdout()), out); err != nil {
		return err
	}
	if len(out.FailedOn) > 0 {
		return &attest.Error{Kind: attest.Denied, Check: "replay", Err: errors.New("--fail-on: " + inWords(out.FailedOn, report)), Hint: "the groups above say who, and which rules decide it"}
	}
	return nil
}

// options reads the policies and the times.
func (o *replayFlags) options(c *cobra.Command, draft string, now time.Time) (replay.Options, error) {
	var opt replay.Options
	raw, err := readDocument(c, draft)
	if err != nil {
		return opt, err
	}
	if opt.Draft, err = compileDocument(draft, raw); err != nil {
		return opt, err
	}
	if opt.Draft, err = o.drawing(c, opt.Draft); err != nil {
		return opt, err
	}
	if o.since.recorded || o.until.recorded || o.againstAt.recorded {
		return opt, cli.Usagef("for example 2026-11-01, or 30d", "only --at can be recorded")
	}
	if o.against == "" && o.againstAt.set {
		return opt, cli.Usagef("for example --against in-force", "--against-at needs --against")
	}
	opt.AtRecorded = o.at.recorded
	opt.At, opt.AgainstAt = o.at.or(now, now), o.againstAt.or(now, now)
	opt.Since, opt.Until = o.since.or(now, time.Time{}), o.until.or(now, time.Time{})
	if !opt.Since.IsZero() && !opt.Until.IsZero() && !opt.Since.Before(opt.Until) {
		return opt, cli.Usagef("", "--since %s is not before --until %s", stamp(opt.Since), stamp(opt.Until))
	}
	opt.Each, opt.Members = o.each, o.members
	return opt, nil
}

// drawing gives a policy what it needs to decide about rollouts.
func (o *replayFlags) drawing(c *cobra.Command, b *policy.Bundle) (*policy.Bundle, error) {
	switch {
	case o.assumed != "":
		return b.AssumeRollout(o.assumed == "in"), nil
	case o.secret == "":
		return b, nil
	}
	text, err := readInput(c, o.secret)
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err == nil {
		b, err = b.WithSecret(secret)
	}
	if err != nil {
		// What the file holds is not repeated: it may be half a secret.
		return nil, cli.Usagef("it is rollout.secret in the server's data directory", "--rollout-secret %s does not hold a secret of %d bytes in hex", o.secret, policy.SecretSize)
	}
	return b, nil
}

// inForceName is --against for the policy that the server has in force.
const inForceName = "in-force"

// current is the policy to compare with.
func (o *replayFlags) current(c *cobra.Command, src replaySource) (*policy.Bundle, error) {
	name := o.against
	var raw []byte
	var err error
	if name == inForceName {
		raw, name, err = src.inForce(c.Context())
	} else {
		raw, err = readDocument(c, name)
	}
	if err != nil {
		return nil, err
	}
	b, err := compileDocument(name, raw)
	if err != nil {
		return nil, err
	}
	return o.drawing(c, b)
}

// The words of --fail-on.
const (
	failLose       = "lose"
	failGain       = "gain"
	failChange     = "change"
	failUndecided  = "undecided"
	failRefuse     = "refuse"
	failPartial    = "partial"
	failUnreadable = "unreadable"
	failEmpty      = "empty"
)

// failWords are what --fail-on takes.
var failWords = []string{failLose, failGain, failChange, failUndecided, failRefuse, failPartial, failUnreadable, failEmpty}

func failed(what string, r *replay.Report) bool {
	some := func(cs ...replay.Change) bool {
		return slices.ContainsFunc(cs, func(c replay.Change) bool { return r.Of(c).Distinct > 0 })
	}
	switch what {
	case failLose:
		return some(replay.Loses, replay.Exchanges)
	case failGain:
		return some(replay.Gains, replay.Exchanges)
	case failChange:
		return some(replay.Changes)
	case failUndecided:
		return some(replay.Undecides)
	case failRefuse:
		return some(replay.Refused)
	case failPartial:
		return r.Partial > 0
	case failUnreadable:
		return r.Unreadable > 0
	case failEmpty:
		return r.Attestations == 0
	}
	return false
}

// inWords says what came true.
func inWords(words []string, r *replay.Report) string {
	changes := map[string][]replay.Change{
		failLose: {replay.Loses, replay.Exchanges}, failGain: {replay.Gains, replay.Exchanges}, failChange: {replay.Changes},
		failUndecided: {replay.Undecides}, failRefuse: {replay.Refused},
	}
	var out []string
	for _, w := range words {
		var n uint64
		for _, c := range changes[w] {
			n += r.Of(c).Distinct
		}
		switch w {
		case failPartial:
			out = append(out, fmt.Sprintf("%s (%s)", w, cli.Count(r.Partial, "environment")))
		case failUnreadable:
			out = append(out, cli.Count(r.Unreadable, "unreadable record"))
		case failEmpty:
			out = append(out, "nothing was replayed")
		default:
			out = append(out, fmt.Sprintf("%s (%s)", w, cli.Count(n, "environment")))
		}
	}
	return strings.Join(out, ", ")
}

// warnings say what the report leaves open.
func (o *replayFlags) warnings(r *replay.Report, then *policiesOfThen) []string {
	out := []string{}
	if r.Attestations == 0 {
		out = append(out, "nothing was replayed: there is no record that could be read, of that time")
	}
	if r.Unreadable > 0 {
		out = append(out, fmt.Sprintf("%s could not be read, and nothing is known of whom it is about: `assay ledger verify` finds what was changed", cli.Count(r.Unreadable, "record")))
	}
	for _, b := range r.Bad {
		out = append(out, "unreadable: "+b.Record+": "+b.Error)
	}
	if n := r.Unreadable - uint64(len(r.Bad)); n > 0 {
		out = append(out, fmt.Sprintf("%d more unreadable records are not listed", n))
	}
	if r.Partial > 0 {
		why := ""
		if missing := then.missing(); missing != "" {
			why = " (" + missing + ")"
		}
		out = append(out, fmt.Sprintf("of %s only the SPIFFE IDs that were issued are compared, since it is not known what else the policy of then granted%s: --against compares in whole", cli.Count(r.Partial, "environment"), why))
	}
	if n := r.Of(replay.Undecides).Distinct; n > 0 {
		out = append(out, fmt.Sprintf("%s undecided, for a rollout draws by the server's secret: --rollout-secret FILE or --assume-rollout in|out", cli.Count(n, "environment is", "environments are")))
	}
	if r.Forgotten > 0 {
		out = append(out, fmt.Sprintf("there are more distinct claims than memory is used for: up to %d count more than once", r.Forgotten))
	}
	if r.Merged {
		out = append(out, "there are more groups than are told apart: some hold several transitions, of which one is shown")
	}
	return out
}

// replayTime is a flag that holds a date, a moment, an age, or "recorded".
type replayTime struct {
	text     string
	at       time.Time
	age      time.Duration
	set      bool
	recorded bool
	ages     bool // takes ages too: times of the past
}

func (v *replayTime) String() string { return v.text }
func (v *replayTime) Type() string   { return "TIME" }
func (v *replayTime) Set(s string) error {
	*v = replayTime{text: s, set: true, ages: v.ages}
	if s == "recorded" {
		v.recorded = true
		return nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		v.at = t
		return nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok && v.ages {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			v.age = time.Duration(n) * 24 * time.Hour
			return nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 && v.ages {
		v.age = d
		return nil
	}
	var t timeValue
	if err := t.Set(s); err != nil {
		if v.ages {
			return errors.New("want a date as in 2027-02-01 (UTC), a moment as in 2027-02-01T12:00:00Z, or an age as in 30d")
		}
		return errors.New("want a date as in 2027-02-01 (UTC), or a moment as in 2027-02-01T12:00:00Z")
	}
	v.at = t.Time
	return nil
}

// or is the moment, or the other where none was given.
func (v *replayTime) or(now, other time.Time) time.Time {
	switch {
	case v.age > 0:
		return now.Add(-v.age)
	case v.set && !v.recorded:
		return v.at
	}
	return other
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
