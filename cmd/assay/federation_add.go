package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func federationAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add TRUST_DOMAIN",
		Short: "Federate with a trust domain, or change how (--replace)",
		Long: `Federate with a trust domain. Its bundle endpoint is known by one of two profiles:

  https_web     by a certificate of the web's PKI for the host of --url. The CAs are
                the system's, or those of --web-roots.
  https_spiffe  by an SVID with the SPIFFE ID --endpoint-id. It begins with a bundle
                that you got on a way that you trust, --bundle; from then on each
                bundle vouches for the next one.

With --bundle alone there is no endpoint: hand in the next bundle with --replace.

Name and URL decide whose identities your workloads believe: take them from a source
that you trust.`,
		Example: `  assay federation add b.example.org --url https://spiffe.b.example.org/bundle
  # of your own network: its address is under federation.private_endpoints
  assay federation add b.example.org --url https://10.1.2.3:8444/bundle \
      --endpoint-id spiffe://b.example.org/assay/bundle --bundle b.json
  assay federation add b.example.org --bundle b.pem --replace`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	socket := adminFlag(c)
	url := c.Flags().String("url", "", "`URL` of the bundle endpoint, https")
	profile := c.Flags().String("profile", "", "https_web or https_spiffe; default is what the other flags say")
	endpoint := c.Flags().String("endpoint-id", "", "https_spiffe: `ID` that the endpoint must show")
	roots := c.Flags().String("web-roots", "", "https_web: PEM `FILE` with the endpoint's CAs, instead of the system's")
	bundle := c.Flags().String("bundle", "", "`FILE` with a bundle to begin with: SPIFFE bundle JSON, or PEM certificates; - is standard input")
	replace := c.Flags().Bool("replace", false, "change a federation that is there; with --bundle, whatever its sequence number")
	output := cli.OutputFlag(c)
	// The flag exists: it was added above.
	_ = c.RegisterFlagCompletionFunc("profile", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{string(federation.Web), string(federation.SPIFFE)}, cobra.ShellCompDirectiveNoFileComp
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		td, err := trustDomainArg(args[0])
		if err != nil {
			return err
		}
		m := &assayv1.Federation{TrustDomain: args[0], Url: *url, Profile: *profile, EndpointId: *endpoint}
		switch {
		case m.GetProfile() != "":
		case *endpoint != "":
			m.Profile = string(federation.SPIFFE)
		case *url != "":
			m.Profile = string(federation.Web)
		}
		if *roots != "" {
			if m.WebRoots, err = readInput(c, *roots); err != nil {
				return err
			}
		}
		if *bundle != "" {
			if m.Bundle, err = readBundleFile(c, td, *bundle); err != nil {
				return err
			}
		}
		f, err := openFederations(*socket)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // the answer is what counts
		if !*replace {
			list, err := f.all(c.Context())
			if err != nil {
				return err
			}
			for _, x := range list {
				if x.TrustDomain == args[0] {
					return cli.Usagef("--replace changes it", "there is a federation with %s already", args[0])
				}
			}
		}
		r, err := f.SetFederation(c.Context(), &assayv1.SetFederationRequest{Federation: m})
		if err != nil {
			return f.refused(err)
		}
		return printFederation(c, *output, federationOf(r.GetFederation()))
	}
	return c
}

// trustDomainArg reads the name of a trust domain.
func trustDomainArg(name string) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil || td.Name() != name {
		return spiffeid.TrustDomain{}, cli.Usagef("the bare name, for example b.example.org", "%q is not the name of a trust domain", name)
	}
	return td, nil
}

// readBundleFile reads a bundle in either form and returns its document.
func readBundleFile(c *cobra.Command, td spiffeid.TrustDomain, name string) ([]byte, error) {
	raw, err := readInput(c, name)
	if err != nil {
		return nil, err
	}
	if isPEM(raw) {
		b := spiffebundle.New(td)
		for rest := raw; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil || block.Type != "CERTIFICATE" {
				return nil, &attest.Error{Kind: attest.Malformed, Check: "bundle_format", Err: fmt.Errorf("%s: a PEM block %q that is no certificate", name, block.Type)}
			}
			b.AddX509Authority(cert)
		}
		if raw, err = federation.Encode(b); err != nil {
			return nil, err
		}
	}
	if _, _, err := federation.Parse(td, raw); err != nil {
		return nil, err
	}
	return raw, nil
}
