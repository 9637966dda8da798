package main

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func authorityCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "authority",
		Short: "List, prepare, activate, taint and revoke the keys that sign",
		Long: `List, prepare, activate, taint and revoke the keys that sign: X.509-SVIDs (x509),
JWT-SVIDs (jwt), attestation results (verifier) and deny-lists (deny-list).

Servers do all of this by themselves, in time. These commands are for the days on
which that is not enough: a key that may have been stolen, or a CA above ours that
signs requests by hand.`,
		Example: `  assay authority list
  assay authority prepare x509
  assay authority taint x509 3f1a0c55d2b94e70 --reason "laptop with a backup was lost"`,
	}
	c.AddCommand(authorityListCommand(), authorityPrepareCommand(), authorityActivateCommand(), authorityTaintCommand(), authorityRevokeCommand(),
		authorityCSRCommand(), authorityImportCommand())
	return c
}

// authorityJSON is an authority in JSON.
type authorityJSON struct {
	Use       string     `json:"use"` // "x509", "jwt", "verifier", "deny-list"
	ID        string     `json:"id"`
	Server    string     `json:"server"`
	State     string     `json:"state"` // "requested", "prepared", "active", "retired", "tainted", "revoked"
	NotBefore time.Time  `json:"not_before"`
	NotAfter  time.Time  `json:"not_after"`
	Published *time.Time `json:"published"` // null: not yet
	Usable    *time.Time `json:"usable"`    // from when on it may sign; null: not known yet
	LastSVID  *time.Time `json:"last_svid"` // the latest end of what it signed; null: nothing that is known
	KeyID     string     `json:"key_id"`    // of JWT authorities
	Reason    string     `json:"reason"`
	Actor     string     `json:"actor"`
	Public    []string   `json:"public"` // base64 of DER: the certificates, its own first; or the SubjectPublicKeyInfo; or the request
}

func authorityOf(a *assayv1.Authority) authorityJSON {
	out := authorityJSON{
		Use: useName(a.GetUse()), ID: a.GetId(), Server: a.GetServer(), State: stateName(a.GetState()),
		NotBefore: unixMilli(a.GetNotBeforeUnixMs()), NotAfter: unixMilli(a.GetNotAfterUnixMs()),
		Published: known(unixMilli(a.GetPublishedUnixMs())), Usable: known(unixMilli(a.GetUsableUnixMs())), LastSVID: known(unixMilli(a.GetLastSvidUnixMs())),
		KeyID: a.GetKeyId(), Reason: a.GetReason(), Actor: a.GetActor(), Public: []string{},
	}
	for _, der := range a.GetPublic() {
		out.Public = append(out.Public, base64.StdEncoding.EncodeToString(der))
	}
	return out
}

// useNames are the uses as they are written.
func useNames() []string { return []string{"x509", "jwt", "verifier", "deny-list"} }

func useName(u assayv1.AuthorityUse) string {
	s, ok := strings.CutPrefix(u.String(), "AUTHORITY_USE_")
	if !ok {
		return "unknown"
	}
	return strings.ReplaceAll(strings.ToLower(s), "_", "-")
}

func stateName(s assayv1.AuthorityState) string {
	name, ok := strings.CutPrefix(s.String(), "AUTHORITY_STATE_")
	if !ok {
		return "unknown"
	}
	return strings.ToLower(name)
}

func parseUse(name string) (assayv1.AuthorityUse, error) {
	for _, u := range []assayv1.AuthorityUse{
		assayv1.AuthorityUse_AUTHORITY_USE_X509, assayv1.AuthorityUse_AUTHORITY_USE_JWT,
		assayv1.AuthorityUse_AUTHORITY_USE_VERIFIER, assayv1.AuthorityUse_AUTHORITY_USE_DENY_LIST,
	} {
		if useName(u) == name {
			return u, nil
		}
	}
	return 0, cli.Usagef("", "%q is no use of an authority: want %s", name, strings.Join(useNames(), ", "))
}

// completeUse completes the first argument.
func completeUse(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return useNames(), cobra.ShellCompDirectiveNoFileComp
}

// authorities is a connection to a server's service for authorities.
type authorities struct {
	assayv1.AuthoritiesClient
	*admin
}

func openAuthorities(socket string) (*authorities, error) {
	a, err := openAdmin(socket, "name the socket with --admin SOCKET")
	if err != nil {
		return nil, err
	}
	return &authorities{assayv1.NewAuthoritiesClient(a.conn), a}, nil
}

// refused explains what the server did not do.
func (a *authorities) refused(err error) error {
	st := status.Convert(err)
	text, hint, _ := strings.Cut(st.Message(), "\nhint: ")
	switch st.Code() { //nolint:exhaustive // the rest is as for every other command
	case codes.NotFound:
		return cli.Usagef("`assay authority list` shows what there is", "%s", text)
	case codes.Aborted, codes.FailedPrecondition, codes.InvalidArgument:
		return cli.Usagef(hint, "%s", text)
	case codes.Unavailable:
		if hint != "" {
			return unavailable(hint, "%s", text)
		}
	}
	return a.explain(err)
}

// told prints what a command made of one authority.
func told(c *cobra.Command, output cli.Format, r *assayv1.AuthorityResponse, format string, args ...any) error {
	a := authorityOf(r.GetAuthority())
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), a)
	}
	p := cli.NewPage(c.OutOrStdout())
	p.Linef(format, args...)
	p.Facts(a.facts()...)
	return p.Err()
}

func (a authorityJSON) facts() []cli.Fact {
	facts := []cli.Fact{
		{Name: "authority", Value: a.Use + " " + a.ID + " of the server " + a.Server},
		{Name: "state", Value: a.State},
		{Name: "valid", Value: stamp(a.NotBefore) + " until " + stamp(a.NotAfter)},
		{Name: "published", Value: moment(a.Published)},
	}
	if a.State == "prepared" {
		facts = append(facts, cli.Fact{Name: "may sign from", Value: moment(a.Usable)})
	}
	if a.KeyID != "" {
		facts = append(facts, cli.Fact{Name: "key id", Value: a.KeyID})
	}
	return facts
}

func authorityListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list [USE]",
		Short: "List the authorities of the trust domain, of all servers, oldest first",
		Long: `List the authorities of the trust domain, of all servers, oldest first.

The one that signs is active; of several active ones of a server, the newest
signs. "may sign" is from when on a prepared one can: it must have been published
for the propagation time. "last SVID" is when the last of what it signed ends, as
far as the server knows. Those that are revoked or at their end are left out,
unless --all is given.`,
		Example: `  assay authority list
  assay authority list jwt --all --output json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeUse,
	}
	socket := adminFlag(c)
	all := c.Flags().Bool("all", false, "also those that are revoked")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		req := &assayv1.ListAuthoritiesRequest{}
		if len(args) == 1 {
			use, err := parseUse(args[0])
			if err != nil {
				return err
			}
			req.Use = use
		}
		r, err := ask(c, openAuthorities, *socket, (*authorities).ListAuthorities, req, (*authorities).refused)
		if err != nil {
			return err
		}
		list := []authorityJSON{}
		for _, item := range r.GetAuthorities() {
			if *all || item.GetState() != assayv1.AuthorityState_AUTHORITY_STATE_REVOKED {
				list = append(list, authorityOf(item))
			}
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), struct {
				Server             string          `json:"server"`
				PropagationSeconds int64           `json:"propagation_seconds"`
				Authorities        []authorityJSON `json:"authorities"`
			}{r.GetServer(), r.GetPropagationSeconds(), list})
		}
		p := cli.NewPage(c.OutOrStdout())
		if len(list) == 0 {
			p.Linef("no authorities")
			return p.Err()
		}
		rows := make([][]string, len(list))
		for i, x := range list {
			rows[i] = []string{x.Use, x.ID, x.Server, x.State, stamp(x.NotAfter), moment(x.Published), moment(x.Usable), moment(x.LastSVID), x.Reason}
		}
		p.Table([]string{"use", "id", "server", "state", "until", "published", "may sign", "last SVID", "reason"}, rows)
		p.Linef("")
		p.Linef("this is the server %s; an authority is published for %s before it signs", r.GetServer(), time.Duration(r.GetPropagationSeconds())*time.Second)
		return p.Err()
	}
	return c
}

func authorityPrepareCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "prepare USE",
		Short: "Make the server's next authority and publish it",
		Long: `Make the server's next authority and publish it. It takes over by itself when half
of the time of the one that signs is over, or as soon as that one is tainted;
earlier with ` + "`assay authority activate`" + `. It never signs before it has been published
for the propagation time. So one that is prepared is also what makes a bad day
short: the active one can be tainted without an outage.

A verifier or deny-list key is published in a document that the verifier root
signs: with that key offline it waits until the key is brought back.`,
		Example:           "  assay authority prepare x509",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeUse,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		use, err := parseUse(args[0])
		if err != nil {
			return err
		}
		r, err := ask(c, openAuthorities, *socket, (*authorities).PrepareAuthority, &assayv1.PrepareAuthorityRequest{Use: use}, (*authorities).refused)
		if err != nil {
			return err
		}
		if r.GetAuthority().GetState() == assayv1.AuthorityState_AUTHORITY_STATE_REQUESTED {
			cli.Warn(c.ErrOrStderr(), "it waits for the upstream CA: `assay authority csr %s`", r.GetAuthority().GetId())
		}
		return told(c, *output, r, "prepared")
	}
	return c
}

func authorityActivateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "activate USE ID",
		Short: "Have a prepared authority of the server sign from now on",
		Long: `Have a prepared authority of the server sign from now on, before the one that signs
is half over. The server refuses that before the authority has been published for
the propagation time. The one before it retires, and leaves the bundle when the
last of what it signed has ended.`,
		Example:           "  assay authority activate x509 3f1a0c55d2b94e70",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeUse,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		use, err := parseUse(args[0])
		if err != nil {
			return err
		}
		r, err := ask(c, openAuthorities, *socket, (*authorities).ActivateAuthority, &assayv1.ActivateAuthorityRequest{Use: use, Id: args[1]}, (*authorities).refused)
		if err != nil {
			return err
		}
		return told(c, *output, r, "it signs from now on")
	}
	return c
}

func authorityTaintCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "taint USE ID --reason TEXT",
		Short: "Say that an authority's key is not to be trusted any more",
		Long: `Say that an authority's key is not to be trusted any more, of this server or
another one. No server signs with it from then on, agents who hold something of it
are asked to attest again at once, and what they show of it is refused here.
It stays in the bundle, so that they can go on until then; ` + "`assay authority revoke`" + `
takes it out.

One that signs needs another that can take its place: prepare one, and wait for
the propagation time. --force does not wait. The server then signs with a new
authority at once, and relying parties with an older bundle refuse those SVIDs
until they have fetched the new one. That is an outage of minutes (refresh hint)
against a key in the hands of somebody else: decide.`,
		Example: `  assay authority taint x509 3f1a0c55d2b94e70 --reason "backup tape lost"
  assay authority taint jwt 77aa0c55d2b94e70 --reason "key leaked" --force`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeUse,
	}
	socket := adminFlag(c)
	reason := c.Flags().String("reason", "", "`TEXT` for the record: why (required; at most 256 bytes)")
	force := c.Flags().Bool("force", false, "also where no other can sign in its place yet")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		use, err := parseUse(args[0])
		if err != nil {
			return err
		}
		if *reason == "" {
			return cli.Usagef("others will want to know: --reason TEXT", "no --reason is given")
		}
		r, err := ask(c, openAuthorities, *socket, (*authorities).TaintAuthority, &assayv1.TaintAuthorityRequest{Use: use, Id: args[1], Reason: *reason, Force: *force}, (*authorities).refused)
		if err != nil {
			return err
		}
		return told(c, *output, r, "tainted; `assay authority revoke %s %s` when no agent needs it any more", args[0], args[1])
	}
	return c
}

func authorityRevokeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke USE ID --reason TEXT",
		Short: "Take an authority out of the bundle",
		Long: `Take an authority that is tainted or has retired out of the bundle, or out of the
document that names it. What it signed is refused by every relying party from its
next update on.`,
		Example:           `  assay authority revoke x509 3f1a0c55d2b94e70 --reason "every agent has renewed"`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeUse,
	}
	socket := adminFlag(c)
	reason := c.Flags().String("reason", "", "`TEXT` for the record: why (required; at most 256 bytes)")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		use, err := parseUse(args[0])
		if err != nil {
			return err
		}
		if *reason == "" {
			return cli.Usagef("others will want to know: --reason TEXT", "no --reason is given")
		}
		r, err := ask(c, openAuthorities, *socket, (*authorities).RevokeAuthority, &assayv1.RevokeAuthorityRequest{Use: use, Id: args[1], Reason: *reason}, (*authorities).refused)
		if err != nil {
			return err
		}
		return told(c, *output, r, "revoked")
	}
	return c
}
