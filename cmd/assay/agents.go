package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

func agentsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "agents",
		Short: "Show who holds identities, and ban who is to hold none",
		Long: `An agent is one instance of an attested environment. These commands show which
hold identities, and keep others from them: a ban counts at boot, at renewal and
for tokens, on every server, from the moment on that the command returns. What the
banned hold goes into the deny-list, and those who watch are told.`,
		Example: `  assay agents list --live
  assay agents ban --hardware 59790f… --reason "the machine was stolen"
  assay agents bans`,
	}
	c.AddCommand(agentsListCommand(), agentsShowCommand(), agentsBanCommand(), agentsUnbanCommand(), agentsBansCommand())
	return c
}

// agentsClient is a connection to a server's service for agents.
type agentsClient struct {
	assayv1.AgentsClient
	*admin
}

func openAgents(target string) (*agentsClient, error) {
	a, err := openAdmin(target, "name the socket with --admin SOCKET")
	if err != nil {
		return nil, err
	}
	return &agentsClient{assayv1.NewAgentsClient(a.conn), a}, nil
}

// missing is explain, where what was named may not be there: a mistake of whoever
// named it.
func (a *agentsClient) missing(err error, hint string) error {
	if err = a.explain(err); errors.Is(err, errNotFound) {
		return cli.Usagef(hint, "%s", strings.TrimPrefix(err.Error(), errNotFound.Error()+": "))
	}
	return err
}

// agentJSON is one agent in JSON.
type agentJSON struct {
	Instance     string     `json:"instance"`
	TEE          string     `json:"tee"`
	SPIFFEIDs    []string   `json:"spiffe_ids"`
	First        time.Time  `json:"first"`
	Last         time.Time  `json:"last"`
	NotAfter     *time.Time `json:"not_after"`
	Attestations uint64     `json:"attestations"`
	Simulated    bool       `json:"simulated"`
	Watching     bool       `json:"watching"`
	Ban          string     `json:"ban"`
	Policy       string     `json:"policy"`
	Reference    string     `json:"reference"`
	Cursor       string     `json:"cursor"`
}

func agentOf(a *assayv1.Agent) agentJSON {
	return agentJSON{
		Instance: a.GetInstance(), TEE: a.GetTee(), SPIFFEIDs: append([]string{}, a.GetSpiffeIds()...),
		First: unixMilli(a.GetFirstUnixMs()), Last: unixMilli(a.GetLastUnixMs()), NotAfter: timeOrNull(a.GetNotAfterUnixMs()),
		Attestations: a.GetAttestations(), Simulated: a.GetSimulated(), Watching: a.GetWatching(), Ban: a.GetBan(), Policy: a.GetPolicy(), Reference: a.GetReference(), Cursor: a.GetCursor(),
	}
}

// timeOrNull is null in JSON for no time.
func timeOrNull(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := unixMilli(ms)
	return &t
}

func stampOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return stamp(*t)
}

// afterFlag adds --after.
func afterFlag(c *cobra.Command) *string {
	return c.Flags().String("after", "", "go on after the record with this `CURSOR`, of the same list")
}

// limitFlag adds --limit.
func limitFlag(c *cobra.Command) *int {
	return c.Flags().Int("limit", 50, "at most this many; 0 is all")
}

func limitOf(n int) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, cli.Usagef("0 is all", "--limit %d: want 0 or more", n)
	}
	return uint32(n), nil
}

func agentsListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the instances that hold or held an identity, the last one to attest first",
		Long: `List the instances that hold or held an identity, the last one to attest first.

"until" is the latest end of what an instance holds; "watching" that it is
connected to this server now. JSON is one object a line, each as it comes, with a
"cursor" from which --after goes on: whoever attests meanwhile, nobody is missed or
told twice.`,
		Example: `  assay agents list
  assay agents list --live --tee amd-sev-snp
  assay agents list --banned --output json --limit 0`,
		Args: cobra.NoArgs,
	}
	target := adminFlag(c)
	id := c.Flags().String("id", "", "only those that hold or held this `SPIFFE-ID`")
	teeName := c.Flags().String("tee", "", "only those of this `TEE`")
	live := c.Flags().Bool("live", false, "only those whose SVID has not ended")
	banned := c.Flags().Bool("banned", false, "only those that fall under a ban")
	limit, after := limitFlag(c), afterFlag(c)
	output := cli.OutputFlag(c)
	// The flag exists: it was added above.
	_ = c.RegisterFlagCompletionFunc("tee", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return teeNames(), cobra.ShellCompDirectiveNoFileComp
	})
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
		stream, err := a.ListAgents(c.Context(), &assayv1.ListAgentsRequest{SpiffeId: *id, Tee: *teeName, Live: *live, Banned: *banned, Limit: n, Cursor: *after})
		if err != nil {
			return a.explain(err)
		}
		return streamed(c, a.admin, *output, *limit, stream.Recv, agentOf, func(x agentJSON) string { return x.Cursor }, func(p *cli.Page, list []agentJSON) {
			if len(list) == 0 {
				p.Linef("no agents")
				return
			}
			rows := make([][]string, len(list))
			for i, x := range list {
				rows[i] = []string{x.Instance, strings.Join(x.SPIFFEIDs, " "), stamp(x.Last), stampOr(x.NotAfter, "-"), yes(x.Watching), orDash(x.Ban)}
			}
			p.Table([]string{"instance", "spiffe id", "last", "until", "watching", "ban"}, rows)
		})
	}
	return c
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// svidJSON is one issued SVID in JSON.
type svidJSON struct {
	Serial    string    `json:"serial"`
	SPIFFEID  string    `json:"spiffe_id"`
	Instance  string    `json:"instance"`
	Issued    time.Time `json:"issued"`
	NotAfter  time.Time `json:"not_after"`
	Reference string    `json:"reference"`
	Revoked   bool      `json:"revoked"`
	Cursor    string    `json:"cursor"`
}

func svidOf(s *assayv1.SVIDRecord) svidJSON {
	return svidJSON{
		Serial: s.GetSerial(), SPIFFEID: s.GetSpiffeId(), Instance: s.GetInstance(), Issued: unixMilli(s.GetIssuedUnixMs()),
		NotAfter: unixMilli(s.GetNotAfterUnixMs()), Reference: s.GetReference(), Revoked: s.GetRevoked(), Cursor: s.GetCursor(),
	}
}

// agentShown is the JSON output of `agents show`.
type agentShown struct {
	Agent agentJSON  `json:"agent"`
	SVIDs []svidJSON `json:"svids"`
	Entry any        `json:"entry"`
}

func agentsShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show INSTANCE",
		Short: "Show one instance, its claims as they were attested last, and its SVIDs",
		Long: `Show one instance: what it holds, its newest SVIDs (at most 100), and in JSON the
newest record of it, with claims and decision (docs/spec/ledger.md).`,
		Example: `  assay agents show aws-nitro:i-0123456789abcdef0-enc0123456789abcdef
  assay agents show aws-nitro:i-0123456789abcdef0-enc0123456789abcdef --output json`,
		Args: cobra.ExactArgs(1),
	}
	target := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := ask(c, openAgents, *target, (*agentsClient).GetAgent, &assayv1.GetAgentRequest{Instance: args[0]}, missing("`assay agents list` shows which there are"))
		if err != nil {
			return err
		}
		out := agentShown{Agent: agentOf(r.GetAgent()), SVIDs: []svidJSON{}}
		for _, s := range r.GetSvids() {
			out.SVIDs = append(out.SVIDs, svidOf(s))
		}
		if *output == cli.JSON {
			if b := r.GetEntry(); len(b) > 0 {
				out.Entry = rawJSON(b)
			}
			return cli.PrintJSON(c.OutOrStdout(), out)
		}
		x := out.Agent
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("%s", x.Instance)
		facts := []cli.Fact{
			{Name: "tee", Value: x.TEE},
			{Name: "holds", Value: strings.Join(x.SPIFFEIDs, " ")},
			{Name: "until", Value: stampOr(x.NotAfter, "-")},
			{Name: "attested", Value: fmt.Sprintf("%s, from %s to %s", cli.Count(x.Attestations, "time"), stamp(x.First), stamp(x.Last))},
			{Name: "policy", Value: x.Policy},
			{Name: "record", Value: x.Reference},
			{Name: "watching", Value: yes(x.Watching)},
			{Name: "ban", Value: orDash(x.Ban)},
		}
		if x.Simulated {
			facts = append(facts, cli.Fact{Name: "simulated", Value: "yes"})
		}
		p.Facts(facts...)
		if e, err := ledger.ParseEntry(r.GetEntry()); err == nil {
			p.Facts(cli.Fact{Name: "workload", Value: orDash(e.Decision.Workload)})
		}
		p.Linef("")
		printSVIDs(p, out.SVIDs)
		return p.Err()
	}
	return c
}

func printSVIDs(p *cli.Page, list []svidJSON) {
	if len(list) == 0 {
		p.Linef("no SVIDs")
		return
	}
	rows := make([][]string, len(list))
	for i, s := range list {
		rows[i] = []string{s.Serial, s.SPIFFEID, stamp(s.Issued), stamp(s.NotAfter), yes(s.Revoked), s.Reference}
	}
	p.Table([]string{"serial", "spiffe id", "issued", "until", "revoked", "record"}, rows)
}
