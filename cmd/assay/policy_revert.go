package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/policy"
)

func policyRevertCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "revert REVISION",
		Short: "Go back to the content of an older policy, as the next revision",
		Long: `Go back to the content of an older policy. A revision never comes back: the older
content is published as the next revision, and nothing but the number is changed
in it. What was withdrawn since then counts again: read it before.

Where the server demands signatures, nobody can publish without the signers. Then
use --out: it writes the content with the next revision to a file and publishes
nothing; have that signed, and push it.`,
		Example: `  assay policy revert 7 --note "release 42 is broken"
  assay policy revert 7 --out policy.yaml
  assay policy revert 7 --dry-run`,
		Args: cobra.ExactArgs(1),
	}
	socket := adminFlag(c)
	var note, out string
	var dryRun bool
	c.Flags().StringVar(&note, "note", "", "why, for the history: `TEXT` of at most 512 bytes")
	c.Flags().StringVar(&out, "out", "", "write the policy to a `FILE` to be signed, and publish nothing; - is standard output")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "have the server check it, and change nothing")
	c.MarkFlagsMutuallyExclusive("out", "dry-run")
	c.MarkFlagsMutuallyExclusive("out", "note")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		revision, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil || revision == 0 {
			return cli.Usagef("`assay policy history` lists them", "%q is not a revision", args[0])
		}
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // the answer is what counts
		s, err := a.PolicyStatus(c.Context(), &assayv1.PolicyStatusRequest{})
		if err != nil {
			return a.explainPolicy(err)
		}
		now := s.GetInForce().GetRevision()
		if revision == now {
			return cli.Usagef("", "revision %d is in force", revision)
		}
		if s.GetSigners() != nil && out == "" {
			return cli.Usagef(fmt.Sprintf("`assay policy revert %d --out policy.yaml` writes revision %d; have it signed with `assay policy sign`, then push it", revision, now+1),
				"the server demands signatures of %d of its signers, and nobody can publish without them: nothing was changed", s.GetSigners().GetThreshold())
		}
		_, source, err := a.policyOf(c, revision)
		if err != nil {
			return err
		}
		next, err := withRevision(fmt.Sprintf("revision %d", revision), source, now+1)
		if err != nil {
			return err
		}
		if out != "" {
			return writeOut(c, out, next)
		}
		if note == "" {
			note = fmt.Sprintf("back to revision %d", revision)
		}
		return a.push(c, *output, &assayv1.PushPolicyRequest{Document: next, Note: note, DryRun: dryRun, RevertsTo: revision})
	}
	return c
}

// withRevision exchanges the number of the revision in a policy, and nothing
// else. The result is compiled: it says the new number, or there is an error.
func withRevision(file string, src []byte, revision uint64) ([]byte, error) {
	n := strictyaml.OpenLimit(file, src, policy.MaxSize).Root().Get("revision")
	if n == nil {
		return nil, fmt.Errorf("%s: the policy has no revision", file)
	}
	at := offset(src, n.Line, n.Col)
	if at < 0 || !bytes.HasPrefix(src[at:], []byte(n.Value)) {
		return nil, fmt.Errorf("%s:%d:%d: the revision is not where it should be", file, n.Line, n.Col)
	}
	out := slices.Concat(src[:at], strconv.AppendUint(nil, revision, 10), src[at+len(n.Value):])
	b, err := policy.Parse(file, out)
	if err != nil {
		return nil, err // this release reads less than the one that accepted it
	}
	if b.Revision() != revision {
		return nil, fmt.Errorf("%s: revision %d was written, and %d is read", file, revision, b.Revision())
	}
	return out, nil
}

// offset is where a line and column (both from 1, in characters) are in bytes,
// or -1.
func offset(src []byte, line, col int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(src[at:], '\n')
		if i < 0 {
			return -1
		}
		at += i + 1
	}
	n := 0
	for i := range string(src[at:]) {
		if n++; n == col {
			return at + i
		}
	}
	return -1
}
