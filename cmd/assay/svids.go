package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func svidsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "svids",
		Short: "List issued X.509-SVIDs, and take them back",
		Example: `  assay svids list --live
  assay svids revoke 4f0c… --reason "the key leaked"`,
	}
	c.AddCommand(svidsListCommand(), svidsRevokeCommand())
	return c
}

func svidsListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List issued X.509-SVIDs, newest first",
		Long: `List issued X.509-SVIDs, newest first: those that the ledger allows. JSON is one
object a line, each as it comes, with a "cursor" from which --after goes on.`,
		Example: `  assay svids list --live
  assay svids list --id spiffe://example.org/payments/api --output json --limit 0`,
		Args: cobra.NoArgs,
	}
	target := adminFlag(c)
	id := c.Flags().String("id", "", "only of this `SPIFFE-ID`")
	instance := c.Flags().String("instance", "", "only of this `INSTANCE`")
	live := c.Flags().Bool("live", false, "only those that have not ended")
	limit, after := limitFlag(c), afterFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		n, err := limitOf(*limit)
		if err != nil {
			return err
		}
		a, err := openAgents(*target)
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // only read
		stream, err := a.ListSVIDs(c.Context(), &assayv1.ListSVIDsRequest{SpiffeId: *id, Instance: *instance, Live: *live, Limit: n, Cursor: *after})
		if err != nil {
			return a.explain(err)
		}
		return streamed(c, a.admin, *output, *limit, stream.Recv, svidOf, func(x svidJSON) string { return x.Cursor }, printSVIDs)
	}
	return c
}

func svidsRevokeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke SERIAL...",
		Short: "Take X.509-SVIDs back before their end",
		Long: `Take X.509-SVIDs back, all or none: they cannot be renewed, get no tokens and end
their watch at once, and go into the deny-list. Their holders may attest as at
boot, and get others: to keep them from it, ban them. A serial number that is not
on record is exit code 2.`,
		Example: `  assay svids revoke 4f0c63f7a0b94d2d8a1fe2a1c5d7b36e --reason "the key leaked"
  assay svids revoke --id spiffe://example.org/payments/api --reason "incident 41"`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	target := adminFlag(c)
	id := c.Flags().String("id", "", "all that are live and have this `SPIFFE-ID`")
	why := c.Flags().String("reason", "", "why, for the record; required")
	force := c.Flags().Bool("force", false, "even where the deny-list has no room for all of them: whoever follows it accepts nobody then")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case (len(args) == 0) == (*id == ""):
			return cli.Usagef("`assay svids list` shows them", "name serial numbers or --id SPIFFE-ID, one of the two")
		case *why == "":
			return cli.Usagef(`for example --reason "the key leaked"`, "--reason: say why; it goes on record")
		}
		r, err := ask(c, openAgents, *target, (*agentsClient).RevokeSVIDs, &assayv1.RevokeSVIDsRequest{Serials: args, SpiffeId: *id, Reason: *why, Force: *force}, missing("`assay svids list` shows what is on record"))
		if err != nil {
			return err
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), struct {
				Revoked uint32 `json:"revoked"`
			}{r.GetRevoked()})
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("%s revoked", cli.Count(uint64(r.GetRevoked()), "SVID"))
		return p.Err()
	}
	return c
}
