package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/policy/signed"
)

func policyHistoryCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "history",
		Short: "List what changed the policy of a server, or get a policy of the past",
		Long: `List the changes of the policy in force and those that were refused, the newest
last: what, when, from where, by whom, and why. --limit counts from the newest.

With --revision: the policy of that revision, byte for byte, on standard output;
or, with --out, the document as it was given, with its signatures.

JSON is one object a line, so that a list of any length can be streamed.`,
		Example: `  assay policy history
  assay policy history --in-force --output json
  assay policy history --revision 7 > policy-7.yaml
  assay policy history --revision 8 --out policy.signed`,
		Args: cobra.NoArgs,
	}
	socket := adminFlag(c)
	var limit uint32
	var inForce bool
	var revision uint64
	var out string
	c.Flags().Uint32Var(&limit, "limit", 50, "at most this many; 0 is all")
	c.Flags().BoolVar(&inForce, "in-force", false, "leave out what was refused")
	c.Flags().Uint64Var(&revision, "revision", 0, "get the policy of this `REVISION`")
	c.Flags().StringVar(&out, "out", "", "with --revision: `FILE` for the document as it was given")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if out != "" && revision == 0 {
			return cli.Usagef("for example --revision 7 --out policy.yaml", "--out needs --revision")
		}
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // nothing was written
		if revision != 0 {
			return a.writePolicy(c, revision, out)
		}
		return a.listChanges(c, *output, &assayv1.ListPolicyChangesRequest{Limit: limit, InForceOnly: inForce})
	}
	return c
}

// policyOf gets a policy of the past: as it was given, and its source.
func (a *admin) policyOf(c *cobra.Command, revision uint64) (document, source []byte, err error) {
	r, err := a.GetPolicy(c.Context(), &assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Revision{Revision: revision}}, grpc.MaxCallRecvMsgSize(signed.MaxSize+64<<10))
	if err != nil {
		err = a.explainPolicy(err)
		if errors.Is(err, errNotFound) {
			err = cli.Usagef("`assay policy history --in-force` lists what was, and whether it is kept", "revision %d: %w", revision, err)
		}
		return nil, nil, err
	}
	document = r.GetDocument()
	if !signed.Is(document) {
		return document, document, nil
	}
	u, err := signed.Open(document)
	if err != nil {
		return nil, nil, err
	}
	return document, u.UnverifiedPayload(), nil
}

func (a *admin) writePolicy(c *cobra.Command, revision uint64, out string) error {
	document, source, err := a.policyOf(c, revision)
	if err != nil {
		return err
	}
	if out != "" && out != "-" {
		return replaceFile(out, document)
	}
	if out == "-" {
		source = document
	}
	_, err = c.OutOrStdout().Write(source)
	return err
}

func (a *admin) listChanges(c *cobra.Command, output cli.Format, req *assayv1.ListPolicyChangesRequest) error {
	stream, err := a.ListPolicyChanges(c.Context(), req)
	if err != nil {
		return a.explainPolicy(err)
	}
	var all []policyChange
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return a.explainPolicy(err)
		}
		all = append(all, changeOf(r))
	}
	slices.Reverse(all) // the newest last, as in `ledger list`
	if output == cli.JSON {
		for _, x := range all {
			if err := cli.PrintJSONLine(c.OutOrStdout(), x); err != nil {
				return err
			}
		}
		return nil
	}
	var rows [][]string
	for _, x := range all {
		name, why := x.Policy, x.Note
		if name == "" {
			name = "unreadable"
		}
		if x.Outcome == "refused" {
			why = x.Detail
		}
		rows = append(rows, []string{stamp(x.Time), x.Outcome, name, x.Source, x.Actor, fmt.Sprint(len(x.Signers)), clipTo(why, 80)})
	}
	p := cli.NewPage(c.OutOrStdout())
	if len(rows) == 0 {
		p.Linef("no changes are on record")
		return p.Err()
	}
	p.Table([]string{"time", "outcome", "policy", "source", "actor", "signers", "why"}, rows)
	return p.Err()
}

// clipTo bounds a cell of a table, in characters.
func clipTo(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
