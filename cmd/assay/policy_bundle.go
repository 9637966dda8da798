package main

import (
	"crypto/sha256"
	"errors"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

func policyBundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Look into signed policies, take them apart, put approvals together",
		Example: `  assay policy bundle show policy.signed
  assay policy bundle unpack policy.signed > policy.yaml`,
	}
	c.AddCommand(policyBundleShowCommand(), policyBundleUnpackCommand(), policyBundlePackCommand())
	return c
}

func policyBundleShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a file says it is: policy, revision, whose signatures it has",
		Long: `Show what a policy, plain or signed, says it is. Nothing is verified: anybody can
write anybody's key id. 'assay policy verify' tells whether it is true.`,
		Example: `  assay policy bundle show policy.signed
  assay policy bundle show policy.signed --output json`,
		Args: cobra.ExactArgs(1),
	}
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		raw, err := readDocument(c, args[0])
		if err != nil {
			return err
		}
		if !signed.Is(raw) {
			b, err := policy.Parse(args[0], raw)
			if err != nil {
				return err
			}
			digest := sha256.Sum256(raw)
			return policySigned{
				File: args[0], Format: "plain", Policy: b.Version(), TrustDomain: b.TrustDomain(), Digest: digest[:], Size: len(raw), KeyIDs: []attest.Bytes{},
			}.print(c, *output, args[0]+" is a policy that nobody has signed")
		}
		u, err := signed.Open(raw)
		if err != nil {
			return err
		}
		return signedOf(args[0], u).print(c, *output, args[0]+" says that it is a signed policy (NOT VERIFIED)")
	}
	return c
}

func policyBundleUnpackCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "unpack FILE",
		Short: "Take the policy out of a signed one, byte for byte",
		Long: `Take the policy out of a signed one, byte for byte as it was signed. Nothing is
verified.`,
		Example: `  assay policy bundle unpack policy.signed > policy.yaml
  assay policy bundle unpack policy.signed --out policy.yaml`,
		Args: cobra.ExactArgs(1),
	}
	out := c.Flags().String("out", "-", "`FILE` to write to; - is standard output")
	c.RunE = func(c *cobra.Command, args []string) error {
		raw, err := readDocument(c, args[0])
		if err != nil {
			return err
		}
		u, err := signed.Open(raw)
		if err != nil {
			return err
		}
		return writeOut(c, *out, u.UnverifiedPayload())
	}
	return c
}

func policyBundlePackCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "pack FILE...",
		Short: "Put the approvals of several people into one signed policy",
		Long: `Put the signatures of several files, each signed with --joint, into one. All must
hold the same policy; each key's signature is taken once. Nothing is verified.`,
		Example: `  assay policy bundle pack alice.signed bob.signed --out policy.signed`,
		Args:    cobra.MinimumNArgs(2),
	}
	var out string
	c.Flags().StringVar(&out, "out", "", "`FILE` to write to; - is standard output")
	_ = c.MarkFlagRequired("out") // the flag exists: it was added above
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var docs [][]byte
		for _, name := range args {
			raw, err := readDocument(c, name)
			if err != nil {
				return err
			}
			docs = append(docs, raw)
		}
		doc, err := signed.Merge(docs...)
		if errors.Is(err, signed.ErrDifferent) {
			return cli.Usagef("'assay policy bundle show' tells what each holds", "%w", err)
		}
		if err != nil {
			return signingError(err)
		}
		u, err := signed.Open(doc)
		if err != nil {
			return err
		}
		if err := writeOut(c, out, doc); err != nil || out == "-" {
			return err
		}
		return signedOf(out, u).print(c, *output, "packed: "+out)
	}
	return c
}
