package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

func policyCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Check, sign and publish measurement policy",
		Long: `Policy says which attested environment earns which identities. It is checked and
tested offline, signed by those who approve it, and published to a server from its
policy file or with push.`,
		Example: `  assay policy check policy.yaml
  assay policy sign policy.yaml --key alice --joint
  assay policy push policy.signed --note "release 42"
  assay policy history`,
	}
	c.AddCommand(policyCheckCommand(now))
	c.AddCommand(policyKeygenCommand(), policySignCommand(), policyVerifyCommand(), policyBundleCommand())
	c.AddCommand(policyPushCommand(), policyStatusCommand(), policyHistoryCommand(), policyRevertCommand())
	return c
}

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
}

func findings(es strictyaml.Errors) []finding {
	out := make([]finding, 0, len(es))
	for _, e := range es {
		out = append(out, finding{e.Position(), e.Line, e.Col, e.Msg, e.Hint})
	}
	return out
}

func policyCheckCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Parse and lint a policy; report every problem at once",
		Long: `Parse and lint a policy file. Every problem is reported at once, with file, line
and column, on standard error, and the exit code is 2. Warnings are reported and
do not change the exit code. Reference values and waivers that have expired at
the time of the check are warnings.`,
		Example: `  assay policy check policy.yaml
  assay policy check --output json - < policy.yaml`,
		Args: cobra.ExactArgs(1),
	}
	var at timeValue
	c.Flags().Var(&at, "at", "judge expiry at this time instead of now")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		src, err := readInput(c, args[0])
		if err != nil {
			return err
		}
		b, err := policy.Parse(args[0], src)
		if *output == cli.JSON {
			return printPolicyJSON(c, args[0], b, err, at.or(now))
		}
		if err != nil {
			return err
		}
		for _, w := range append(b.Warnings(), b.Expired(at.or(now))...) {
			cli.WarnBlock(c.ErrOrStderr(), w.Render())
		}
		p := cli.NewPage(c.OutOrStdout())
		digest := b.Digest()
		ws := b.Workloads()
		p.Linef("ok: %s, %s", b.Version(), cli.Count(len(ws), "workload"))
		p.Facts(cli.Fact{Name: "trust domain", Value: b.TrustDomain()}, cli.Fact{Name: "digest", Value: attest.Bytes(digest[:]).String()})
		var rows [][]string
		for _, w := range ws {
			for i, id := range w.SPIFFEIDs {
				if i == 0 {
					rows = append(rows, []string{w.Name, string(w.Platform), w.Mode, yesNo(w.Ownership), id})
				} else {
					rows = append(rows, []string{"", "", "", "", id})
				}
			}
			if len(w.SPIFFEIDs) == 0 {
				rows = append(rows, []string{w.Name, string(w.Platform), w.Mode, yesNo(w.Ownership), "-"})
			}
		}
		p.Linef("")
		p.Table([]string{"workload", "tee", "mode", "ownership", "spiffe id"}, rows)
		return p.Err()
	}
	return c
}

func printPolicyJSON(c *cobra.Command, file string, b *policy.Bundle, err error, at time.Time) error {
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
		r.Warnings = findings(append(b.Warnings(), b.Expired(at)...))
	}
	if perr := cli.PrintJSON(c.OutOrStdout(), r); perr != nil {
		return perr
	}
	if err != nil {
		return &cli.Silent{Code: cli.ExitCode(err)}
	}
	return nil
}
