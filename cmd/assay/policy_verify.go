package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy/signed"
)

// policyVerdict is the JSON output of `policy verify`.
type policyVerdict struct {
	Verified    bool           `json:"verified"`
	File        string         `json:"file"`
	Policy      *string        `json:"policy"`
	TrustDomain *string        `json:"trust_domain"`
	Digest      attest.Bytes   `json:"digest"`
	Threshold   int            `json:"threshold"`
	Signers     []attest.Bytes `json:"signers"` // those that count
	Others      []attest.Bytes `json:"others"`  // of whose signatures nothing is known
	Kind        *string        `json:"kind"`
	Check       *string        `json:"check"`
	Error       *string        `json:"error"`
	Hint        *string        `json:"hint"`
}

func policyVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify who has signed a policy",
		Long: `Verify that a signed policy is what the given signers have signed, as a server
with these keys under policy_signers does: its form, the signatures, that enough
different signers have signed, that the policy compiles, and that it is the
bundle, revision and trust domain that was signed. Signatures of other keys count
for nothing.`,
		Example: `  assay policy verify policy.signed --signer alice.pub
  assay policy verify policy.signed --signer alice.pub --signer bob.pub --signer carol.pub --threshold 2`,
		Args: cobra.ExactArgs(1),
	}
	var keys []string
	var threshold int
	c.Flags().StringArrayVar(&keys, "signer", nil, "public `KEY` file of a signer; may be repeated")
	c.Flags().IntVar(&threshold, "threshold", 0, "how many of them must have signed; 0 is all")
	_ = c.MarkFlagRequired("signer") // the flag exists: it was added above
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		raw, err := readDocument(c, args[0])
		if err != nil {
			return err
		}
		who, err := publicSigners(keys, threshold)
		if err != nil {
			return err
		}
		v, err := signed.Verify(args[0], raw, who)
		if *output == cli.JSON {
			return printPolicyVerdict(c, args[0], who, v, err)
		}
		if err != nil {
			return err
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("VERIFIED: %s, signed by %d of %d signers, %d needed", v.Header.Version(), len(v.Signers), len(who.KeyIDs()), who.Threshold())
		digest := v.Bundle.Digest()
		facts := []cli.Fact{{Name: "trust domain", Value: v.Header.TrustDomain}, {Name: "digest", Value: attest.Bytes(digest[:]).String()}}
		facts = append(facts, idFacts("signed by", keyIDs(v.Signers))...)
		p.Facts(append(facts, idFacts("not counted", keyIDs(v.Others))...)...)
		return p.Err()
	}
	return c
}

func printPolicyVerdict(c *cobra.Command, file string, who *signed.Signers, v *signed.Verified, err error) error {
	r := policyVerdict{Verified: err == nil, File: file, Threshold: who.Threshold(), Signers: []attest.Bytes{}, Others: []attest.Bytes{}}
	if err == nil {
		version, digest := v.Header.Version(), v.Bundle.Digest()
		r.Policy, r.TrustDomain, r.Digest = &version, &v.Header.TrustDomain, digest[:]
		r.Signers, r.Others = keyIDs(v.Signers), keyIDs(v.Others)
	} else {
		text := err.Error()
		r.Error = &text
		var ae *attest.Error
		var yaml strictyaml.Errors
		switch {
		case errors.As(err, &ae):
			kind := ae.Kind.String()
			r.Kind, r.Check = &kind, &ae.Check
			if ae.Hint != "" {
				r.Hint = &ae.Hint
			}
		case !errors.As(err, &yaml):
			return err
		}
	}
	if perr := cli.PrintJSON(c.OutOrStdout(), r); perr != nil {
		return perr
	}
	if err != nil {
		return &cli.Silent{Code: cli.ExitCode(err)}
	}
	return nil
}
