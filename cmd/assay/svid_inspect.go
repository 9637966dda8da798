package main

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/svid"
)

func svidInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect SVID",
		Short: "Show what an attested SVID says, without verifying any of it",
		Long: `Show certificates or a token, and the attestation result that they carry. Nothing
is verified: anybody can make one that says this.

` + shownHelp,
		Example: `  assay svid inspect svid.pem
  assay svid inspect orders.example.org:8443
  assay-agent fetch jwt --audience vault | assay svid inspect -`,
		Args: cobra.ExactArgs(1),
	}
	var live liveFlags
	live.add(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		x, err := live.readShown(c, args[0])
		if err != nil {
			return inspectNothing(c, *output, err)
		}
		if x.token != "" {
			return inspectToken(c, *output, x.token)
		}
		return inspectCertificates(c, *output, x)
	}
	return c
}

// inspected is the JSON output for one chain.
type inspected struct {
	Verified    bool             `json:"verified"` // false
	Connection  *connection      `json:"connection,omitempty"`
	Certificate certificate      `json:"unverified_certificate"`
	Chain       int              `json:"certificates"`
	Result      *svid.Result     `json:"unverified_result"`
	KeyID       *svid.Thumbprint `json:"unverified_key_id"`
	shortfall
}

// shortfall is why something cannot be shown whole.
type shortfall struct {
	Kind  *attest.Kind `json:"kind"`
	Check *string      `json:"check"`
	Error *string      `json:"error"`
}

// shortfallOf is the shortfall of an error; nil has none.
func shortfallOf(err error) shortfall {
	if err == nil {
		return shortfall{}
	}
	kind, check, text := attest.KindOf(err), attest.CheckOf(err), err.Error()
	return shortfall{&kind, &check, &text}
}

// inspectNothing ends the command where there is nothing to show.
func inspectNothing(c *cobra.Command, output cli.Format, err error) error {
	if output != cli.JSON || cli.ExitCode(err) == cli.Usage {
		return err
	}
	out := struct {
		Verified bool `json:"verified"`
		shortfall
	}{shortfall: shortfallOf(err)}
	if perr := cli.PrintJSON(c.OutOrStdout(), out); perr != nil {
		return perr
	}
	return silently(err)
}

func inspectCertificates(c *cobra.Command, output cli.Format, x *shown) error {
	chains := x.chains
	if len(chains) == 0 {
		for _, a := range x.others {
			chains = append(chains, []*x509.Certificate{a}) // a bundle: each is looked at
		}
	}
	var (
		list  []inspected
		first error
		p     = cli.NewPage(textOnly(c, output))
	)
	p.Linef("NOT VERIFIED: nothing below was checked, and whoever made it may have written it")
	if x.live != nil {
		p.Facts(cli.Fact{Name: "address", Value: x.live.Address}, cli.Fact{Name: "tls", Value: x.live.Version}, cli.Fact{Name: "alpn", Value: x.live.ALPN})
		p.Linef("The server holds the key of the leaf certificate: the handshake proved that.")
	}
	for _, chain := range chains {
		one := inspected{Connection: x.live, Certificate: describe(chain[0]), Chain: len(chain)}
		u, err := svid.ResultFrom(chain[0])
		switch {
		case err == nil:
			one.Result, one.KeyID = &u.Result, &u.KeyID
		case chain[0].IsCA && x.live == nil:
			err = nil // an authority carries no result
		default:
			one.shortfall = shortfallOf(err)
			if first == nil {
				first = err
			}
		}
		list = append(list, one)
		what := "Leaf certificate, of %s"
		if chain[0].IsCA {
			what = "Authority, of %s"
		}
		p.Title(what, cli.Count(len(chain), "certificate"))
		p.Facts(one.Certificate.facts()...)
		if one.Result != nil {
			p.Title("Attestation result, said to be signed by verifier key %s", u.KeyID)
			printResult(p, one.Result)
		}
	}
	if output == cli.JSON {
		var out any = map[string]any{"verified": false, "svids": list}
		if len(list) == 1 {
			out = list[0]
		}
		if err := cli.PrintJSON(c.OutOrStdout(), out); err != nil {
			return err
		}
		return silently(first)
	}
	if err := p.Err(); err != nil {
		return err
	}
	return first
}

// textOnly is where a page goes: nowhere when standard output is to hold one JSON
// value and nothing else.
func textOnly(c *cobra.Command, output cli.Format) io.Writer {
	if output == cli.JSON {
		return io.Discard
	}
	return c.OutOrStdout()
}

func inspectToken(c *cobra.Command, output cli.Format, token string) error {
	parts := tokenParts(token)
	u, err := svid.JWTFrom(token)
	if err == nil {
		err = u.ResultErr
	}
	if output == cli.JSON {
		out := inspectedToken{Header: parts[0], Token: u, Claims: parts[1], shortfall: shortfallOf(err)}
		if perr := cli.PrintJSON(c.OutOrStdout(), out); perr != nil {
			return perr
		}
		return silently(err)
	}
	p := cli.NewPage(textOnly(c, output))
	p.Linef("NOT VERIFIED: nothing below was checked, and whoever made it may have written it")
	if u == nil {
		// The command is for exactly such: what can be read is shown as it stands.
		p.Title("Not a JWT-SVID")
		p.Facts(cli.Fact{Name: "header", Value: shownJSON(parts[0])}, cli.Fact{Name: "claims", Value: shownJSON(parts[1])})
		if perr := p.Err(); perr != nil {
			return perr
		}
		return err
	}
	p.Title("Token, %s", u.Algorithm)
	p.Facts(append([]cli.Fact{{Name: "spiffe id", Value: u.Subject}}, tokenFacts(u.Audience, u.Issuer, u.TokenID, u.IssuedAt, u.Expiry, u.KeyID, u.Serial)...)...)
	if u.Result != nil {
		p.Title("Attestation result, in the token")
		printResult(p, u.Result)
	}
	if perr := p.Err(); perr != nil {
		return perr
	}
	return err
}

// inspectedToken is the JSON output for a token. Header and claims are JSON as they
// stand in it, null where they are none; the rest is null where it is no JWT-SVID.
type inspectedToken struct {
	Verified bool                `json:"verified"` // false
	Header   json.RawMessage     `json:"unverified_header"`
	Token    *svid.UnverifiedJWT `json:"unverified_token"`
	Claims   json.RawMessage     `json:"unverified_claims"`
	shortfall
}

// tokenParts are header and claims of what is shaped like a token: JSON, or nil.
func tokenParts(token string) (out [2]json.RawMessage) {
	for i, part := range strings.SplitN(token, ".", 3) {
		if i == len(out) {
			break
		}
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil && len(token) <= svid.MaxJWTSize && utf8.Valid(b) && json.Valid(b) {
			out[i] = b
		}
	}
	return out
}

func shownJSON(b json.RawMessage) string {
	if b == nil {
		return "no JSON"
	}
	return string(b)
}
