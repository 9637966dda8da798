package main

import (
	"github.com/spf13/cobra"
)

func policyCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Write, check, explain, sign and publish measurement policy",
		Long: `Policy says which attested environment earns which identities. It is written,
checked and tested offline, signed by those who approve it, and published to a
server from its policy file or with push. docs/guides/policy.md teaches it.`,
		Example: `  assay policy init --from payments-41.eif --trust-domain attested.example.org --out policy.yaml
  assay policy check policy.yaml
  assay policy explain document.cbor --tee aws-nitro --policy policy.yaml
  assay policy add-reference policy.yaml --set payments-images --from payments-42.eif
  assay policy sign policy.yaml --key alice --joint
  assay policy push policy.signed --note "release 42"
  assay policy history`,
	}
	c.AddCommand(policyInitCommand(now), policyCheckCommand(now), policyExplainCommand(now), policyAddReferenceCommand(now))
	c.AddCommand(policyTestCommand(), policyMutateCommand(), policyDiffCommand(now))
	c.AddCommand(policyReplayCommand(now))
	c.AddCommand(policyKeygenCommand(), policySignCommand(), policyVerifyCommand(), policyBundleCommand())
	c.AddCommand(policyPushCommand(), policyStatusCommand(), policyHistoryCommand(), policyRevertCommand())
	return c
}
