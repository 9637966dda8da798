package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/tpms"
)

// defaultGroup is where TPMs go that are added without a group.
const defaultGroup = "default"

func ekCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ek",
		Short: "Keep the inventory of TPMs: which machines are yours",
		Long: `The inventory lists the TPMs of your machines by their endorsement keys (EK), in
groups. Policies match it as ek_inventory, which says whose machine it is; and a
TPM without a manufacturer's certificate is admitted only if it is listed.

An EK is named by SHA-256 of its SubjectPublicKeyInfo (DER), 64 hex digits. Where
EK is wanted, a file is as good: its certificate or public key (PEM or DER), or
its public area as tpm2_createek and tpm2_readpublic write it.

The commands ask a running server over its admin socket; it applies changes at
once, and logs them.`,
		Example: `  assay ek add --group rack-4 ek-certificate.pem
  assay ek list
  assay ek import machines.csv`,
	}
	c.AddCommand(ekAddCommand(), ekListCommand(), ekRemoveCommand(), ekImportCommand())
	return c
}

// inventoryEntry is a TPM of the inventory in JSON.
type inventoryEntry struct {
	EK        attest.Bytes `json:"ek"`
	Group     string       `json:"group"`
	Note      string       `json:"note"`
	Added     *time.Time   `json:"added"`     // null where the server sets it later
	Activated *time.Time   `json:"activated"` // null: no attestation key was activated yet
}

// inventoryChange is the JSON output of `ek add` and `ek import`.
type inventoryChange struct {
	Added    uint32           `json:"added"`
	Replaced uint32           `json:"replaced"`
	Entries  []inventoryEntry `json:"entries"`
}

func ekAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add EK|FILE...",
		Short: "Add TPMs to the inventory",
		Long: `Add TPMs to the inventory, all of them or none. One that is listed with the same
group and note is left as it is; with others it is an error that names it, unless
--replace is given.`,
		Example: `  assay ek add --group rack-4 --note "host 17" ek.pub
  assay ek add 3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b`,
		Args: cobra.MinimumNArgs(1),
	}
	socket := adminFlag(c)
	group := c.Flags().String("group", defaultGroup, "`GROUP` that policies match as ek_inventory")
	note := c.Flags().String("note", "", "a line of `TEXT` for people")
	replace := c.Flags().Bool("replace", false, "replace group and note of TPMs that are listed already")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var entries []tpms.Entry
		for _, arg := range args {
			ek, err := readEK(c, arg)
			if err != nil {
				return err
			}
			e := tpms.Entry{EK: ek, Group: *group, Note: *note}
			if err := e.Check(); err != nil {
				return cli.Usagef("", "%w", err)
			}
			if slices.ContainsFunc(entries, func(o tpms.Entry) bool { return o.EK == ek }) {
				return cli.Usagef("", "%s: the TPM %s is named twice", arg, ek)
			}
			entries = append(entries, e)
		}
		return addTPMs(c, *socket, entries, *replace, *output)
	}
	return c
}

// maxBatch is how many TPMs one message holds: 16 KiB without notes, and far
// below the server's limit with the longest.
const maxBatch = 100

// addTPMs streams entries to the server, which adds all or none.
func addTPMs(c *cobra.Command, socket string, entries []tpms.Entry, replace bool, output cli.Format) error {
	a, err := openAdmin(socket, "name the socket with --admin SOCKET")
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }() // the answer is what counts
	ctx, cancel := context.WithTimeout(c.Context(), 4*adminTimeout)
	defer cancel()
	stream, err := a.AddEndorsementKeys(ctx)
	if err != nil {
		return ekRefused(a, err)
	}
	for part := range slices.Chunk(entries, maxBatch) {
		msg := &assayv1.AddEndorsementKeysRequest{Replace: replace}
		for _, e := range part {
			msg.Keys = append(msg.Keys, &assayv1.EndorsementKey{Ek: e.EK[:], Group: e.Group, Note: e.Note})
		}
		if err := stream.Send(msg); err != nil {
			break // the reason is in the answer
		}
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return ekRefused(a, err)
	}
	if output == cli.JSON {
		out := inventoryChange{Added: r.GetAdded(), Replaced: r.GetReplaced(), Entries: []inventoryEntry{}}
		for _, e := range entries {
			out.Entries = append(out.Entries, inventoryEntry{EK: e.EK[:], Group: e.Group, Note: e.Note})
		}
		return cli.PrintJSON(c.OutOrStdout(), out)
	}
	p := cli.NewPage(c.OutOrStdout())
	if len(entries) <= 10 {
		for _, e := range entries {
			p.Linef("%s %s", e.EK, e.Group)
		}
	}
	same := len(entries) - int(r.GetAdded()) - int(r.GetReplaced())
	p.Linef("%s added, %d replaced, %d as before", cli.Count(uint64(r.GetAdded()), "TPM"), r.GetReplaced(), same)
	return p.Err()
}

// ekRefused explains what the server did not do.
func ekRefused(a *admin, err error) error {
	st := status.Convert(err)
	switch st.Code() { //nolint:exhaustive // the rest is as for every other command
	case codes.AlreadyExists:
		return cli.Usagef("--replace gives them the new group and note", "some are in the inventory otherwise, and nothing was changed: %s", st.Message())
	case codes.NotFound:
		return cli.Usagef("`assay ek list` shows what is there", "nothing was removed: %s", st.Message())
	case codes.FailedPrecondition:
		return cli.Usagef("", "%s", st.Message())
	}
	return a.explain(err)
}

func ekRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove EK|FILE...",
		Short: "Take TPMs out of the inventory",
		Long: `Take TPMs out of the inventory, all of them or none, and forget the attestation
keys that were activated beside them.

SVIDs that were issued stay valid until they end. Machines that are watching are
asked to renew at once, and every renewal is decided without the inventory: a
policy that matches ek_inventory denies it.`,
		Example: "  assay ek remove 3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b",
		Args:    cobra.MinimumNArgs(1),
	}
	socket := adminFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		req := &assayv1.RemoveEndorsementKeysRequest{}
		for _, arg := range args {
			ek, err := readEK(c, arg)
			if err != nil {
				return err
			}
			req.Ek = append(req.Ek, ek[:])
		}
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // the answer is what counts
		if _, err := a.RemoveEndorsementKeys(c.Context(), req); err != nil {
			return ekRefused(a, err)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s removed\n", cli.Count(len(args), "TPM"))
		return err
	}
	return c
}

func ekListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the inventory, by group",
		Long: `List the inventory, by group and EK. "activated" is when an attestation key of the
TPM was last shown to live beside its endorsement key.

JSON is one object a line, so that a list of any length can be streamed.`,
		Example: `  assay ek list
  assay ek list --group rack-4 --output json`,
		Args: cobra.NoArgs,
	}
	source := ledgerSourceFlags(c)
	group := c.Flags().String("group", "", "only this `GROUP`")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		entries, err := listTPMs(c.Context(), source, *group)
		if err != nil {
			return err
		}
		if *output == cli.JSON {
			for _, e := range entries {
				if err := cli.PrintJSONLine(c.OutOrStdout(), e); err != nil {
					return err
				}
			}
			return nil
		}
		p := cli.NewPage(c.OutOrStdout())
		rows := make([][]string, len(entries))
		for i, e := range entries {
			rows[i] = []string{e.Group, e.EK.String(), moment(e.Added), moment(e.Activated), e.Note}
		}
		if len(rows) == 0 {
			p.Linef("no TPMs")
			return p.Err()
		}
		p.Table([]string{"group", "EK", "added", "activated", "note"}, rows)
		return p.Err()
	}
	return c
}

func moment(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return stamp(*t)
}

// known is nil for a time that is not known.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// listTPMs reads the inventory from a server or a database file.
func listTPMs(ctx context.Context, f sourceFlags, group string) ([]inventoryEntry, error) {
	src, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }() // only read
	var out []inventoryEntry
	switch s := src.(type) {
	case dbSource:
		list, err := s.TPMInventory(ctx, s.td)
		if err != nil {
			return nil, err
		}
		for _, e := range tpms.Select(list, group) {
			out = append(out, inventoryEntry{EK: e.EK[:], Group: e.Group, Note: e.Note, Added: known(e.AddedAt), Activated: known(e.ActivatedAt)})
		}
	case adminSource:
		stream, err := s.ListEndorsementKeys(ctx, &assayv1.ListEndorsementKeysRequest{Group: group})
		if err != nil {
			return nil, ekRefused(s.admin, err)
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return out, nil
			}
			if err != nil {
				return nil, ekRefused(s.admin, err)
			}
			out = append(out, inventoryEntry{EK: e.GetEk(), Group: e.GetGroup(), Note: e.GetNote(), Added: known(unixMilli(e.GetAddedUnixMs())), Activated: known(unixMilli(e.GetActivatedUnixMs()))})
		}
	default:
		return nil, fmt.Errorf("no inventory in a %T", src)
	}
	return out, nil
}
