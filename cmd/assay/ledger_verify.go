package main

import (
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
)

func ledgerVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify",
		Short: "Verify the chain of hashes, and the checkpoints over it",
		Long: `Read the whole ledger and verify it here: every entry's hash, that each names the
one before it, and that every checkpoint is signed and agrees with the chain.

What a server says of itself proves little about that server. Give the
checkpoint key with --key, from ` + "`assayd init`" + ` (checkpoint.pub), and checkpoints
that were kept elsewhere (the sink, a witness, agents) with --checkpoint: only
those can show that the end was cut off or the chain was written anew.

The exit code is 4 when something does not hold.`,
		Example: `  assay ledger verify
  assay ledger verify --key checkpoint.pub --checkpoint /mnt/witness/checkpoints.txt
  assay ledger verify --db /var/lib/assay/assay.db --output json`,
		Args: cobra.NoArgs,
	}
	source := ledgerSourceFlags(c)
	key := c.Flags().String("key", "", "`FILE` with the checkpoint key; otherwise what the source says is used")
	witnesses := c.Flags().StringArray("checkpoint", nil, "`FILE` with checkpoints that were kept elsewhere; may be repeated")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		src, err := source.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		v := chainVerification{source: src}
		if err := v.prepare(c, *key, *witnesses); err != nil {
			return err
		}
		report, err := v.run(c)
		for _, w := range v.warnings(report, err) {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *output == cli.JSON {
			if perr := cli.PrintJSON(c.OutOrStdout(), v.verdict(report, err)); perr != nil {
				return perr
			}
			return silently(err)
		}
		if err != nil {
			return err
		}
		return v.print(cli.NewPage(c.OutOrStdout()), report)
	}
	return c
}

// chainVerification is one run of `ledger verify`.
type chainVerification struct {
	source      ledgerSource
	trustDomain string
	chain       string
	key         ledger.VerifierKey
	pinned      bool // the key is the user's, not the source's word
	notes       [][]byte
	elsewhere   int // of notes, how many were kept elsewhere
}

// chainVerdict is the JSON output of `ledger verify`.
type chainVerdict struct {
	OK          bool         `json:"ok"`
	TrustDomain string       `json:"trust_domain"`
	Chain       string       `json:"chain"`
	Entries     uint64       `json:"entries"`
	Head        attest.Bytes `json:"head"`
	Checkpoints int          `json:"checkpoints"`
	Elsewhere   int          `json:"checkpoints_from_elsewhere"`
	Covered     uint64       `json:"covered"`
	Key         *string      `json:"key"`
	KeyPinned   bool         `json:"key_pinned"`
	Kind        *attest.Kind `json:"kind"`
	Check       *string      `json:"check"`
	Error       *string      `json:"error"`
	Hint        *string      `json:"hint"`
}

// prepare gathers what the chain is held against.
func (v *chainVerification) prepare(c *cobra.Command, keyFile string, witnesses []string) error {
	var err error
	if v.trustDomain, err = v.source.trustDomain(c.Context()); err != nil {
		return err
	}
	stored, text, err := v.source.checkpoints(c.Context())
	if err != nil {
		return err
	}
	if keyFile != "" {
		b, err := readInput(c, keyFile)
		if err != nil {
			return err
		}
		text, v.pinned = string(b), true
	}
	if text != "" {
		if v.key, err = ledger.ParseVerifierKey(text); err != nil {
			return cli.Usagef("`assayd init` writes it to checkpoint.pub", "the checkpoint key: %w", err)
		}
	}
	v.chain = chainOf(v.key, v.trustDomain)
	v.notes = stored
	for _, f := range witnesses {
		b, err := readInput(c, f)
		if err != nil {
			return err
		}
		notes := ledger.SplitNotes(b)
		if len(notes) == 0 {
			return cli.Usagef("a checkpoint is a signed note: text, an empty line, and a line that begins with —", "--checkpoint %s holds no checkpoint", f)
		}
		v.notes = append(v.notes, notes...)
		v.elsewhere += len(notes)
	}
	if text == "" && len(v.notes) > 0 {
		return cli.Usagef("give checkpoint.pub with --key", "there are checkpoints, and no key to verify them with")
	}
	return nil
}

// chainOf is the chain that a checkpoint key signs for: its name is that of the
// ledger.
func chainOf(key ledger.VerifierKey, trustDomain string) string {
	if chain, ok := strings.CutPrefix(key.Name(), ledger.ChainName(trustDomain, "")); ok && chain != "" {
		return chain
	}
	return ledger.MainChain
}

func (v *chainVerification) run(c *cobra.Command) (ledger.Report, error) {
	entries := v.source.entries(c.Context())
	if cli.IsTerminal(c.ErrOrStderr()) {
		entries = progress(c.ErrOrStderr(), entries)
	}
	return ledger.VerifyChain(v.trustDomain, v.chain, entries, v.notes, v.key)
}

// progress shows on a terminal how far it is, on one line that is wiped at the
// end.
func progress(w io.Writer, entries iter.Seq2[ledger.Item, error]) iter.Seq2[ledger.Item, error] {
	return func(yield func(ledger.Item, error) bool) {
		const every = 200 * time.Millisecond
		n, next, shown := 0, time.Now().Add(every), false
		defer func() {
			if shown {
				_, _ = fmt.Fprintf(w, "\r%40s\r", "")
			}
		}()
		for i, err := range entries {
			n++
			if now := time.Now(); now.After(next) {
				next, shown = now.Add(every), true
				_, _ = fmt.Fprintf(w, "\rverified %d entries", n)
			}
			if !yield(i, err) {
				return
			}
		}
	}
}

// warnings say what the result leaves open.
func (v *chainVerification) warnings(r ledger.Report, err error) []string {
	if err != nil {
		return nil
	}
	var out []string
	switch {
	case r.Checkpoints == 0:
		out = append(out, "there is no checkpoint: nobody could tell if the end had been cut off or the chain written anew")
	case v.elsewhere == 0:
		out = append(out, "every checkpoint comes from the source itself: give one that was kept elsewhere with --checkpoint")
	}
	if r.Checkpoints > 0 && !v.pinned {
		out = append(out, "the checkpoint key is the source's own word: pin it with --key")
	}
	return out
}

func (v *chainVerification) verdict(r ledger.Report, err error) chainVerdict {
	out := chainVerdict{
		OK: err == nil, TrustDomain: v.trustDomain, Chain: v.chain, KeyPinned: v.pinned, Elsewhere: v.elsewhere,
		Entries: r.Entries, Head: r.Head, Checkpoints: r.Checkpoints, Covered: r.Covered,
	}
	if v.key.Name() != "" {
		k := v.key.String()
		out.Key = &k
	}
	if err != nil {
		kind, check, text := attest.KindOf(err), attest.CheckOf(err), err.Error()
		out.Kind, out.Check, out.Error = &kind, &check, &text
		if h := cli.Hint(err); h != "" {
			out.Hint = &h
		}
	}
	return out
}

func (v *chainVerification) print(p *cli.Page, r ledger.Report) error {
	p.Linef("ok: %s of %s, every hash and every checkpoint holds", cli.Count(r.Entries, "entry", "entries"), ledger.ChainName(v.trustDomain, v.chain))
	p.Facts(
		cli.Fact{Name: "head", Value: r.Head.String()},
		cli.Fact{Name: "checkpoints", Value: fmt.Sprintf("%d, of which %d were kept elsewhere", r.Checkpoints, v.elsewhere)},
		cli.Fact{Name: "covered", Value: fmt.Sprintf("%s, %d since", cli.Count(r.Covered, "entry", "entries"), r.Entries-r.Covered)},
	)
	return p.Err()
}
