package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// policyChange is one change of the policy in force in JSON, or one that was
// refused.
type policyChange struct {
	ID       uint64         `json:"id"`
	Time     time.Time      `json:"time"`
	Outcome  string         `json:"outcome"`  // "in_force" or "refused"
	Policy   string         `json:"policy"`   // "name@revision"; "" of what could not be read
	Revision uint64         `json:"revision"` // 0 of what could not be read
	Digest   attest.Bytes   `json:"digest"`
	Source   string         `json:"source"` // "file", "push", "revert"
	Actor    string         `json:"actor"`
	Note     string         `json:"note"`
	Signers  []attest.Bytes `json:"signers"`
	Detail   string         `json:"detail"` // why it was refused
	Size     int64          `json:"size"`
	Kept     bool           `json:"kept"` // its content can be had
}

func changeOf(c *assayv1.PolicyChange) policyChange {
	out := policyChange{
		ID: c.GetId(), Time: unixMilli(c.GetTimeUnixMs()), Outcome: "in_force", Revision: c.GetRevision(), Digest: c.GetDigest(),
		Source: c.GetSource(), Actor: c.GetActor(), Note: c.GetNote(), Signers: keyIDs(c.GetSigners()), Detail: c.GetDetail(), Size: c.GetSize(), Kept: c.GetKept(),
	}
	if c.GetName() != "" {
		out.Policy = fmt.Sprintf("%s@%d", c.GetName(), c.GetRevision())
	}
	if c.GetRefused() {
		out.Outcome = "refused"
	}
	return out
}

// policyStatus is the JSON output of `policy status`.
type policyStatus struct {
	InForce     policyChange   `json:"in_force"`
	Threshold   uint32         `json:"threshold"` // 0: no signatures are demanded
	SignerKeys  []attest.Bytes `json:"signer_keys"`
	BundleName  string         `json:"bundle"` // the one name that is taken; "" is that in force
	File        string         `json:"file"`
	FilePolicy  string         `json:"file_policy"`
	FileRefused *string        `json:"file_refused"`
	FileOutrun  *string        `json:"file_outrun"`
	LastRefused *policyChange  `json:"last_refused"`
}

func policyStatusOf(r *assayv1.PolicyStatusResponse) policyStatus {
	optional := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	out := policyStatus{
		InForce: changeOf(r.GetInForce()), Threshold: r.GetSigners().GetThreshold(), SignerKeys: keyIDs(r.GetSigners().GetKeyIds()), BundleName: r.GetSigners().GetBundle(),
		File: r.GetFile(), FilePolicy: r.GetFilePolicy(), FileRefused: optional(r.GetFileRefused()), FileOutrun: optional(r.GetFileOutrun()),
	}
	if r.GetLastRefused() != nil {
		c := changeOf(r.GetLastRefused())
		out.LastRefused = &c
	}
	return out
}

func policyStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show which policy a server has in force, and what it demands of the next",
		Long: `Show which policy a server has in force, since when and by whom, whose signatures
it demands of the next, and how its policy file stands to it. What needs attention
is printed as warnings on standard error too.`,
		Example: `  assay policy status
  assay policy status --admin /tmp/assay/admin.sock --output json`,
		Args: cobra.NoArgs,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // nothing was written
		r, err := a.PolicyStatus(c.Context(), &assayv1.PolicyStatusRequest{})
		if err != nil {
			return a.explainPolicy(err)
		}
		s := policyStatusOf(r)
		if s.FileRefused != nil {
			cli.Warn(c.ErrOrStderr(), "the policy file is refused: %s", *s.FileRefused)
		}
		if s.FileOutrun != nil {
			cli.Warn(c.ErrOrStderr(), "the policy file is older: %s", *s.FileOutrun)
		}
		if s.LastRefused != nil {
			cli.Warn(c.ErrOrStderr(), "refused at %s, from %s: %s", stamp(s.LastRefused.Time), s.LastRefused.Actor, s.LastRefused.Detail)
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), s)
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("%s is in force", s.InForce.Policy)
		facts := []cli.Fact{
			{Name: "since", Value: stamp(s.InForce.Time)},
			{Name: "from", Value: s.InForce.Source + ", " + s.InForce.Actor},
			{Name: "digest", Value: s.InForce.Digest.String()},
			{Name: "signed by", Value: idList(s.InForce.Signers)},
			{Name: "file", Value: s.File + ", which holds " + s.FilePolicy},
			{Name: "the next needs", Value: s.demands()},
		}
		if s.InForce.Note != "" {
			facts = append(facts, cli.Fact{Name: "note", Value: s.InForce.Note})
		}
		p.Facts(facts...)
		return p.Err()
	}
	return c
}

func (s policyStatus) demands() string {
	if s.Threshold == 0 {
		return "a higher revision"
	}
	return fmt.Sprintf("a higher revision, and signatures of %d of %s", s.Threshold, cli.Count(len(s.SignerKeys), "signer"))
}
