package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
)

func ledgerCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ledger",
		Short: "Read what servers have granted, denied and were told, and verify the record",
		Long: `The ledger is the servers' append-only record: every issuance, with the claims and
the rules behind it, every JWT-SVID, and every call of an administrator, in chains
of hashes under signed checkpoints, one for each server; and, beside the chains, the
denials by policy.

The commands ask a running server over its admin socket, or read a database without
a server: a file as its owner, or a PostgreSQL.`,
		Example: `  assay ledger list
  assay ledger show as-7k2m4qxw3p
  assay ledger verify --checkpoint witness.txt`,
	}
	c.AddCommand(ledgerListCommand(), ledgerTailCommand(), ledgerShowCommand(), ledgerVerifyCommand(), ledgerExportCommand())
	return c
}

// record is one record of the ledger in JSON.
type record struct {
	Outcome   string       `json:"outcome"`
	Reference string       `json:"reference"`
	Chain     string       `json:"chain"`    // of the server that wrote it; empty for a denial
	Sequence  uint64       `json:"sequence"` // in the chain; of a denial, among the denials
	Previous  attest.Bytes `json:"previous_hash"`
	Hash      attest.Bytes `json:"hash"`
	// Entry is what was recorded, byte for byte (docs/spec/ledger.md).
	Entry any `json:"entry"`
}

func recordOf(i ledger.Item) record {
	return record{
		Outcome: i.Entry.Outcome, Reference: i.Entry.Reference, Chain: i.Chain, Sequence: i.Sequence,
		Previous: i.Previous, Hash: i.Hash, Entry: i.Payload,
	}
}

func ledgerListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List issuances, tokens, administrators' calls and denials, the newest last",
		Long: `List issuances, tokens, administrators' calls and denials, the newest last. --limit
counts from the newest.

JSON is one object a line, so that a list of any length can be streamed.`,
		Example: `  assay ledger list
  assay ledger list --outcome denied --limit 5
  assay ledger list --id spiffe://example.org/payments/api --output json --limit 0`,
		Args: cobra.NoArgs,
	}
	source := ledgerSourceFlags(c)
	var f listFilter
	outcomeFlag(c, &f.outcome)
	c.Flags().StringVar(&f.chain, "chain", "", "only of this server's `CHAIN`")
	c.Flags().StringVar(&f.spiffeID, "id", "", "only issuances of this `SPIFFE-ID`")
	c.Flags().StringVar(&f.instance, "instance", "", "only of this `INSTANCE`, such as aws-nitro:i-…-enc…")
	c.Flags().IntVar(&f.limit, "limit", 50, "at most this many; 0 is all")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.limit < 0 || f.limit > math.MaxInt32 {
			return cli.Usagef("0 is all", "--limit %d: want 0 or more", f.limit)
		}
		if err := checkOutcome(f.outcome); err != nil {
			return err
		}
		src, err := source.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		return listRecords(c, src, f, *output)
	}
	return c
}

// listRecords prints records, the newest last. A limited list is read from the
// newest back and turned; one without a limit is printed while it is read.
func listRecords(c *cobra.Command, src ledgerSource, f listFilter, output cli.Format) error {
	show := printRow
	if output == cli.JSON {
		show = func(c *cobra.Command, i ledger.Item) error { return cli.PrintJSONLine(c.OutOrStdout(), recordOf(i)) }
	}
	f.newestFirst = f.limit > 0
	var turned []ledger.Item
	first := true
	each := func(i ledger.Item) error {
		if first && output == cli.Text {
			first = false
			if _, err := fmt.Fprintf(c.OutOrStdout(), rowFormat, "time", "outcome", "reference", "entry", "what"); err != nil {
				return err
			}
		}
		return show(c, i)
	}
	for i, err := range src.list(c.Context(), f) {
		if err != nil {
			return err
		}
		if f.newestFirst {
			turned = append(turned, i)
			continue
		}
		if err := each(i); err != nil {
			return err
		}
	}
	for _, i := range slices.Backward(turned) {
		if err := each(i); err != nil {
			return err
		}
	}
	if f.limit > 0 && len(turned) == f.limit && output == cli.Text && cli.IsTerminal(c.ErrOrStderr()) {
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "(the newest %d; --limit 0 lists all)\n", f.limit)
	}
	return nil
}

// rowFormat has fixed widths, so that a list can be printed while it is read.
const rowFormat = "%-24s  %-7s  %-13s  %8s  %s\n"

func printRow(c *cobra.Command, i ledger.Item) error {
	sequence, what := fmt.Sprint(i.Sequence), ""
	if i.Chain != ledger.MainChain {
		sequence = i.Chain + "/" + sequence
	}
	switch e := i.Entry; {
	case e.Action != nil:
		x := e.Action
		what = strings.TrimSpace(x.Method[strings.LastIndexByte(x.Method, '/')+1:]+" "+x.Target) + ": " + x.Outcome + " (" + x.Actor + ")"
		if x.Detail != "" {
			what += ": " + x.Detail
		}
	case e.Token != nil:
		what = e.Token.SPIFFEID + " for " + strings.Join(e.Token.Audience, " ") + " (" + shortInstance(string(e.Instance)) + ")"
	case e.Outcome == ledger.Granted:
		var ids []string
		for _, id := range e.Identities {
			ids = append(ids, id.SPIFFEID)
		}
		what = strings.Join(ids, " ") + " (" + shortInstance(string(e.Instance)) + ")"
	default:
		sequence, what = "-", e.Decision.Reason
		if near := e.Decision.NearestFirst(); len(near) > 0 && near[0].Failures() > 0 && e.Decision.Reason != banned {
			what += ": " + near[0].Name + ": " + failingRules(near[0].Rules)
		} else if e.Decision.Reason == banned {
			what += ": " + e.Decision.Detail
		}
		what += " (" + shortInstance(string(e.Instance)) + ")"
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), rowFormat, stamp(i.Entry.Time), cli.Escape(i.Entry.Outcome), cli.Escape(i.Entry.Reference), sequence, cli.Escape(what))
	return err
}

// banned is the reason of a denial that a ban made.
const banned = "banned"

// shortInstance keeps a table's line readable: an SEV-SNP instance names guest
// and chip with 192 digits. `ledger show` and JSON have all of it.
func shortInstance(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most-1] + "…"
}
