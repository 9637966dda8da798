package main

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/svid"
)

func svidVerifyCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify --bundle FILE --verifier-keys FILE --verifier-root FILE SVID",
		Short: "Verify an attested SVID, and what it must be",
		Long: `Verify an attested SVID as a relying party does: the certificate chain to the
bundle, the attestation result to a verifier key, that key to the pinned
verifier root, and that the result is about this certificate. Requirements add
to that; all of them have to hold.

The trust domain is that of the verifier-keys document, which the verifier root
signs: the SVID cannot choose it. A token is verified with the JWT authorities of
--bundle, for --trust-domain and --audience.

` + shownHelp + `

Of a server that is verified live, the key is proven as well. Where SVID holds
several, all have to hold.`,
		Example: `  assay svid verify --bundle bundle.json --verifier-keys verifier-keys.cbor --verifier-root verifier-root.pem svid.pem
  assay svid verify … --pcr 0=9f3c… --min-tier affirming --max-age 2h --policy prod svid.pem
  assay svid verify … --id spiffe://attested.example.org/orders --deny-list deny-list.cbor orders.example.org:8443
  assay svid verify --bundle bundle.json --trust-domain attested.example.org --audience vault token.jwt
  assay svid verify … --allow-simulated --output json svid.pem`,
		Args: cobra.ExactArgs(1),
	}
	var (
		at      timeValue
		live    liveFlags
		trust   trustFiles
		require requirementFlags
	)
	c.Flags().Var(&at, "at", "verify at this time instead of now")
	trust.add(c)
	live.add(c)
	require.add(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		moment := at.or(now)
		requirements, err := require.build()
		if err != nil {
			return err
		}
		if _, ok := liveAddress(args[0]); ok {
			if err := trust.complete(false); err != nil {
				return err // before anybody is called
			}
		}
		x, err := live.readShown(c, args[0])
		if cli.ExitCode(err) == cli.Usage {
			return err
		}
		// What is shown says what is needed; where it cannot be read, the flags do.
		token := trust.audience != ""
		if err == nil {
			token = x.token != ""
		}
		if err := trust.complete(token); err != nil {
			return err
		}
		var all []judged
		if err == nil {
			all, err = trust.judge(c, x, moment, requirements)
		}
		return report(c, *output, moment, all, err)
	}
	return c
}

// judged is what became of one SVID.
type judged struct {
	leaf *x509.Certificate // nil for a token
	a    *svid.Attested
	err  error
}

// judge verifies everything that is shown. The error is of what is trusted, or of
// the first SVID that does not hold.
func (f *trustFiles) judge(c *cobra.Command, x *shown, at time.Time, require []svid.Requirement) ([]judged, error) {
	t, err := f.read(c, x.token != "", at)
	if err != nil {
		return nil, err
	}
	require = append(t.require, require...)
	if x.token != "" {
		a, err := svid.VerifyJWT(x.token, t.tokens, f.audience, at, require...)
		return []judged{{nil, a, err}}, err
	}
	chains := x.chains
	if len(chains) == 0 {
		chains = [][]*x509.Certificate{x.others} // authorities alone: the verification says so
	}
	var (
		out   []judged
		first error
	)
	for _, chain := range chains {
		v := judged{leaf: chain[0]}
		if x.live != nil {
			v.a, v.err = svid.FromConnectionState(x.live.state, t.source, at, require...)
		} else {
			v.a, v.err = svid.Verify(chain, t.source, at, require...)
		}
		if v.err != nil && first == nil {
			first = v.err
		}
		out = append(out, v)
	}
	return out, first
}

// report prints the verdicts. err is what the command ends with.
func report(c *cobra.Command, output cli.Format, at time.Time, all []judged, err error) error {
	if output == cli.JSON {
		if cli.ExitCode(err) == cli.Usage {
			return err // the files are wrong, and nothing was verified
		}
		if perr := cli.PrintJSON(c.OutOrStdout(), judgedJSON(at, all, err)); perr != nil {
			return perr
		}
		return silently(err)
	}
	p := cli.NewPage(c.OutOrStdout())
	if len(all) == 0 && attest.CheckOf(err) != "" {
		all = []judged{{err: err}}
	}
	for _, v := range all {
		if v.err == nil {
			printAttested(p, at, v.leaf, v.a)
			continue
		}
		name := ""
		if len(all) > 1 && v.leaf != nil {
			name = *describe(v.leaf).name() + ": "
		}
		p.Linef("%sREFUSED at %s (%s, check %s)", name, stamp(at), attest.KindOf(v.err), attest.CheckOf(v.err))
		if len(all) > 1 && !errors.Is(v.err, err) {
			p.Linef("  %s", v.err)
		}
	}
	if perr := p.Err(); perr != nil {
		return perr
	}
	return err
}

// svidVerdict is the JSON output of `svid verify`. All fields are always there;
// those that do not apply are null.
type svidVerdict struct {
	Verified    bool             `json:"verified"`
	At          time.Time        `json:"at"`
	Kind        *attest.Kind     `json:"kind"`
	Check       *string          `json:"check"`
	Error       *string          `json:"error"`
	Hint        *string          `json:"hint"`
	ID          *string          `json:"id"`
	Certificate *certificate     `json:"certificate"`
	Token       *svid.Token      `json:"token"`
	VerifierKey *svid.Thumbprint `json:"verifier_key"`
	Result      *svid.Result     `json:"result"`
}

// judgedJSON is one verdict, or all of several under "svids".
func judgedJSON(at time.Time, all []judged, err error) any {
	switch len(all) {
	case 0:
		return svidVerdictOf(at, judged{err: err})
	case 1:
		return svidVerdictOf(at, all[0])
	}
	var list []svidVerdict
	for _, v := range all {
		list = append(list, svidVerdictOf(at, v))
	}
	return map[string]any{"verified": err == nil, "at": at, "svids": list}
}

func svidVerdictOf(at time.Time, v judged) svidVerdict {
	out := svidVerdict{Verified: v.err == nil, At: at}
	if v.err != nil {
		kind, check, text := attest.KindOf(v.err), attest.CheckOf(v.err), v.err.Error()
		out.Kind, out.Check, out.Error = &kind, &check, &text
		if h := cli.Hint(v.err); h != "" {
			out.Hint = &h
		}
		return out
	}
	id := v.a.ID.String()
	out.ID, out.Token, out.Result = &id, v.a.Token, &v.a.Result
	if v.leaf != nil {
		cert := describe(v.leaf)
		out.Certificate, out.VerifierKey = &cert, &v.a.VerifierKey
	}
	return out
}

func printAttested(p *cli.Page, at time.Time, leaf *x509.Certificate, a *svid.Attested) {
	kind := ""
	if a.Result.Simulated {
		kind = ", by a SIMULATOR and not by hardware"
	}
	p.Linef("VERIFIED: %s was attested at %s%s; status %s", a.ID, stamp(a.Result.EvidenceTime), kind, a.Result.Status)
	if leaf != nil {
		p.Title("Certificate, valid at %s", stamp(at))
		p.Facts(describe(leaf).facts()...)
		p.Title("Attestation result, signed by verifier key %s", a.VerifierKey)
	} else {
		p.Title("Token, valid at %s", stamp(at))
		p.Facts(tokenFacts(a.Token.Audience, a.Token.Issuer, a.Token.ID, a.Token.IssuedAt, a.Token.Expiry, a.Token.KeyID, a.Token.Serial)...)
		p.Title("Attestation result, signed by the JWT authority with the token")
	}
	printResult(p, &a.Result)
}
