package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// policyReport is the JSON output of `policy check`.
type policyReport struct {
	OK          bool                  `json:"ok"`
	File        string                `json:"file"`
	Policy      *string               `json:"policy"` // "name@revision"
	TrustDomain *string               `json:"trust_domain"`
	Digest      attest.Bytes          `json:"digest"` // SHA-256 of the file
	Workloads   []policy.WorkloadInfo `json:"workloads"`
	Errors      []finding             `json:"errors"`
	Warnings    []finding             `json:"warnings"`
}

// finding is one problem in a file.
type finding struct {
	Position string `json:"position"` // "file:line:col"
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Message  string `json:"message"`
	Hint     string `json:"hint"`
	Code     string `json:"code"` // of a warning; "" of an error
}

func findings(es strictyaml.Errors) []finding {
	out := make([]finding, 0, len(es))
	for _, e := range es {
		out = append(out, finding{e.Position(), e.Line, e.Col, e.Msg, e.Hint, e.Code})
	}
	return out
}

func policyCheckCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:     "check FILE",
		Aliases: []string{"lint"},
		Short:   "Parse and lint a policy; report every problem at once",
		Long: `Parse and lint a policy file. Every problem is reported at once, with file, line
and column, on standard error, and the exit code is 2. Warnings are reported, with
the code by which 'silence:' in the policy silences them, and do not change the
exit code. Reference values and waivers that have expired at the time of the check
are warnings.

'assay policy lint' is the same.`,
		Example: `  assay policy check policy.yaml
  assay policy check --at 2027-02-01T00:00:00Z policy.yaml
  assay policy check --output json - < policy.yaml`,
		Args: cobra.ExactArgs(1),
	}
	var (
		at       timeValue
		lifetime durationValue
	)
	c.Flags().Var(&at, "at", "judge expiry at this time instead of now")
	c.Flags().Var(&lifetime, "ca-lifetime", "warn of SVIDs that would outlive an authority of this lifetime instead of 365d")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		src, err := readInput(c, args[0])
		if err != nil {
			return err
		}
		if signed.Is(src) {
			return cli.Usagef(fmt.Sprintf("`assay policy bundle unpack %s` takes the policy out, `assay policy verify` looks at the signatures", args[0]), "%s is a signed policy", args[0])
		}
		b, err := policy.Parse(args[0], src)
		lint := policy.LintOptions{At: at.or(now), CALifetime: lifetime.Duration}
		if *output == cli.JSON {
			return printPolicyJSON(c, args[0], b, err, lint)
		}
		if err != nil {
			return err
		}
		warnPolicy(c, b, lint)
		return printPolicy(cli.NewPage(c.OutOrStdout()), b)
	}
	return c
}

// warnPolicy prints what lint finds, each with the source line and a caret.
func warnPolicy(c *cobra.Command, b *policy.Bundle, lint policy.LintOptions) {
	for _, w := range b.Lint(lint) {
		cli.WarnBlock(c.ErrOrStderr(), w.Render())
	}
}

// printPolicy sums up a policy that has no errors.
func printPolicy(p *cli.Page, b *policy.Bundle) error {
	digest := b.Digest()
	ws := b.Workloads()
	p.Linef("ok: %s, %s", b.Version(), cli.Count(len(ws), "workload"))
	p.Facts(cli.Fact{Name: "trust domain", Value: b.TrustDomain()}, cli.Fact{Name: "digest", Value: attest.Bytes(digest[:]).String()})
	var rows [][]string
	for _, w := range ws {
		mode := w.Mode
		if w.Rollout != "" {
			mode += " " + w.Rollout
		}
		for i, id := range w.SPIFFEIDs {
			if i == 0 {
				rows = append(rows, []string{w.Name, string(w.Platform), mode, yesNo(w.Ownership), id})
			} else {
				rows = append(rows, []string{"", "", "", "", id})
			}
		}
		if len(w.SPIFFEIDs) == 0 {
			rows = append(rows, []string{w.Name, string(w.Platform), mode, yesNo(w.Ownership), "-"})
		}
	}
	p.Linef("")
	p.Table([]string{"workload", "tee", "mode", "ownership", "spiffe id"}, rows)
	return p.Err()
}

func printPolicyJSON(c *cobra.Command, file string, b *policy.Bundle, err error, lint policy.LintOptions) error {
	r := policyReport{OK: err == nil, File: file, Workloads: []policy.WorkloadInfo{}, Errors: []finding{}, Warnings: []finding{}}
	if err != nil {
		var found strictyaml.Errors
		if !errors.As(err, &found) {
			return err
		}
		r.Errors = findings(found)
	} else {
		version, td, digest := b.Version(), b.TrustDomain(), b.Digest()
		r.Policy, r.TrustDomain, r.Digest, r.Workloads = &version, &td, digest[:], b.Workloads()
		r.Warnings = findings(b.Lint(lint))
	}
	if perr := cli.PrintJSON(c.OutOrStdout(), r); perr != nil {
		return perr
	}
	if err != nil {
		return &cli.Silent{Code: cli.ExitCode(err)}
	}
	return nil
}

// durationValue is a flag that holds a length of time, written as in a policy;
// zero means that it was not given.
type durationValue struct{ time.Duration }

func (v *durationValue) String() string {
	if v.Duration == 0 {
		return ""
	}
	return v.Duration.String()
}
func (v *durationValue) Type() string { return "DURATION" }
func (v *durationValue) Set(s string) error {
	d, err := strictyaml.ParseDuration(s)
	switch {
	case err != nil:
		return errors.New("want a length of time as in 1h30m or 30d")
	case d <= 0:
		return errors.New("must be more than nothing")
	}
	v.Duration = d
	return nil
}
