package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifiers"
)

// bindingSize is the length of B (docs/spec/binding.md).
const bindingSize = 32

func evidenceVerifyCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify --tee TEE FILE",
		Short: "Verify evidence, and say whether a policy would admit it",
		Long: `Verify evidence: structure, signature, chain to the vendor's pinned root, time.
With --policy, also decide what the policy would.

FILE may be binary, hex or base64; a Nitro document with or without the NSM's
response around it, an SEV-SNP report with or without the host's certificate
table behind it; a TPM's quote in Assay's JSON or CBOR (docs/spec/tpm-evidence.md)
or as go-tpm-tools' Attestation. - is standard input. ` + "`assay evidence import`" + ` reads
other tools' quotes.

Evidence is verified at the present time. To verify recorded evidence give the
time at which it was made, from a source that you trust, with --at.

Nothing is fetched from a network. A Nitro document carries its chain; an SEV-SNP
report needs the certificate of the key that signed it (VCEK or VLEK), behind it
or with --endorsement. CRLs given with --endorsement are checked for the
certificates that they cover; --require-crl fails when one is missing.

Nothing in a TPM's quote says whose its key is. Offline, a cloud's certificate for
the AK vouches for it, under the pinned roots and those of --tpm-roots; or you do,
with --ak FILE.`,
		Example: `  assay evidence verify --tee aws-nitro document.cbor
  assay evidence verify --tee aws-nitro --at 2026-01-31T12:00:00Z --policy policy.yaml document.cbor
  assay evidence verify --tee aws-nitro --nonce 5b1f… --output json - < document.b64
  assay evidence verify --tee aws-nitro --endorsement regional.crl --endorsement zonal.crl --require-crl document.cbor
  assay evidence verify --tee amd-sev-snp --endorsement vcek.der --endorsement milan.crl --policy policy.yaml report.bin
  assay evidence verify --tee tpm2 --ak ak.pub.pem --nonce 5b1f… quote.json`,
		Args: cobra.ExactArgs(1),
	}
	var (
		at                timeValue
		nonce, binding    hexValue
		files             []string
		roots, policyFile string
		requireCRL        bool
		forTPM            tpmFlags
	)
	binding.size = bindingSize
	platform := teeFlag(c)
	f := c.Flags()
	f.Var(&at, "at", "verify at this time instead of now")
	f.StringArrayVar(&files, "endorsement", nil, "`FILE` with certificates or CRLs, DER or PEM; may be repeated")
	f.StringVar(&roots, "roots", "", "PEM `FILE` with roots that replace the vendor's: the claims are then marked simulated")
	f.BoolVar(&requireCRL, "require-crl", false, "fail unless every certificate that names a CRL was looked up in one")
	forTPM.add(c)
	f.Var(&nonce, "nonce", "the nonce that the evidence has to carry")
	f.Var(&binding, "expect-binding", "the binding B that the evidence has to carry (32 bytes)")
	f.StringVar(&policyFile, "policy", "", "policy `FILE` that decides whether the evidence is admitted")
	output := cli.OutputFlag(c)

	c.RunE = func(c *cobra.Command, args []string) error {
		t, err := platform()
		if err != nil {
			return err
		}
		v := verification{tee: t, at: at.or(now), requireCRL: requireCRL, nonce: nonce.bytes, binding: binding.bytes}
		o := opening{requireCRL: requireCRL}
		if o.tpm, err = forTPM.read(c, t); err != nil {
			return err
		}
		v.eventLog = o.tpm.eventLog
		if err := v.openRoots(c, roots, o); err != nil {
			return err
		}
		if v.endorsements, err = readEndorsements(c, files); err != nil {
			return err
		}
		if policyFile != "" {
			if v.policy, err = readPolicy(c, policyFile); err != nil {
				return err
			}
		}
		raw, err := readInput(c, args[0])
		if err != nil && attest.KindOf(err) == attest.Internal {
			return err // usage: the file cannot be read at all
		}
		var result *verdict
		if err != nil {
			result = v.refused(err)
		} else {
			result = v.run(c.Context(), raw)
		}
		for _, w := range result.Warnings {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *output == cli.JSON {
			if err := cli.PrintJSON(c.OutOrStdout(), result); err != nil {
				return err
			}
			if result.err != nil {
				return &cli.Silent{Code: cli.ExitCode(result.err)}
			}
			return nil
		}
		if err := v.print(cli.NewPage(c.OutOrStdout()), result); err != nil {
			return err
		}
		return result.err
	}
	return c
}

func (v *verification) openRoots(c *cobra.Command, file string, o opening) error {
	var err error
	if file != "" {
		if o.rootsPEM, err = readInput(c, file); err != nil {
			return err
		}
	}
	if v.opened, err = v.tee.open(o); err != nil {
		var usage *cli.UsageError
		if errors.As(err, &usage) {
			return err // of another flag
		}
		return cli.Usagef("--roots takes PEM with root certificates of one kind", "--roots %s: %w", file, err)
	}
	v.verifier, err = verifiers.NewSet(v.opened.verifier)
	return err
}

func readPolicy(c *cobra.Command, file string) (*policy.Bundle, error) {
	src, err := readInput(c, file)
	if err != nil {
		return nil, err
	}
	return policy.Parse(file, src)
}

// verification is one run of `evidence verify`.
type verification struct {
	tee          tee
	at           time.Time
	opened       *opened
	verifier     verifiers.Set // of opened.verifier
	endorsements []*endorsement
	requireCRL   bool
	nonce        []byte         // nil: not compared
	binding      []byte         // nil: not compared
	eventLog     []byte         // of a TPM, beside the evidence; nil: what the file holds
	policy       *policy.Bundle // nil: not asked
}

// verdict is the JSON output of `evidence verify` (docs/reference/cli.md). All
// fields are always there; those that do not apply are null.
type verdict struct {
	Verified   bool             `json:"verified"`
	TEE        attest.Platform  `json:"tee"`
	At         time.Time        `json:"at"`
	Kind       *attest.Kind     `json:"kind"`
	Check      *string          `json:"check"`
	Error      *string          `json:"error"`
	Hint       *string          `json:"hint"`
	Nonce      string           `json:"nonce"`
	Binding    string           `json:"binding"`
	Revocation string           `json:"revocation"`
	Unused     []string         `json:"unused"`
	Warnings   []string         `json:"warnings"`
	Claims     *attest.Claims   `json:"claims"`
	Decision   *policy.Decision `json:"decision"`

	err     error
	checked []checked
	chain   []*x509.Certificate
}

// States of nonce and binding.
const (
	stateOK        = "ok"
	stateUnchecked = "unchecked"
	stateFailed    = "failed"
)

// run verifies in this order, and stops at the first failure:
//
//  1. the platform's structure, chain, signature and time
//  2. revocation, over the chain that step 1 verified
//  3. nonce and binding, where they are expected
//  4. the policy, where there is one
//
// Claims are part of the verdict only when steps 1 to 3 held.
func (v *verification) run(ctx context.Context, raw []byte) *verdict {
	ev, err := v.tee.normalize(raw)
	if err != nil {
		return v.refused(err)
	}
	if v.eventLog != nil {
		ev.EventLog = v.eventLog
	}
	seen := ev
	ev = v.evidence(ev)
	claims, err := v.verifier.Authenticate(ctx, ev, v.at)
	if err != nil {
		return v.refused(v.hinted(err, seen))
	}
	out := v.blank()
	out.checked = v.opened.checked(*claims)

	rev, err := v.opened.after(ev, *claims, v.endorsements, v.at)
	out.Revocation = rev.State
	out.checked = append(out.checked, checked{"revocation", rev.State, rev.Detail})
	out.chain = v.opened.chain()
	v.unused(out)
	if err != nil {
		return v.refuse(out, err)
	}
	if err := v.expectations(out, *claims); err != nil {
		return v.refuse(out, err)
	}

	out.Verified, out.Claims = true, claims
	if v.policy == nil {
		out.Warnings = append(out.Warnings, v.tee.warnings(*claims)...)
		return out
	}
	d := v.policy.Explain(*claims, v.at)
	out.Decision = &d
	if d.Outcome != policy.Granted {
		out.fail(&attest.Error{
			Kind: attest.Denied, Check: "policy", Err: errors.New(denial(d)),
			Hint: "the rules that fail are listed with what was expected and what was found",
		})
	}
	return out
}

// evidence is what the verifier gets: endorsements are untrusted to it,
// whoever brought them. Those that lie beside the evidence in its file come
// first, and are named evidence#1 and so on.
func (v *verification) evidence(ev attest.Evidence) attest.Evidence {
	var es []*endorsement
	for i, der := range ev.Endorsements {
		es = append(es, lenientEndorsement(fmt.Sprintf("evidence#%d", i+1), der))
	}
	v.endorsements = append(es, v.endorsements...)
	ev.Platform, ev.Endorsements = v.tee.platform, nil
	for _, e := range v.endorsements {
		// Until the verifier says which it did not need, nothing is known to be unused.
		e.used = v.opened.endorses
		if e.crl == nil || !v.opened.certificates {
			ev.Endorsements = append(ev.Endorsements, e.raw)
		}
	}
	return ev
}

// expectations compares nonce and binding with what the user expects.
func (v *verification) expectations(out *verdict, c attest.Claims) error {
	var err error
	if v.nonce != nil {
		out.Nonce = stateOK
		if err = v.tee.nonce(c, v.nonce); err != nil {
			out.Nonce = stateFailed
		}
	}
	if v.binding != nil {
		out.Binding = stateOK
		if berr := v.tee.bound(c, v.binding); berr != nil {
			out.Binding = stateFailed
			err = cmp.Or(err, berr)
		}
	}
	detail := map[string]string{
		stateOK: "it carries what was expected", stateFailed: "it does not carry what was expected",
		stateUnchecked: "nothing was expected: --nonce HEX, --expect-binding HEX",
	}
	out.checked = append(out.checked,
		checked{"nonce", out.Nonce, detail[out.Nonce]},
		checked{"binding", out.Binding, detail[out.Binding]})
	return err
}

// hinted adds what the evidence says of itself and would help: where its
// endorsement can be had, or when it was made. It is a hint and nothing more:
// nothing in the evidence has been verified.
func (v *verification) hinted(err error, ev attest.Evidence) error {
	var ae *attest.Error
	if !errors.As(err, &ae) {
		return err
	}
	ev.Endorsements = nil
	seen, ierr := v.tee.inspect(ev)
	if ierr != nil {
		return err
	}
	hint := seen.hints[ae.Check]
	if v.verifier.Simulated() {
		hint = "" // they speak of the vendor's services, which have nothing of a simulator
	}
	if ae.Kind == attest.Stale && !seen.time.IsZero() && seen.time.Sub(v.at).Abs() >= time.Minute { // a nearer one leads back to here
		hint = fmt.Sprintf("recorded evidence is verified at the time it was made: --at %s (that is the evidence's own word, unverified)",
			seen.time.UTC().Format(time.RFC3339))
	}
	if hint == "" {
		return err
	}
	out := *ae
	out.Hint = hint
	return &out
}

func (v *verification) blank() *verdict {
	out := &verdict{
		TEE: v.tee.platform, At: v.at,
		Nonce: stateUnchecked, Binding: stateUnchecked, Revocation: revocationNone,
		Unused: []string{}, Warnings: []string{},
	}
	if v.verifier.Simulated() {
		out.Warnings = append(out.Warnings, "verified with the roots given by --roots: simulated, and no word of a hardware vendor")
	}
	return out
}

// refused is the verdict of evidence that was not even authenticated.
func (v *verification) refused(err error) *verdict {
	out := v.blank()
	if strings.HasPrefix(attest.CheckOf(err), "crl_") {
		out.Revocation = revocationFailed
	}
	v.unused(out)
	return v.refuse(out, err)
}

func (v *verification) refuse(out *verdict, err error) *verdict {
	out.Verified, out.Claims = false, nil
	out.fail(err)
	return out
}

func (v *verification) unused(out *verdict) {
	out.Unused = []string{}
	for _, e := range v.endorsements {
		if !e.used {
			out.Unused = append(out.Unused, e.name)
		}
	}
}

func (out *verdict) fail(err error) {
	kind, check, text, hint := attest.KindOf(err), attest.CheckOf(err), err.Error(), cli.Hint(err)
	out.Kind, out.Check, out.Error, out.err = &kind, &check, &text, err
	if hint != "" {
		out.Hint = &hint
	}
}

// print writes the verdict for people.
func (v *verification) print(p *cli.Page, out *verdict) error {
	roots := ""
	if v.verifier.Simulated() {
		roots = ", under SIMULATED roots"
	}
	switch {
	case !out.Verified:
		p.Linef("REFUSED: as %s evidence this does not hold at %s (%s, check %s)", v.tee.title, stamp(v.at), out.Kind, *out.Check)
	case out.Decision == nil:
		p.Linef("VERIFIED: authentic %s evidence at %s%s", v.tee.title, stamp(v.at), roots)
	case out.err != nil:
		p.Linef("VERIFIED and DENIED: authentic %s evidence at %s%s, which policy %s@%d does not admit", v.tee.title, stamp(v.at), roots, out.Decision.Bundle, out.Decision.Revision)
	default:
		p.Linef("VERIFIED and GRANTED: authentic %s evidence at %s%s, which policy %s@%d admits as %s", v.tee.title, stamp(v.at), roots, out.Decision.Bundle, out.Decision.Revision, out.Decision.Workload)
	}
	if len(out.checked) > 0 {
		p.Title("Checked")
		var rows [][]string
		for _, c := range out.checked {
			rows = append(rows, []string{c.Name, c.State, c.Detail})
		}
		p.Table(nil, rows)
	}
	if out.Claims != nil {
		p.Title("Claims")
		v.tee.print(p, *out.Claims)
		printChain(p, out.chain)
	}
	if len(out.Unused) > 0 {
		p.Title("Endorsements that were not used")
		var rows [][]string
		for _, e := range v.endorsements {
			if !e.used {
				rows = append(rows, []string{e.name, e.about()})
			}
		}
		p.Table(nil, rows)
	}
	if out.Decision != nil {
		printDecision(p, *out.Decision)
	}
	return p.Err()
}

// about says what an endorsement is and why it was not used.
func (e *endorsement) about() string {
	why := e.why
	switch {
	case why != "":
	case e.crl != nil:
		why = "verification ended before it was looked at"
	default:
		why = "evidence of this platform carries its own chain"
	}
	switch {
	case e.cert != nil:
		return fmt.Sprintf("certificate %q: %s", e.cert.Subject.String(), why)
	case e.crl != nil:
		return fmt.Sprintf("CRL of %q: %s", e.crl.Issuer.String(), why)
	}
	return "neither a certificate nor a CRL: " + why
}
