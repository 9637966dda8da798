package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// clock tells the time at which things are verified when no --at is given.
type clock func() time.Time

func systemClock() time.Time { return time.Now() }

// The groups of commands in help, by who needs them.
const (
	forVerifiers = "verify"
	forAuthors   = "author"
	forOperators = "operate"
	forAll       = "all"
)

func rootCommand(now clock) *cobra.Command {
	root := &cobra.Command{
		Use:   "assay",
		Short: "Check hardware evidence, attested SVIDs, policies and the ledger of attestations",
		Long: `Assay turns hardware attestation evidence into SPIFFE identities. This command
is for the people around it: it verifies evidence and attested SVIDs without a
server, checks measurement policy, and reads what a server has recorded.

Exit codes: 0 good, 1 internal, 2 usage or configuration, 3 malformed,
4 untrusted, 5 stale, 6 denied by policy, 7 unavailable.`,
		Example: `  assay evidence verify --tee aws-nitro document.cbor
  assay svid verify --bundle bundle.json --verifier-keys keys.cbor --verifier-root root.pem svid.pem
  assay policy check policy.yaml
  assay measure snp --ovmf OVMF.fd --vcpus 4 --vcpu-type EPYC-Genoa
  assay ledger list`,
	}
	root.AddGroup(
		&cobra.Group{ID: forVerifiers, Title: "For those who check evidence and identities (no server needed):"},
		&cobra.Group{ID: forAuthors, Title: "For policy authors:"},
		&cobra.Group{ID: forOperators, Title: "For operators of a server:"},
		&cobra.Group{ID: forAll, Title: "Other:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(forVerifiers, evidenceCommand(now), svidCommand(now))
	add(forAuthors, policyCommand(now), measureCommand())
	add(forOperators, ledgerCommand(), bundleCommand(), serverCommand(), collateralCommand(now), ekCommand(), agentsCommand(), svidsCommand(), denylistCommand(now), authorityCommand(), federationCommand())
	add(forAll, cli.VersionCommand("assay"))
	root.SetHelpCommandGroupID(forAll)
	root.SetCompletionCommandGroupID(forAll)
	return root
}
