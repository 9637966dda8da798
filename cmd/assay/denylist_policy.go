package main

import (
	"encoding/hex"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// policyDigest is the argument of the commands that deny a policy and take that
// back.
func policyDigest(arg, why string) ([]byte, error) {
	digest, err := hex.DecodeString(arg)
	switch {
	case err != nil || len(digest) != 32:
		return nil, cli.Usagef("`assay policy history --output json` shows digests", "%.80q is no policy's digest: want 64 hex digits", arg)
	case why == "":
		return nil, cli.Usagef(`for example --reason "it granted too much"`, "--reason: say why; it goes on record")
	}
	return digest, nil
}

func denylistAddPolicyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add-policy DIGEST",
		Short: "Have results of a policy refused, whoever holds them",
		Long: `Put a policy's digest into the deny-list: no result that rests on it is accepted by
relying parties who follow the list. One entry stands for any number of SVIDs. It
cannot be the policy in force: push one with another revision first. What was
denied stays denied until it is taken off with ` + "`assay denylist remove-policy`" + `.`,
		Example: `  assay denylist add-policy 9f3c… --reason "it granted too much"`,
		Args:    cobra.ExactArgs(1),
	}
	target := adminFlag(c)
	why := c.Flags().String("reason", "", "why, for the record; required")
	c.RunE = func(c *cobra.Command, args []string) error {
		digest, err := policyDigest(args[0], *why)
		if err != nil {
			return err
		}
		if _, err := ask(c, openAgents, *target, (*agentsClient).DenyPolicy, &assayv1.DenyPolicyRequest{Digest: digest, Reason: *why}, (*agentsClient).explain); err != nil {
			return err
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("results of the policy %x are denied", digest)
		return p.Err()
	}
	return c
}

func denylistRemovePolicyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove-policy DIGEST",
		Short: "Have results of a denied policy count again",
		Long: `Take a policy's digest off the deny-list: results that rest on it and have not ended
count again, as soon as a relying party has the next list. Its number is higher, so
that nobody who follows the list has to go back. SVIDs that fall under a ban or
were revoked stay on it. One that is not denied is exit code 2.`,
		Example: `  assay denylist remove-policy 9f3c… --reason "it was the wrong digest"`,
		Args:    cobra.ExactArgs(1),
	}
	target := adminFlag(c)
	why := c.Flags().String("reason", "", "why, for the record; required")
	c.RunE = func(c *cobra.Command, args []string) error {
		digest, err := policyDigest(args[0], *why)
		if err != nil {
			return err
		}
		if _, err := ask(c, openAgents, *target, (*agentsClient).LiftPolicy, &assayv1.LiftPolicyRequest{Digest: digest, Reason: *why}, missing("`assay denylist policies` shows which are denied")); err != nil {
			return err
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("results of the policy %x count again", digest)
		return p.Err()
	}
	return c
}

// deniedPolicyJSON is a denied policy in JSON.
type deniedPolicyJSON struct {
	Digest string    `json:"digest"`
	Reason string    `json:"reason"`
	Actor  string    `json:"actor"`
	Since  time.Time `json:"since"`
}

func denylistPoliciesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policies",
		Short: "List the policies whose results are denied, and why",
		Long: `List the policies whose results are denied, oldest first, with who denied them and
why. Those that were taken off the list again are in the ledger alone.`,
		Example: `  assay denylist policies
  assay denylist policies --output json`,
		Args: cobra.NoArgs,
	}
	target := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := ask(c, openAgents, *target, (*agentsClient).ListDeniedPolicies, &assayv1.ListDeniedPoliciesRequest{}, (*agentsClient).explain)
		if err != nil {
			return err
		}
		list := []deniedPolicyJSON{}
		for _, p := range r.GetPolicies() {
			list = append(list, deniedPolicyJSON{hex.EncodeToString(p.GetDigest()), p.GetReason(), p.GetActor(), unixMilli(p.GetSinceUnixMs())})
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), list)
		}
		p := cli.NewPage(c.OutOrStdout())
		if len(list) == 0 {
			p.Linef("no policy is denied")
			return p.Err()
		}
		rows := make([][]string, len(list))
		for i, x := range list {
			rows[i] = []string{x.Digest, stamp(x.Since), x.Actor, x.Reason}
		}
		p.Table([]string{"policy", "since", "by", "reason"}, rows)
		return p.Err()
	}
	return c
}
