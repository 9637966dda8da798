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
		Short: "Verify the chains of hashes, and the checkpoints over them",
		Long: `Read the whole ledger and verify it here: every entry's hash, that each names the
one before it, and that every checkpoint is signed and agrees with its chain. Of
several servers each has a chain; that what their checkpoints say of each other
holds is verified too.

What a server says of itself proves little about that server. Give the
checkpoint key of every server with --key, from ` + "`assayd init` or `assayd join`" + `
(checkpoint.pub), and checkpoints that were kept elsewhere (the sink, a witness,
agents) with --checkpoint: only those can show that the end was cut off or a chain
was written anew.

The exit code is 4 when something does not hold.`,
		Example: `  assay ledger verify
  assay ledger verify --key checkpoint.pub --checkpoint /mnt/witness/checkpoints.txt
  assay ledger verify --key eu-1.pub --key eu-2.pub --checkpoint witness.txt
  assay ledger verify --db /var/lib/assay/assay.db --output json`,
		Args: cobra.NoArgs,
	}
	source := ledgerSourceFlags(c)
	keys := c.Flags().StringArray("key", nil, "`FILE` with a server's checkpoint key; may be repeated; without any, what the source says is used")
	witnesses := c.Flags().StringArray("checkpoint", nil, "`FILE` with checkpoints that were kept elsewhere; may be repeated")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		src, err := source.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		v := chainVerification{source: src}
		if err := v.prepare(c, *keys, *witnesses); err != nil {
			return err
		}
		reports, err := v.run(c)
		for _, w := range v.warnings(reports, err) {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *output == cli.JSON {
			if perr := cli.PrintJSON(c.OutOrStdout(), v.verdict(reports, err)); perr != nil {
				return perr
			}
			return silently(err)
		}
		if err != nil {
			return err
		}
		return v.print(cli.NewPage(c.OutOrStdout()), reports)
	}
	return c
}

// chainVerification is one run of `ledger verify`.
type chainVerification struct {
	source      ledgerSource
	trustDomain string
	chains      []ledger.Chain
	pinned      bool     // the keys are the user's, not the source's word
	witnessed   [][]byte // what was kept elsewhere
}

// chainVerdict is the JSON output of `ledger verify`. What it says of one chain
// stands at the top too where there is one alone.
type chainVerdict struct {
	OK          bool            `json:"ok"`
	TrustDomain string          `json:"trust_domain"`
	Chain       string          `json:"chain"`   // the only one; of several, ""
	Entries     uint64          `json:"entries"` // of all chains
	Head        attest.Bytes    `json:"head"`    // of the only chain
	Checkpoints int             `json:"checkpoints"`
	Elsewhere   int             `json:"checkpoints_from_elsewhere"`
	Covered     uint64          `json:"covered"`
	Key         *string         `json:"key"` // of the only chain
	KeyPinned   bool            `json:"key_pinned"`
	Chains      []ledger.Report `json:"chains"` // empty where something does not hold
	Kind        *attest.Kind    `json:"kind"`
	Check       *string         `json:"check"`
	Error       *string         `json:"error"`
	Hint        *string         `json:"hint"`
}

// prepare gathers what the chains are held against.
func (v *chainVerification) prepare(c *cobra.Command, keyFiles, witnesses []string) error {
	var err error
	if v.trustDomain, err = v.source.trustDomain(c.Context()); err != nil {
		return err
	}
	found, err := v.source.chains(c.Context(), false)
	if err != nil {
		return err
	}
	for _, f := range witnesses {
		b, err := readInput(c, f)
		if err != nil {
			return err
		}
		notes := ledger.SplitNotes(b)
		if len(notes) == 0 {
			return cli.Usagef("a checkpoint is a signed note: text, an empty line, and a line that begins with —", "--checkpoint %s holds no checkpoint", f)
		}
		v.witnessed = append(v.witnessed, notes...)
	}
	pinned := map[string]ledger.VerifierKey{} // by server
	for _, f := range keyFiles {
		b, err := readInput(c, f)
		if err != nil {
			return err
		}
		k, err := ledger.ParseVerifierKey(string(b))
		if err != nil {
			return cli.Usagef("`assayd init` writes it to checkpoint.pub", "the checkpoint key: %w", err)
		}
		owner := ledger.ChainOwner(chainNamed(k, v.trustDomain))
		if _, twice := pinned[owner]; twice {
			return cli.Usagef("each server has one", "--key %s is a second key of server %s", f, owner)
		}
		pinned[owner], v.pinned = k, true
	}
	for _, x := range found {
		chain := ledger.Chain{Name: x.name, Checkpoints: x.notes, Entries: v.source.entries(c.Context(), x.name)}
		if cli.IsTerminal(c.ErrOrStderr()) {
			chain.Entries = progress(c.ErrOrStderr(), chain.Entries)
		}
		if chain.Key, err = v.keyOf(x, pinned, len(found)); err != nil {
			return err
		}
		v.chains = append(v.chains, chain)
	}
	return nil
}

// keyOf is the key that a chain's checkpoints are held against.
func (v *chainVerification) keyOf(x chainOf, pinned map[string]ledger.VerifierKey, chains int) (ledger.VerifierKey, error) {
	name := ledger.ChainName(v.trustDomain, x.name)
	if k, ok := pinned[ledger.ChainOwner(x.name)]; ok {
		return k.For(name)
	}
	if v.pinned && chains == 1 { // another server's key: the signatures will say so
		for _, k := range pinned {
			return k, nil
		}
	}
	switch {
	case v.pinned:
		return ledger.VerifierKey{}, cli.Usagef("give the key of every server with --key: its checkpoint.pub", "there is no --key for chain %s", x.name)
	case x.key == "" && (len(x.notes) > 0 || len(v.witnessed) > 0):
		return ledger.VerifierKey{}, cli.Usagef("give checkpoint.pub with --key", "there are checkpoints, and no key to verify them with")
	case x.key == "":
		return ledger.VerifierKey{}, nil
	}
	k, err := ledger.ParseVerifierKey(x.key)
	if err != nil {
		return ledger.VerifierKey{}, cli.Usagef("`assayd init` writes it to checkpoint.pub", "the checkpoint key: %w", err)
	}
	return k, nil
}

// chainNamed is the chain that a checkpoint key signs for: its name is that of the
// ledger.
func chainNamed(key ledger.VerifierKey, trustDomain string) string {
	if chain, ok := strings.CutPrefix(key.Name(), ledger.ChainName(trustDomain, "")); ok && chain != "" {
		return chain
	}
	return ledger.MainChain
}

func (v *chainVerification) run(*cobra.Command) ([]ledger.Report, error) {
	return ledger.VerifyLedger(v.trustDomain, v.chains, v.witnessed)
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
func (v *chainVerification) warnings(reports []ledger.Report, err error) []string {
	if err != nil {
		return nil
	}
	var out []string
	checkpoints := 0
	for _, r := range reports {
		checkpoints += r.Checkpoints
		if r.Checkpoints == 0 && len(reports) > 1 {
			out = append(out, fmt.Sprintf("there is no checkpoint of chain %s", r.Chain))
		}
	}
	switch {
	case checkpoints == 0:
		out = append(out, "there is no checkpoint: nobody could tell if the end had been cut off or the chain written anew")
	case len(v.witnessed) == 0:
		out = append(out, "every checkpoint comes from the source itself: give one that was kept elsewhere with --checkpoint")
	}
	if checkpoints > 0 && !v.pinned {
		out = append(out, "the checkpoint key is the source's own word: pin it with --key")
	}
	return out
}

func (v *chainVerification) verdict(reports []ledger.Report, err error) chainVerdict {
	out := chainVerdict{OK: err == nil, TrustDomain: v.trustDomain, KeyPinned: v.pinned, Elsewhere: len(v.witnessed), Chains: []ledger.Report{}}
	if len(v.chains) == 1 {
		out.Chain = v.chains[0].Name
		if k := v.chains[0].Key; k.Name() != "" {
			text := k.String()
			out.Key = &text
		}
	}
	for _, r := range reports {
		out.Chains = append(out.Chains, r)
		out.Entries, out.Checkpoints, out.Covered = out.Entries+r.Entries, out.Checkpoints+r.Checkpoints, out.Covered+r.Covered
		if len(reports) == 1 {
			out.Head = r.Head
		}
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

func (v *chainVerification) print(p *cli.Page, reports []ledger.Report) error {
	for _, r := range reports {
		p.Linef("ok: %s of %s, every hash and every checkpoint holds", cli.Count(r.Entries, "entry", "entries"), ledger.ChainName(v.trustDomain, r.Chain))
		facts := []cli.Fact{{Name: "head", Value: r.Head.String()}}
		if len(reports) == 1 {
			facts = append(facts, cli.Fact{Name: "checkpoints", Value: fmt.Sprintf("%d, of which %d were kept elsewhere", r.Checkpoints, len(v.witnessed))})
		} else {
			facts = append(facts, cli.Fact{Name: "checkpoints", Value: fmt.Sprint(r.Checkpoints)}, cli.Fact{Name: "seen by others", Value: fmt.Sprintf("%d times", r.Peers)})
		}
		p.Facts(append(facts, cli.Fact{Name: "covered", Value: fmt.Sprintf("%s, %d since", cli.Count(r.Covered, "entry", "entries"), r.Entries-r.Covered)})...)
	}
	if len(reports) > 1 {
		p.Linef("ok: %d chains agree; %s kept elsewhere", len(reports), cli.Count(len(v.witnessed), "checkpoint was", "checkpoints were"))
	}
	return p.Err()
}
