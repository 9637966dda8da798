package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func federationCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "federation",
		Short: "Trust the identities of other trust domains",
		Long: `Federate with other trust domains: the server gets their bundles from their bundle
endpoints, keeps the last good one of each, and hands them to every agent, whose
workloads can then check identities of those trust domains. What a workload lets
them do is its own business.

It is one-way. For them to check ours, they get our bundle from web.listen (profile
https_web) or federation.spiffe_listen (https_spiffe), or "assay bundle export".`,
		Example: `  assay federation add b.example.org --url https://spiffe.b.example.org/bundle
  assay federation list
  assay federation refresh b.example.org
  assay federation remove b.example.org`,
	}
	c.AddCommand(federationListCommand(), federationAddCommand(), federationShowCommand(), federationRefreshCommand(), federationRemoveCommand())
	return c
}

// federationJSON is a federation in JSON.
type federationJSON struct {
	TrustDomain string          `json:"trust_domain"`
	Profile     string          `json:"profile"` // "https_web", "https_spiffe"; "" is by hand
	URL         string          `json:"url"`
	EndpointID  string          `json:"endpoint_id"`
	WebRoots    string          `json:"web_roots"` // PEM; "" is the system's
	Sequence    uint64          `json:"sequence"`
	Fetched     *time.Time      `json:"fetched"` // null: there is no bundle yet
	Next        *time.Time      `json:"next"`    // null: it is never fetched
	Error       string          `json:"error"`   // why the last fetch failed; "" is it did not
	X509        int             `json:"x509_authorities"`
	JWT         int             `json:"jwt_authorities"`
	Bundle      json.RawMessage `json:"bundle"` // null: none yet
}

func federationOf(m *assayv1.Federation) federationJSON {
	out := federationJSON{
		TrustDomain: m.GetTrustDomain(), Profile: m.GetProfile(), URL: m.GetUrl(), EndpointID: m.GetEndpointId(), WebRoots: string(m.GetWebRoots()),
		Sequence: m.GetSequence(), Fetched: known(unixMilli(m.GetFetchedUnixMs())), Next: known(unixMilli(m.GetNextUnixMs())), Error: m.GetError(),
		Bundle: json.RawMessage("null"),
	}
	if m.GetFetchedUnixMs() == 0 {
		out.Fetched = nil
	}
	if m.GetNextUnixMs() == 0 {
		out.Next = nil
	}
	td, err := trustDomainArg(m.GetTrustDomain())
	if err != nil {
		return out
	}
	if b, _, err := federation.Parse(td, m.GetBundle()); err == nil {
		out.X509, out.JWT, out.Bundle = len(b.X509Authorities()), len(b.JWTAuthorities()), m.GetBundle()
	}
	return out
}

// state is one word or two on how it goes.
func (f federationJSON) state() string {
	switch {
	case strings.HasPrefix(f.Error, "not used: "):
		return "not used"
	case f.Fetched == nil && f.Error != "":
		return "no bundle, failing"
	case f.Fetched == nil:
		return "no bundle yet"
	case f.Error != "":
		return "failing"
	case f.X509 == 0 && f.JWT == 0:
		return "all revoked"
	}
	return "good"
}

// how is the profile for people.
func (f federationJSON) how() string {
	if f.Profile == "" {
		return "by hand"
	}
	return f.Profile
}

// federations is a connection to a server's service for federations.
type federations struct {
	assayv1.FederationsClient
	*admin
}

func openFederations(socket string) (*federations, error) {
	a, err := openAdmin(socket, "name the socket with --admin SOCKET")
	if err != nil {
		return nil, err
	}
	return &federations{assayv1.NewFederationsClient(a.conn), a}, nil
}

// refused explains what the server did not do.
func (f *federations) refused(err error) error {
	st := status.Convert(err)
	switch st.Code() { //nolint:exhaustive // the rest is as for every other command
	case codes.NotFound:
		return cli.Usagef("`assay federation list` shows what there is", "%s", st.Message())
	case codes.Aborted, codes.FailedPrecondition:
		return cli.Usagef("", "%s", st.Message())
	}
	return f.explain(err)
}

// all lists every federation.
func (f *federations) all(ctx context.Context) ([]federationJSON, error) {
	r, err := f.ListFederations(ctx, &assayv1.ListFederationsRequest{})
	if err != nil {
		return nil, f.refused(err)
	}
	out := make([]federationJSON, 0, len(r.GetFederations()))
	for _, m := range r.GetFederations() {
		out = append(out, federationOf(m))
	}
	return out, nil
}

func federationListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the trust domains that this one federates with",
		Long: `List the trust domains that this one federates with. "failing" means that the last
fetch failed: the bundle that was fetched before is used until one succeeds. "all
revoked" is a bundle without a key. "not used" is a row of the database that no
server of this trust domain signed.`,
		Example: `  assay federation list
  assay federation list --output json`,
		Args: cobra.NoArgs,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		f, err := openFederations(*socket)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // the answer is what counts
		list, err := f.all(c.Context())
		if err != nil {
			return err
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), list)
		}
		p := cli.NewPage(c.OutOrStdout())
		if len(list) == 0 {
			p.Linef("no federations")
			return p.Err()
		}
		rows := make([][]string, len(list))
		for i, x := range list {
			rows[i] = []string{x.TrustDomain, x.how(), x.state(), fmt.Sprint(x.Sequence), moment(x.Fetched), x.URL}
		}
		p.Table([]string{"trust domain", "profile", "state", "sequence", "fetched", "endpoint"}, rows)
		return p.Err()
	}
	return c
}

func federationShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show TRUST_DOMAIN",
		Short: "Show one federation, and its bundle",
		Long: `Show one federation: how its bundle is had, how that goes, and until when nothing
is fetched. JSON has the bundle itself.`,
		Example: `  assay federation show b.example.org
  assay federation show b.example.org --output json | jq .bundle`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		f, err := openFederations(*socket)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // the answer is what counts
		list, err := f.all(c.Context())
		if err != nil {
			return err
		}
		for _, x := range list {
			if x.TrustDomain == args[0] {
				return printFederation(c, *output, x)
			}
		}
		return cli.Usagef("`assay federation list` shows what there is", "there is no federation with %s", args[0])
	}
	return c
}

func printFederation(c *cobra.Command, output cli.Format, x federationJSON) error {
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), x)
	}
	facts := []cli.Fact{{Name: "trust domain", Value: x.TrustDomain}, {Name: "profile", Value: x.how()}}
	if x.Profile != "" {
		facts = append(facts, cli.Fact{Name: "endpoint", Value: x.URL})
	}
	if x.EndpointID != "" {
		facts = append(facts, cli.Fact{Name: "endpoint's ID", Value: x.EndpointID})
	}
	if x.WebRoots != "" {
		facts = append(facts, cli.Fact{Name: "endpoint's CAs", Value: cli.Count(strings.Count(x.WebRoots, "BEGIN CERTIFICATE"), "certificate")})
	}
	facts = append(facts, cli.Fact{Name: "state", Value: x.state()})
	if x.Error != "" {
		facts = append(facts, cli.Fact{Name: "error", Value: x.Error})
	}
	facts = append(facts, cli.Fact{Name: "fetched", Value: moment(x.Fetched)})
	if x.Fetched != nil {
		facts = append(facts, cli.Fact{Name: "bundle", Value: fmt.Sprintf("sequence %d, %d X.509 and %d JWT authorities", x.Sequence, x.X509, x.JWT)})
	}
	if x.Profile != "" {
		facts = append(facts, cli.Fact{Name: "next fetch", Value: moment(x.Next)})
	}
	p := cli.NewPage(c.OutOrStdout())
	p.Facts(facts...)
	return p.Err()
}

func federationRefreshCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "refresh TRUST_DOMAIN",
		Short: "Fetch a foreign bundle now",
		Long: `Fetch a foreign bundle now, whoever's turn it is. When that fails the bundle before
stays in use, and the error says what the endpoint did.`,
		Example:           "  assay federation refresh b.example.org",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		f, err := openFederations(*socket)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // the answer is what counts
		r, err := f.RefreshFederation(c.Context(), &assayv1.RefreshFederationRequest{TrustDomain: args[0]})
		if status.Code(err) == codes.Unavailable {
			return unavailable("the bundle before stays in use", "%s: %s", args[0], status.Convert(err).Message())
		}
		if err != nil {
			return f.refused(err)
		}
		return printFederation(c, *output, federationOf(r.GetFederation()))
	}
	return c
}

func federationRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove TRUST_DOMAIN",
		Short: "Federate with a trust domain no more",
		Long: `Federate with a trust domain no more. Agents that are watching drop its bundle
within moments, the others when they attest again; workloads with a library that
follows the Workload API accept none of its identities from then on.`,
		Example:           "  assay federation remove b.example.org",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	socket := adminFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if _, err := ask(c, openFederations, *socket, (*federations).DeleteFederation, &assayv1.DeleteFederationRequest{TrustDomain: args[0]}, (*federations).refused); err != nil {
			return err
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "removed: identities of %s are trusted no more\n", cli.Escape(args[0]))
		return err
	}
	return c
}

// isPEM reports whether a file is PEM and not JSON.
func isPEM(b []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")) }
