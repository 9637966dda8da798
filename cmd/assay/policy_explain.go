package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// explanation is the JSON output of `policy explain`.
type explanation struct {
	File       string              `json:"file"`
	Verified   bool                `json:"verified"`
	TEE        attest.Platform     `json:"tee"`
	Policy     string              `json:"policy"`
	From       string              `json:"from"` // the policy's file, or "server"
	At         time.Time           `json:"at"`
	Granted    bool                `json:"granted"`
	Identities []explainedIdentity `json:"identities"`
	Nearest    []string            `json:"nearest"` // workloads, the nearest miss first
	Kind       *attest.Kind        `json:"kind"`
	Check      *string             `json:"check"`
	Error      *string             `json:"error"`
	Hint       *string             `json:"hint"`
	Warnings   []string            `json:"warnings"`
	Claims     attest.Claims       `json:"claims"`
	Decision   policy.Decision     `json:"decision"`
}

// explainedIdentity is what would be issued.
type explainedIdentity struct {
	SPIFFEID string    `json:"spiffe_id"`
	NotAfter time.Time `json:"not_after"`
}

func policyExplainCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "explain EVIDENCE",
		Short: "Say for every workload which rule admits this evidence and which does not",
		Long: `Say what a policy decides about evidence, and why: for every workload of its TEE,
which rule holds and which does not, what was expected and what was found, the
nearest miss first. The exit code is 6 where it would be denied.

The policy is that of --policy, plain or signed, or else the one that a server
has in force. It is judged at --at: ask with a date in the future what expires
until then.

EVIDENCE is verified first, as 'assay evidence verify' does. It may also be claims
in JSON, as 'assay evidence verify' and 'assay ledger show' write them with
--output json: so a recorded denial can be put to a draft. Those are not verified.

Whom a rollout admits only the server knows: --assume-rollout says it here.`,
		Example: `  assay policy explain document.cbor --tee aws-nitro --policy policy.yaml
  assay policy explain report.bin --tee amd-sev-snp --endorsement vcek.der --at 2027-02-01T00:00:00Z
  assay ledger show as-7k2m4qxw3p --output json | assay policy explain - --policy draft.yaml`,
		Args: cobra.ExactArgs(1),
	}
	var (
		from    subjectFlags
		at      timeValue
		file    string
		assumed assumeValue
	)
	from.add(c)
	socket := adminFlag(c)
	f := c.Flags()
	f.StringVar(&file, "policy", "", "policy `FILE`, instead of the one that the server has in force")
	f.Var(&at, "at", "decide as of this time, instead of that of the verification")
	f.Var(&assumed, "assume-rollout", "take rollouts as admitting this environment, or not")
	_ = c.RegisterFlagCompletionFunc("assume-rollout", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"in", "out"}, cobra.ShellCompDirectiveNoFileComp
	}) // the flag exists
	c.MarkFlagsMutuallyExclusive("policy", "admin")
	c.MarkFlagsMutuallyExclusive("unverified", "verify-at")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		b, where, err := policyToExplain(c, file, *socket)
		if err != nil {
			return err
		}
		if assumed != "" {
			b = b.AssumeRollout(assumed == "in")
		}
		s, err := from.read(c, args[0], now)
		if err != nil {
			return err
		}
		when := at.Time
		if when.IsZero() {
			when = from.at.or(now)
		}
		e, err := explain(s, b, where, when)
		for _, w := range e.Warnings {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *output == cli.JSON {
			if perr := cli.PrintJSON(c.OutOrStdout(), e); perr != nil {
				return perr
			}
			if err != nil {
				return &cli.Silent{Code: cli.ExitCode(err)}
			}
			return nil
		}
		if perr := printExplanation(cli.NewPage(c.OutOrStdout()), s, e); perr != nil {
			return perr
		}
		return err
	}
	return c
}

// policyToExplain is the policy of a file, or the one that a server has in force.
func policyToExplain(c *cobra.Command, file, socket string) (b *policy.Bundle, from string, err error) {
	if file != "" {
		src, err := readDocument(c, file)
		if err != nil {
			return nil, "", err
		}
		if signed.Is(src) { // who signed it is another question: `assay policy verify`
			u, err := signed.Open(src)
			if err != nil {
				return nil, "", err
			}
			src = u.UnverifiedPayload()
		}
		b, err = policy.Parse(file, src)
		return b, file, err
	}
	a, err := openAdmin(socket, "name a policy with --policy FILE, or the socket with --admin SOCKET")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = a.Close() }() // nothing was written
	s, err := a.PolicyStatus(c.Context(), &assayv1.PolicyStatusRequest{})
	if err != nil {
		return nil, "", a.explainPolicy(err)
	}
	in := changeOf(s.GetInForce())
	_, src, err := a.policyOf(c, in.Revision)
	if err != nil {
		return nil, "", err
	}
	b, err = policy.Parse(in.Policy, src)
	return b, "server", err
}

// explain decides. The error is that of a denial; the explanation is whole then
// too.
func explain(s *subject, b *policy.Bundle, from string, at time.Time) (explanation, error) {
	out := explanation{
		File: s.file, Verified: s.verified, TEE: s.tee.platform, Policy: b.Version(), From: from, At: at.UTC(),
		Identities: []explainedIdentity{}, Nearest: []string{}, Warnings: append([]string{}, s.warnings...), Claims: s.claims,
		Decision: b.Explain(s.claims, at),
	}
	d := out.Decision
	for _, w := range d.NearestFirst() {
		out.Nearest = append(out.Nearest, w.Name)
	}
	var err error
	if d.Outcome == policy.Granted {
		for _, id := range b.Entitlement(s.claims, at).Identities {
			out.Identities = append(out.Identities, explainedIdentity{id.SPIFFEID, id.NotAfter})
		}
		if len(out.Identities) > 0 {
			out.Granted = true
			return out, nil
		}
		err = fmt.Errorf("policy %s admits this as %s, and nothing can be issued: what the decision rests on ends at this moment", b.Version(), d.Workload)
	} else {
		err = errors.New(denial(d))
	}
	denied := &attest.Error{Kind: attest.Denied, Check: "policy", Err: err, Hint: explainHint(d)}
	kind, check, text := denied.Kind, denied.Check, denied.Error()
	out.Kind, out.Check, out.Error = &kind, &check, &text
	if denied.Hint != "" {
		out.Hint = &denied.Hint
	}
	return out, denied
}

// explainHint is what to do about a denial: the hint of the one rule that stands
// in the way, where it is only one.
func explainHint(d policy.Decision) string {
	if d.Reason == policy.ReasonUndecided {
		return "--assume-rollout in|out says whom the rollout admits: the server alone knows"
	}
	if near := d.NearestFirst(); len(near) > 0 && near[0].Failures() == 1 {
		for _, r := range near[0].Rules {
			if !r.Holds && r.Hint != "" {
				return r.Hint
			}
		}
	}
	return "the rules that fail are listed with what was expected and what was found"
}

func printExplanation(p *cli.Page, s *subject, e explanation) error {
	if e.Granted {
		p.Linef("GRANTED: policy %s admits this as %s at %s", e.Policy, e.Decision.Workload, stamp(e.At))
	} else {
		p.Linef("DENIED: policy %s does not admit this at %s", e.Policy, stamp(e.At))
	}
	p.Facts(cli.Fact{Name: "evidence", Value: s.about()}, cli.Fact{Name: "policy", Value: policyFrom(e)})
	if len(e.Identities) > 0 {
		p.Title("Identities")
		var rows [][]string
		for _, id := range e.Identities {
			rows = append(rows, []string{id.SPIFFEID, stamp(id.NotAfter)})
		}
		p.Table([]string{"spiffe id", "if issued then, until at most"}, rows)
	}
	printDecision(p, e.Decision)
	return p.Err()
}

func policyFrom(e explanation) string {
	if e.From == "server" {
		return e.Policy + ", in force on the server"
	}
	return e.Policy + ", of " + e.From
}

// assumeValue is --assume-rollout.
type assumeValue string

func (v *assumeValue) String() string { return string(*v) }
func (v *assumeValue) Type() string   { return "in|out" }
func (v *assumeValue) Set(s string) error {
	if s != "in" && s != "out" {
		return errors.New("want in or out")
	}
	*v = assumeValue(s)
	return nil
}
