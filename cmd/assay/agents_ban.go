package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// rawJSON is JSON that is shown as it is.
func rawJSON(b []byte) any {
	if !json.Valid(b) {
		return nil
	}
	return json.RawMessage(b)
}

// banJSON is one ban in JSON.
type banJSON struct {
	ID     string     `json:"id"`
	Kind   string     `json:"kind"`
	Value  string     `json:"value"`
	Reason string     `json:"reason"`
	Actor  string     `json:"actor"`
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until"`
}

func banOf(b *assayv1.BanRecord) banJSON {
	return banJSON{
		ID: b.GetId(), Kind: b.GetKind(), Value: b.GetValue(), Reason: b.GetReason(), Actor: b.GetActor(),
		Since: unixMilli(b.GetSinceUnixMs()), Until: timeOrNull(b.GetUntilUnixMs()),
	}
}

// banMade is the JSON output of `agents ban`.
type banMade struct {
	Ban       banJSON  `json:"ban"`
	Instances []string `json:"instances"`
	SVIDs     uint32   `json:"svids"`
	DryRun    bool     `json:"dry_run"`
	Omitted   uint64   `json:"omitted"` // SVIDs that the deny-list would have no room for
}

func agentsBanCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ban [INSTANCE]",
		Short: "Keep an instance, hardware, claims or a name from identities",
		Long: `Ban one of:
  INSTANCE      one instance, as ` + "`assay agents list`" + ` names it
  --hardware    the hardware below it, which outlives instances: an SNP chip id, the
                digest of a TPM's endorsement key, an EC2 instance (i-…) or module id
  --expr        whoever's claims an expression is true of, in the language of a
                policy's expr; of claims that it cannot be evaluated for it is true
  --id          whoever would get this SPIFFE ID

It stands when the command returns: at boot, at renewal and for tokens, on every
server. What the banned hold is taken back and goes into the deny-list; those who
watch are told. The banned hear what every denial by policy says. With --dry-run
nothing changes, and whom it would hit is shown.

A ban that hits more live SVIDs than the deny-list has room for is refused: whoever
follows a list that cannot name all accepts nobody. Deny the policy or taint the
authority instead, or insist with --force.`,
		Example: `  assay agents ban aws-nitro:i-0123456789abcdef0-enc0123456789abcdef --reason "incident 41"
  assay agents ban --hardware i-0123456789abcdef0 --reason "the host was broken into" --for 72h
  assay agents ban --expr "snp.guest_svn < 3" --reason "CVE-2026-0001" --dry-run`,
		Args: cobra.MaximumNArgs(1),
	}
	target := adminFlag(c)
	hardware := c.Flags().String("hardware", "", "ban this hardware `ID`")
	expr := c.Flags().String("expr", "", "ban whoever's claims this `EXPRESSION` is true of")
	id := c.Flags().String("id", "", "ban whoever would get this `SPIFFE-ID`")
	why := c.Flags().String("reason", "", "why, for the record; required")
	until := c.Flags().String("until", "", "the ban ends at this `TIME` (RFC 3339); without, when it is lifted")
	lasts := c.Flags().Duration("for", 0, "the ban ends after this `DURATION`")
	dry := c.Flags().Bool("dry-run", false, "show whom it would hit, and change nothing")
	force := c.Flags().Bool("force", false, "even where the deny-list has no room for all that it hits")
	output := cli.OutputFlag(c)
	c.MarkFlagsMutuallyExclusive("hardware", "expr", "id")
	c.MarkFlagsMutuallyExclusive("until", "for")
	c.RunE = func(c *cobra.Command, args []string) error {
		req := &assayv1.BanRequest{Reason: *why, DryRun: *dry, Force: *force}
		named := 0
		if len(args) == 1 {
			req.Who, named = &assayv1.BanRequest_Instance{Instance: args[0]}, named+1
		}
		if *hardware != "" {
			req.Who, named = &assayv1.BanRequest_Hardware{Hardware: *hardware}, named+1
		}
		if *expr != "" {
			req.Who, named = &assayv1.BanRequest_Expr{Expr: *expr}, named+1
		}
		if *id != "" {
			req.Who, named = &assayv1.BanRequest_SpiffeId{SpiffeId: *id}, named+1
		}
		switch {
		case named != 1:
			return cli.Usagef("see `assay agents ban --help`", "say whom: INSTANCE, --hardware, --expr or --id, one of them")
		case *why == "":
			return cli.Usagef(`for example --reason "incident 41"`, "--reason: say why; it goes on record")
		case *lasts < 0:
			return cli.Usagef("", "--for %s: want more than nothing", *lasts)
		case *lasts > 0:
			req.UntilUnixMs = time.Now().Add(*lasts).UnixMilli()
		case *until != "":
			t, err := time.Parse(time.RFC3339, *until)
			if err != nil {
				return cli.Usagef("for example 2026-12-01T00:00:00Z", "--until %q is no time", *until)
			}
			req.UntilUnixMs = t.UnixMilli()
		}
		r, err := ask(c, openAgents, *target, (*agentsClient).Ban, req, missing(""))
		if err != nil {
			return err
		}
		b := banOf(r.GetBan())
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), banMade{Ban: b, Instances: append([]string{}, r.GetInstances()...), SVIDs: r.GetSvids(), DryRun: *dry, Omitted: r.GetOmitted()})
		}
		p := cli.NewPage(c.OutOrStdout())
		hits := fmt.Sprintf("%s with %s", cli.Count(len(r.GetInstances()), "instance"), cli.Count(uint64(r.GetSvids()), "live SVID"))
		if *dry {
			p.Linef("a ban by %s %s would hit %s; nothing was changed", b.Kind, b.Value, hits)
		} else {
			p.Linef("%s stands: by %s %s, until %s; it hits %s", b.ID, b.Kind, b.Value, stampOr(b.Until, "it is lifted"), hits)
		}
		for _, i := range r.GetInstances() {
			p.Linef("  %s", i)
		}
		if n := r.GetOmitted(); n > 0 {
			p.Linef("the deny-list would have no room for %d of them, and whoever follows it would accept nobody: it needs --force", n)
		}
		return p.Err()
	}
	return c
}

func agentsUnbanCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "unban BAN",
		Short: "Lift a ban",
		Long: `Lift a ban. Whoever fell under it alone may attest again, and what it held counts
again, as far as it has not ended.`,
		Example:           `  assay agents unban ban-0123456789abcdef --reason "it was found"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	target := adminFlag(c)
	why := c.Flags().String("reason", "", "why, for the record; required")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *why == "" {
			return cli.Usagef(`for example --reason "it was found"`, "--reason: say why; it goes on record")
		}
		if _, err := ask(c, openAgents, *target, (*agentsClient).Unban, &assayv1.UnbanRequest{Id: args[0], Reason: *why}, missing("`assay agents bans` lists which stand")); err != nil {
			return err
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("%s is lifted", args[0])
		return p.Err()
	}
	return c
}

func agentsBansCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bans",
		Short: "List the bans that stand, oldest first",
		Long: `List the bans that stand, oldest first. Those that ended or were lifted are in the
ledger: ` + "`assay ledger list --outcome admin`" + `.`,
		Example: `  assay agents bans
  assay agents bans --output json`,
		Args: cobra.NoArgs,
	}
	target := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := ask(c, openAgents, *target, (*agentsClient).ListBans, &assayv1.ListBansRequest{}, (*agentsClient).explain)
		if err != nil {
			return err
		}
		list := []banJSON{}
		for _, b := range r.GetBans() {
			list = append(list, banOf(b))
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), struct {
				Bans []banJSON `json:"bans"`
			}{list})
		}
		p := cli.NewPage(c.OutOrStdout())
		if len(list) == 0 {
			p.Linef("no bans")
			return p.Err()
		}
		rows := make([][]string, len(list))
		for i, b := range list {
			rows[i] = []string{b.ID, b.Kind, b.Value, stamp(b.Since), stampOr(b.Until, "-"), b.Actor, b.Reason}
		}
		p.Table([]string{"ban", "by", "value", "since", "until", "actor", "reason"}, rows)
		return p.Err()
	}
	return c
}
