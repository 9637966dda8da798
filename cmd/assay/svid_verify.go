package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

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
signs: the SVID cannot choose it.

SVID holds the certificate chain, leaf first, as PEM; - is standard input.`,
		Example: `  assay svid verify --bundle bundle.json --verifier-keys verifier-keys.cbor --verifier-root verifier-root.pem svid.pem
  assay svid verify … --pcr 0=9f3c… --min-tier affirming --max-age 2h --policy prod svid.pem
  assay svid verify … --allow-simulated --output json svid.pem`,
		Args: cobra.ExactArgs(1),
	}
	var (
		at      timeValue
		trust   trustFiles
		require requirementFlags
	)
	f := c.Flags()
	f.Var(&at, "at", "verify at this time instead of now")
	f.StringVar(&trust.bundle, "bundle", "", "`FILE` with the trust domain's bundle: SPIFFE bundle JSON, or PEM")
	f.StringVar(&trust.keys, "verifier-keys", "", "`FILE` with the signed verifier-keys document")
	f.StringVar(&trust.root, "verifier-root", "", "PEM `FILE` with the public key of the verifier root, which you pin")
	require.add(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		moment := at.or(now)
		requirements, err := require.build()
		if err != nil {
			return err
		}
		if err := trust.complete(); err != nil {
			return err
		}
		b, err := readInput(c, args[0])
		if err != nil {
			return err
		}
		chain, a, err := trust.verify(c, args[0], b, moment, requirements)
		if *output == cli.JSON {
			if cli.ExitCode(err) == cli.Usage {
				return err // the files are wrong, and nothing was verified
			}
			if perr := cli.PrintJSON(c.OutOrStdout(), svidVerdictOf(moment, chain, a, err)); perr != nil {
				return perr
			}
			return silently(err)
		}
		if err != nil {
			if attest.CheckOf(err) != "" {
				p := cli.NewPage(c.OutOrStdout())
				p.Linef("REFUSED at %s (%s, check %s)", stamp(moment), attest.KindOf(err), attest.CheckOf(err))
				if perr := p.Err(); perr != nil {
					return perr
				}
			}
			return err
		}
		return printAttested(cli.NewPage(c.OutOrStdout()), moment, chain[0], a)
	}
	return c
}

// trustFiles name what a relying party trusts.
type trustFiles struct{ bundle, keys, root string }

func (f trustFiles) complete() error {
	var missing []string
	for _, x := range []struct{ flag, value string }{{"--bundle", f.bundle}, {"--verifier-keys", f.keys}, {"--verifier-root", f.root}} {
		if x.value == "" {
			missing = append(missing, x.flag)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return cli.Usagef("`assay bundle export` writes the bundle and the verifier keys; the verifier root is made by `assayd init` (verifier-root.pem)",
		"%s must be given: nothing is verified without it", strings.Join(missing, ", "))
}

// verify reads what is trusted and verifies the chain against it. An error in
// what the user trusts is usage, but a verifier-keys document can also be
// untrusted or stale: it may come from anywhere.
func (f trustFiles) verify(c *cobra.Command, name string, b []byte, at time.Time, require []svid.Requirement) ([]*x509.Certificate, *svid.Attested, error) {
	rootPEM, err := readInput(c, f.root)
	if err != nil {
		return nil, nil, err
	}
	root, err := svid.ParseVerifierRoot(rootPEM)
	if err != nil {
		return nil, nil, cli.Usagef("the verifier root is the public key that `assayd init` wrote to verifier-root.pem", "--verifier-root %s: %w", f.root, err)
	}
	doc, err := readInput(c, f.keys)
	if err != nil {
		return nil, nil, err
	}
	bundleBytes, err := readInput(c, f.bundle)
	if err != nil {
		return nil, nil, err
	}
	keys, err := svid.ParseVerifierKeys(doc, root, at)
	if err != nil {
		return nil, nil, fmt.Errorf("--verifier-keys %s: %w", f.keys, err)
	}
	bundle, err := parseBundle(keys.TrustDomain, bundleBytes)
	if err != nil {
		return nil, nil, cli.Usagef("`assay bundle export` writes one", "--bundle %s: %w", f.bundle, err)
	}
	chain, err := parseChain(name, b)
	if err != nil {
		return nil, nil, err
	}
	a, err := svid.Verify(chain, svid.NewSource(bundle, keys), at, require...)
	return chain, a, err
}

// parseBundle reads SPIFFE bundle JSON or PEM certificates.
func parseBundle(td spiffeid.TrustDomain, b []byte) (*x509bundle.Bundle, error) {
	var out *x509bundle.Bundle
	if looksLikeJSON(b) {
		sb, err := spiffebundle.Parse(td, b)
		if err != nil {
			return nil, err
		}
		out = sb.X509Bundle()
	} else {
		if block, _ := pem.Decode(b); block == nil {
			return nil, errors.New("neither SPIFFE bundle JSON nor PEM")
		}
		var err error
		if out, err = x509bundle.Parse(td, b); err != nil {
			return nil, err
		}
	}
	if out.Empty() {
		return nil, errors.New("it holds no X.509 authority")
	}
	return out, nil
}

// requirementFlags are what a relying party may demand.
type requirementFlags struct {
	pcrs      []string
	tees      []string
	ids       []string
	policies  []string
	minTier   string
	maxAge    time.Duration
	owned     bool
	simulated bool
	set       func(name string) bool
}

func (r *requirementFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&r.ids, "id", nil, "demand this `SPIFFE-ID`; repeated: one of them")
	f.StringArrayVar(&r.pcrs, "pcr", nil, "demand a published register, `N=HEX`; repeated for one N: one of the values")
	f.StringArrayVar(&r.tees, "tee", nil, "demand this `TEE`; repeated: one of them")
	f.StringArrayVar(&r.policies, "policy", nil, "demand this policy, `NAME` or NAME@REVISION; repeated: one of them")
	f.StringVar(&r.minTier, "min-tier", "", "demand a status of this `TIER` or better: affirming, warning, none, contraindicated (default: all but contraindicated)")
	f.DurationVar(&r.maxAge, "max-age", 0, "demand evidence no older than this, such as 2h")
	f.BoolVar(&r.owned, "owned", false, "demand that the policy had proof of who launched the workload")
	f.BoolVar(&r.simulated, "allow-simulated", false, "accept a simulated result: for tests, never in production")
	r.set = f.Changed
}

// build turns the flags into requirements; anything that could never hold, or
// would demand nothing, is a usage error.
func (r *requirementFlags) build() ([]svid.Requirement, error) {
	var out []svid.Requirement
	if len(r.ids) > 0 {
		var ids []spiffeid.ID
		for _, s := range r.ids {
			id, err := spiffeid.FromString(s)
			if err != nil {
				return nil, cli.Usagef("as in spiffe://example.org/payments/api", "--id %q: %w", s, err)
			}
			ids = append(ids, id)
		}
		out = append(out, svid.ID(ids...))
	}
	if len(r.tees) > 0 {
		var ps []attest.Platform
		for _, s := range r.tees {
			p, err := attest.ParsePlatform(s)
			if err != nil {
				return nil, cli.Usagef("", "--tee: %w", err)
			}
			ps = append(ps, p)
		}
		out = append(out, svid.Tee(ps...))
	}
	pcrs, err := parsePCRs(r.pcrs)
	if err != nil {
		return nil, err
	}
	for _, p := range pcrs {
		out = append(out, svid.PCR(p.index, p.values...))
	}
	if len(r.policies) > 0 {
		for _, s := range r.policies {
			if s == "" {
				return nil, cli.Usagef("", "--policy is empty")
			}
		}
		out = append(out, svid.Policy(r.policies...))
	}
	if r.set("min-tier") {
		var t svid.Tier
		if err := t.UnmarshalText([]byte(r.minTier)); err != nil {
			return nil, cli.Usagef("", "--min-tier: %w", err)
		}
		out = append(out, svid.MinTier(t))
	}
	if r.set("max-age") {
		if r.maxAge <= 0 {
			return nil, cli.Usagef("as in 2h or 90m", "--max-age %s: must be more than nothing", r.maxAge)
		}
		out = append(out, svid.MaxAge(r.maxAge))
	}
	if r.owned {
		out = append(out, svid.Owned())
	}
	if r.simulated {
		out = append(out, svid.Simulated())
	}
	return out, nil
}

type pcrValues struct {
	index  int
	values []attest.Bytes
}

func parsePCRs(flags []string) ([]pcrValues, error) {
	var out []pcrValues
	const hint = "as in --pcr 0=9f3c… with 96 hexadecimal digits (SHA-384)"
next:
	for _, s := range flags {
		n, digits, ok := strings.Cut(s, "=")
		index, err := strconv.Atoi(n)
		if !ok || err != nil || index < 0 || index > 31 {
			return nil, cli.Usagef(hint, "--pcr %q: want N=HEX with N from 0 to 31", s)
		}
		v, err := hex.DecodeString(digits)
		if err != nil || len(v) != 48 {
			return nil, cli.Usagef(hint, "--pcr %d: the value is not 48 bytes in hexadecimal", index)
		}
		if zero(v) {
			return nil, cli.Usagef("an all-zero register is one that nothing was measured into, as in debug mode", "--pcr %d: an all-zero value never matches", index)
		}
		for i := range out {
			if out[i].index == index {
				out[i].values = append(out[i].values, v)
				continue next
			}
		}
		out = append(out, pcrValues{index, []attest.Bytes{v}})
	}
	return out, nil
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
	VerifierKey *svid.Thumbprint `json:"verifier_key"`
	Result      *svid.Result     `json:"result"`
}

func svidVerdictOf(at time.Time, chain []*x509.Certificate, a *svid.Attested, err error) svidVerdict {
	out := svidVerdict{Verified: err == nil, At: at}
	if err != nil {
		kind, check, text := attest.KindOf(err), attest.CheckOf(err), err.Error()
		out.Kind, out.Check, out.Error = &kind, &check, &text
		if h := cli.Hint(err); h != "" {
			out.Hint = &h
		}
		return out
	}
	id, cert := a.ID.String(), describe(chain[0])
	out.ID, out.Certificate, out.VerifierKey, out.Result = &id, &cert, &a.VerifierKey, &a.Result
	return out
}

func printAttested(p *cli.Page, at time.Time, leaf *x509.Certificate, a *svid.Attested) error {
	kind := ""
	if a.Result.Simulated {
		kind = ", by a SIMULATOR and not by hardware"
	}
	p.Linef("VERIFIED: %s was attested at %s%s; status %s", a.ID, stamp(a.Result.EvidenceTime), kind, a.Result.Status)
	p.Title("Certificate, valid at %s", stamp(at))
	p.Facts(describe(leaf).facts()...)
	p.Title("Attestation result, signed by verifier key %s", a.VerifierKey)
	printResult(p, &a.Result)
	return p.Err()
}
