package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
)

// tailPoll is how often a tail asks for what is new.
const tailPoll = time.Second

// tailPage is how many of the newest records are asked for at once; more while
// none of them is known.
const tailPage = 100

func ledgerTailCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tail",
		Short: "Show the newest records, and those that are made from now on",
		Long: `Show the newest records of every kind, and those that are made from now on, until it
is interrupted. --no-follow shows the newest alone. JSON is one object a line.`,
		Example: `  assay ledger tail
  assay ledger tail --outcome admin --limit 0
  assay ledger tail --output json | jq .entry.decision`,
		Args: cobra.NoArgs,
	}
	source := ledgerSourceFlags(c)
	var f listFilter
	outcomeFlag(c, &f.outcome)
	c.Flags().IntVar(&f.limit, "limit", 10, "begin with this many")
	once := c.Flags().Bool("no-follow", false, "show what there is, and end")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := limitOf(f.limit); err != nil {
			return err
		}
		if err := checkOutcome(f.outcome); err != nil {
			return err
		}
		src, err := source.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		return tail(c, src, f, *output, *once)
	}
	return c
}

// tail prints the newest records, and what comes after them.
func tail(c *cobra.Command, src ledgerSource, f listFilter, output cli.Format, once bool) error {
	show := printRow
	if output == cli.JSON {
		show = func(c *cobra.Command, i ledger.Item) error { return cli.PrintJSONLine(c.OutOrStdout(), recordOf(i)) }
	} else if _, err := fmt.Fprintf(c.OutOrStdout(), rowFormat, "time", "outcome", "reference", "entry", "what"); err != nil {
		return err
	}
	ctx := c.Context()
	known := map[string]bool{}
	first := true
	for {
		fresh, err := unknown(ctx, src, f, known, first)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		for _, i := range fresh {
			if err := show(c, i); err != nil {
				return err
			}
		}
		first = false
		if once {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tailPoll):
		}
	}
}

// unknown are the records that have not been shown, the oldest first.
func unknown(ctx context.Context, src ledgerSource, f listFilter, known map[string]bool, first bool) ([]ledger.Item, error) {
	f.newestFirst = true
	shown := f.limit
	for f.limit = max(tailPage, shown); ; f.limit *= 4 {
		var newest []ledger.Item
		reached := false
		for i, err := range src.list(ctx, f) {
			if err != nil {
				return nil, err
			}
			if known[i.Entry.Reference] {
				reached = true
				continue
			}
			newest = append(newest, i)
		}
		if !first && !reached && len(newest) >= f.limit && len(known) > 0 && f.limit < 1<<20 {
			continue // more has come than was asked for
		}
		// Only what a page can hold is remembered.
		if len(known) > 1<<16 {
			clear(known)
		}
		for _, i := range newest {
			known[i.Entry.Reference] = true
		}
		if first && len(newest) > shown {
			newest = newest[:shown]
		}
		slices.Reverse(newest)
		return newest, nil
	}
}

// checkOutcome refuses an outcome that no record has.
func checkOutcome(s string) error {
	if s != "" && !slices.Contains(outcomes(), s) {
		return cli.Usagef("use --outcome granted, denied, token or admin", "unknown outcome %q", s)
	}
	return nil
}

func outcomes() []string { return []string{ledger.Granted, ledger.Denied, ledger.Minted, ledger.Admin} }

// outcomeFlag adds --outcome.
func outcomeFlag(c *cobra.Command, outcome *string) {
	c.Flags().StringVar(outcome, "outcome", "", "only `granted|denied|token|admin`")
	// The flag exists: it was added above.
	_ = c.RegisterFlagCompletionFunc("outcome", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return outcomes(), cobra.ShellCompDirectiveNoFileComp
	})
}

// exportedCheckpoint is a checkpoint in an export.
type exportedCheckpoint struct {
	Outcome string `json:"outcome"` // "checkpoint"
	Chain   string `json:"chain"`
	Note    string `json:"note"`
	Key     string `json:"key"`
}

func ledgerExportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the whole ledger: every chain with its checkpoints",
		Long: `Write every chain of the ledger, whole and in order, and the signed checkpoints of
each: one JSON object a line, for an archive or another tool (docs/spec/ledger.md
says how the chain is checked). Denials, which are not chained, are left out; see
` + "`assay ledger list`" + `. What is damaged is written as it is.

The file holds claims and names that are not for everybody: it is made with mode
0600.`,
		Example: `  assay ledger export --out ledger.jsonl
  assay ledger export | gzip > ledger.jsonl.gz`,
		Args: cobra.NoArgs,
	}
	source := ledgerSourceFlags(c)
	out := c.Flags().String("out", "-", "`FILE` to write it to; - is standard output")
	c.RunE = func(c *cobra.Command, _ []string) error {
		src, err := source.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		w := c.OutOrStdout()
		if *out == "-" {
			return export(c.Context(), src, func(v any) error { return cli.PrintJSONLine(w, v) })
		}
		const private fs.FileMode = 0o600
		file, err := newFile(*out, private)
		if err != nil {
			return err
		}
		err = export(c.Context(), src, func(v any) error { return cli.PrintJSONLine(file, v) })
		return errors.Join(err, file.finish(err == nil))
	}
	return c
}

func export(ctx context.Context, src ledgerSource, write func(any) error) error {
	chains, err := src.chains(ctx, false)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		for i, err := range src.entries(ctx, chain.name) {
			if err != nil {
				return err
			}
			r := recordOf(i)
			if i.Entry.Version == 0 { // damaged, or of entries that are not decoded on the way
				if e, perr := ledger.ParseEntry(i.Payload); perr == nil {
					r.Outcome, r.Reference = e.Outcome, e.Reference
				} else if !json.Valid(i.Payload) {
					r.Entry = string(i.Payload)
				}
			}
			if err := write(r); err != nil {
				return err
			}
		}
		for _, note := range chain.notes {
			if err := write(exportedCheckpoint{"checkpoint", chain.name, string(note), chain.key}); err != nil {
				return err
			}
		}
	}
	return nil
}
