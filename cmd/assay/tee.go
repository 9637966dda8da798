package main

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers"
)

// tee is what the evidence commands know of one platform. A platform is added
// by writing one of these and naming it in [tees]; no command changes.
type tee struct {
	platform attest.Platform
	title    string // "AWS Nitro Enclaves"

	// normalize finds the evidence in what people have: binary, hex, base64, JSON, or
	// wrapped in the device's response, and what lies beside it in the same file:
	// endorsements, an event log. It trusts nothing.
	normalize func(raw []byte) (attest.Evidence, error)
	// open builds the verifier over the pinned roots of the vendor, or over the
	// roots in a PEM file where there is one.
	open func(o opening) (*opened, error)
	// inspect decodes evidence, and what lies beside it, without verifying any.
	inspect func(ev attest.Evidence) (*inspection, error)
	// claimed is what evidence would claim if it verified: for drafts of a policy.
	claimed func(ev attest.Evidence) (*attest.Claims, error)
	// print shows verified claims to people, under the title "Claims".
	print func(p *cli.Page, c attest.Claims)
	// nonce compares the nonce that a user expects with where evidence of this
	// platform carries one.
	nonce func(c attest.Claims, nonce []byte) error
	// bound compares the place where this platform carries the binding B.
	bound func(c attest.Claims, b []byte) error
	// warnings about evidence that is authentic and still not to be believed.
	warnings func(c attest.Claims) []string
}

// opening is what a user may say about how a platform's evidence is verified.
type opening struct {
	rootsPEM   []byte // nil: the vendor's
	requireCRL bool
	tpm        tpmOpening // for evidence of a TPM only
}

// opened is a platform's verifier for one run of a command.
type opened struct {
	verifier verifiers.Verifier
	// endorses says that the verifier takes the endorsements itself, and that only
	// it knows which of them it needed.
	endorses bool
	// certificates says that it takes nothing but certificates.
	certificates bool
	// after looks at evidence that has just verified: it says what is known of
	// revocation, and marks the endorsements that were used.
	after func(ev attest.Evidence, c attest.Claims, es []*endorsement, at time.Time) (revocation, error)
	// checked says in words what the verifier has checked, for the report.
	checked func(c attest.Claims) []checked
	// chain is the chain that verified evidence rests on, root first; it is asked
	// after [opened.after].
	chain func() []*x509.Certificate
}

// inspection is evidence that was decoded and not verified: an attacker may
// have written all of it.
type inspection struct {
	Document any // for JSON, in the platform's own words
	print    func(p *cli.Page)
	chain    []*x509.Certificate // root first, leaf last
	time     time.Time           // when the evidence says that it was made, or zero
	hints    map[string]string   // by check: what would help this evidence over it
}

// checked is one line of what a verification has looked at.
type checked struct {
	Name   string
	State  string // "ok", "unchecked", "not_checked", "partial", "failed"
	Detail string
}

// tees lists the platforms that this build verifies.
func tees() []tee { return []tee{nitroTEE(), snpTEE(), tpmTEE()} }

func teeNames() []string {
	var out []string
	for _, t := range tees() {
		out = append(out, string(t.platform))
	}
	return out
}

// teeFlag adds --tee. It is required: guessing the platform from the bytes
// would let the sender choose the verifier.
func teeFlag(c *cobra.Command) func() (tee, error) {
	name := c.Flags().String("tee", "", "the `TEE` that made the evidence: "+strings.Join(teeNames(), ", "))
	// The flag exists: it was added the line before.
	_ = c.RegisterFlagCompletionFunc("tee", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return teeNames(), cobra.ShellCompDirectiveNoFileComp
	})
	return func() (tee, error) { return findTEE(*name) }
}

func findTEE(name string) (tee, error) {
	for _, t := range tees() {
		if string(t.platform) == name {
			return t, nil
		}
	}
	hint := "this build verifies: " + strings.Join(teeNames(), ", ")
	if name == "" {
		return tee{}, cli.Usagef(hint, "--tee is needed: which platform made the evidence?")
	}
	if _, err := attest.ParsePlatform(name); err == nil {
		return tee{}, cli.Usagef(hint, "--tee %s: this build has no verifier for it", name)
	}
	return tee{}, cli.Usagef(hint, "--tee %q is no platform that Assay knows", name)
}

// short gives bytes a length and, when they are long, only their beginning.
func short(b attest.Bytes) string {
	switch {
	case b == nil:
		return "absent"
	case len(b) == 0:
		return "empty"
	case len(b) <= 64:
		return fmt.Sprintf("%s (%s)", b, cli.Count(len(b), "byte"))
	}
	return fmt.Sprintf("%s… (%s)", b[:32], cli.Count(len(b), "byte"))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
