package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/svid"
)

func denylistCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "denylist",
		Short: "Show, export and verify the signed deny-list",
		Long: `The deny-list says which SVIDs, keys and policies relying parties are to refuse
although they hold (docs/spec/deny-list.md). The server signs a new one with every
ban and revocation, and every half hour.`,
		Example: `  assay denylist show
  assay denylist export --out deny-list.cose
  assay denylist verify deny-list.cose --trust-domain example.org --verifier-root verifier-root.pem`,
	}
	c.AddCommand(denylistShowCommand(), denylistExportCommand(), denylistVerifyCommand(now), denylistPoliciesCommand(), denylistAddPolicyCommand(), denylistRemovePolicyCommand())
	return c
}

// denialsJSON is a deny-list in JSON.
type denialsJSON struct {
	TrustDomain string    `json:"trust_domain"`
	Sequence    uint64    `json:"sequence"`
	IssuedAt    time.Time `json:"issued_at"`
	NextUpdate  time.Time `json:"next_update"`
	Serials     []string  `json:"serials"`
	Keys        []string  `json:"keys"`
	Policies    []string  `json:"policies"`
	Omitted     uint64    `json:"omitted"`
}

func denialsOf(d *svid.Denials) denialsJSON {
	out := denialsJSON{
		TrustDomain: d.TrustDomain.Name(), Sequence: d.Sequence, IssuedAt: d.IssuedAt.UTC(), NextUpdate: d.NextUpdate.UTC(),
		Serials: []string{}, Keys: []string{}, Policies: []string{}, Omitted: d.Omitted,
	}
	for i := range d.Serials {
		out.Serials = append(out.Serials, hex.EncodeToString(d.Serials[i][:]))
	}
	for i := range d.Keys {
		out.Keys = append(out.Keys, hex.EncodeToString(d.Keys[i][:]))
	}
	for i := range d.Policies {
		out.Policies = append(out.Policies, hex.EncodeToString(d.Policies[i][:]))
	}
	return out
}

func printDenials(c *cobra.Command, d *svid.Denials, output cli.Format) error {
	x := denialsOf(d)
	if x.Omitted > 0 {
		cli.Warn(c.ErrOrStderr(), "%d denied SVIDs are not listed for want of room: whoever follows the list accepts nobody", x.Omitted)
	}
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), x)
	}
	p := cli.NewPage(c.OutOrStdout())
	p.Facts(
		cli.Fact{Name: "trust domain", Value: x.TrustDomain},
		cli.Fact{Name: "sequence", Value: fmt.Sprint(x.Sequence)},
		cli.Fact{Name: "issued", Value: stamp(x.IssuedAt)},
		cli.Fact{Name: "next update", Value: stamp(x.NextUpdate)},
		cli.Fact{Name: "keys", Value: fmt.Sprint(len(x.Keys))},
	)
	for _, s := range x.Serials {
		p.Linef("serial %s", s)
	}
	for _, s := range x.Policies {
		p.Linef("policy %s", s)
	}
	if len(x.Serials)+len(x.Policies) == 0 {
		p.Linef("nothing is denied")
	}
	return p.Err()
}

// publishedDenyList asks a server for its list.
func publishedDenyList(c *cobra.Command, target string) ([]byte, error) {
	a, err := openAgents(target)
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.Close() }() // only read
	r, err := a.GetDenyList(c.Context(), &assayv1.GetDenyListRequest{})
	if err != nil {
		return nil, a.explain(err)
	}
	return r.GetDenyList(), nil
}

func denylistShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the deny-list that a server publishes",
		Long: `Show the deny-list that a server publishes. It is shown as the server sends it;
` + "`assay denylist verify`" + ` checks one from anywhere.`,
		Example: `  assay denylist show
  assay denylist show --output json`,
		Args: cobra.NoArgs,
	}
	target := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		doc, err := publishedDenyList(c, *target)
		if err != nil {
			return err
		}
		d, err := svid.UnverifiedDenials(doc)
		if err != nil {
			return err
		}
		return printDenials(c, d, *output)
	}
	return c
}

func denylistExportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the signed deny-list, for relying parties",
		Long: `Write the signed deny-list. Relying parties check it with the verifier root that
they have pinned, so that it can be published anywhere; it is good for an hour.`,
		Example: `  assay denylist export --out deny-list.cose
  assay denylist export > deny-list.cose`,
		Args: cobra.NoArgs,
	}
	target := adminFlag(c)
	out := c.Flags().String("out", "-", "`FILE` to write it to; - is standard output")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *out == "-" && cli.IsTerminal(c.OutOrStdout()) {
			return cli.Usagef("name a file with --out FILE", "the deny-list is binary: it is not written to a terminal")
		}
		doc, err := publishedDenyList(c, *target)
		if err != nil {
			return err
		}
		if *out != "-" {
			return replaceFile(*out, doc)
		}
		_, err = c.OutOrStdout().Write(doc)
		return err
	}
	return c
}

func denylistVerifyCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify FILE|URL",
		Short: "Verify a deny-list against the pinned verifier root, and show it",
		Long: `Verify a deny-list against the pinned verifier root, and show it. It may be a file
or an https URL, such as that of a server's web address with the path /deny-list.`,
		Example: `  assay denylist verify deny-list.cose --trust-domain example.org --verifier-root verifier-root.pem
  assay denylist verify https://assay.example.org/deny-list --trust-domain example.org --verifier-root verifier-root.pem`,
		Args: cobra.ExactArgs(1),
	}
	root := c.Flags().String("verifier-root", "", "PEM `FILE` with the public key of the verifier root, which you pin")
	name := c.Flags().String("trust-domain", "", "the `NAME` of the trust domain that it must be of")
	var at timeValue
	c.Flags().Var(&at, "at", "verify at this time instead of now")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *root == "" || *name == "" {
			return cli.Usagef("the verifier root is the public key that `assayd init` wrote to verifier-root.pem", "--verifier-root FILE and --trust-domain NAME are needed")
		}
		td, err := spiffeid.TrustDomainFromString(*name)
		if err != nil {
			return cli.Usagef("for example --trust-domain example.org", "--trust-domain %q: %s", *name, err)
		}
		pem, err := cli.ReadFile(*root, maxInput)
		if err != nil {
			return cli.Usagef("", "--verifier-root: %s", clean(err))
		}
		key, err := svid.ParseVerifierRoot(pem)
		if err != nil {
			return cli.Usagef("the verifier root is the public key that `assayd init` wrote to verifier-root.pem", "--verifier-root %s: %w", *root, err)
		}
		list, err := svid.NewDenyList(td, key)
		if err != nil {
			return err
		}
		when := at.or(now)
		if strings.Contains(args[0], "://") {
			err = list.UpdateURL(c.Context(), nil, args[0], when)
		} else if _, serr := os.Stat(args[0]); serr != nil {
			err = cli.Usagef("give the name of a file, or an https URL", "%s", clean(serr))
		} else {
			err = list.UpdateFile(args[0], when)
		}
		if err != nil {
			return err
		}
		d, err := svid.UnverifiedDenials(list.Document())
		if err != nil {
			return err
		}
		return printDenials(c, d, *output)
	}
	return c
}
