package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// policyPushed is the JSON output of `policy push` and `policy revert`.
type policyPushed struct {
	Policy    string         `json:"policy"` // "name@revision" in force, or that would be
	Digest    attest.Bytes   `json:"digest"`
	Previous  string         `json:"previous"`
	Unchanged bool           `json:"unchanged"` // it was in force already
	DryRun    bool           `json:"dry_run"`
	Signers   []attest.Bytes `json:"signers"`
}

func policyPushCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "push FILE",
		Short: "Put a policy into force on a running server",
		Long: `Put a policy, plain or signed, into force on a running server. The server checks
it as one from its policy file: it must compile, be for its trust domain, have the
name of the policy in force and a higher revision, and the signatures that
policy_signers in its configuration demands. Otherwise the policy in force stays.

A pushed policy is on record, with who pushed it, before anything is decided by
it. It stays in force over a restart, until the policy file holds a higher
revision. Pushing what is in force already changes nothing and is no error.`,
		Example: `  assay policy push policy.yaml --note "release 42"
  assay policy push policy.signed --dry-run`,
		Args: cobra.ExactArgs(1),
	}
	socket := adminFlag(c)
	var note string
	var dryRun bool
	c.Flags().StringVar(&note, "note", "", "why, for the history: `TEXT` of at most 512 bytes")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "have the server check it, and change nothing")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		raw, err := readDocument(c, args[0])
		if err != nil {
			return err
		}
		// Here the mistakes can be shown in the file.
		if _, err := compileDocument(args[0], raw); err != nil {
			return err
		}
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // the answer is what counts
		return a.push(c, *output, &assayv1.PushPolicyRequest{Document: raw, Note: note, DryRun: dryRun})
	}
	return c
}

// compileDocument compiles a policy, plain or signed by whomever.
func compileDocument(file string, raw []byte) (*policy.Bundle, error) {
	if !signed.Is(raw) {
		return policy.Parse(file, raw)
	}
	u, err := signed.Open(raw)
	if err != nil {
		return nil, err
	}
	return u.Compile(file)
}

// push asks the server, and prints what became of it.
func (a *admin) push(c *cobra.Command, output cli.Format, req *assayv1.PushPolicyRequest) error {
	r, err := a.PushPolicy(c.Context(), req, grpc.MaxCallSendMsgSize(signed.MaxSize+64<<10))
	if err != nil {
		return a.explainPolicy(err)
	}
	if !req.GetDryRun() {
		a.warnOfFile(c)
	}
	done := policyPushed{
		Policy: r.GetPolicy(), Digest: r.GetDigest(), Previous: r.GetPrevious(), Unchanged: r.GetUnchanged(), DryRun: req.GetDryRun(), Signers: keyIDs(r.GetSigners()),
	}
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), done)
	}
	p := cli.NewPage(c.OutOrStdout())
	switch {
	case done.Unchanged:
		p.Linef("%s is in force already", done.Policy)
	case done.DryRun:
		p.Linef("%s would be in force; %s is", done.Policy, done.Previous)
	default:
		p.Linef("%s is in force; it was %s", done.Policy, done.Previous)
	}
	p.Facts(append([]cli.Fact{{Name: "digest", Value: done.Digest.String()}}, idFacts("signed by", done.Signers)...)...)
	return p.Err()
}

// warnOfFile says that the server's policy file holds something else now.
func (a *admin) warnOfFile(c *cobra.Command) {
	s, err := a.PolicyStatus(c.Context(), &assayv1.PolicyStatusRequest{})
	if err != nil {
		return // what was asked for is done
	}
	if why := s.GetFileOutrun(); why != "" {
		cli.Warn(c.ErrOrStderr(), "the server's policy file is older: %s", why)
	}
}

// explainPolicy is explain for what the server says of a policy: the exit code
// is that of the kind that it found.
func (a *admin) explainPolicy(err error) error {
	st := status.Convert(err)
	text, hint, _ := strings.Cut(st.Message(), "\nhint: ")
	refused := func(kind attest.Kind) error {
		return &attest.Error{Kind: kind, Check: "policy_refused", Err: errors.New(text), Hint: hint}
	}
	switch st.Code() { //nolint:exhaustive // the others are of the socket, not of the policy
	case codes.Unauthenticated:
		return refused(attest.Untrusted)
	case codes.Aborted:
		return refused(attest.Stale)
	case codes.PermissionDenied:
		return refused(attest.Denied)
	case codes.FailedPrecondition:
		return cli.Usagef(hint, "%s", text)
	case codes.InvalidArgument:
		return cli.Usagef("", "%s", st.Message())
	}
	return a.explain(err)
}
