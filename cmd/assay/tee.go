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

	// normalize finds the evidence in what people have: binary, hex, base64, or
	// wrapped in the device's response. It trusts nothing.
	normalize func(raw []byte) ([]byte, error)
	// verifier is built over the pinned roots of the vendor, or over the roots
	// in a PEM file where there is one. about names the roots for people.
	verifier func(rootsPEM []byte) (v verifiers.Verifier, about string, err error)
	// inspect decodes evidence without verifying any of it.
	inspect func(body []byte) (*inspection, error)
	// revocation checks what was brought along against evidence that has just
	// verified, and marks the endorsements that it used.
	revocation func(body []byte, es []*endorsement, at time.Time, require bool) (revocation, error)
	// facts are what a verified claim says, for people, in the order in which
	// they are read; registers go into a table of their own.
	facts     func(c attest.Claims) []cli.Fact
	registers func(c attest.Claims) (title string, r map[int]attest.Bytes)
	// nonce is where evidence of this platform carries a verifier's nonce; check
	// is the name of the comparison.
	nonce func(c attest.Claims) (got attest.Bytes, check string)
	// bound compares the place where this platform carries the binding B.
	bound func(c attest.Claims, b []byte) error
	// checked says in words what the verifier has checked, for the report.
	checked func(about string, c attest.Claims) []checked
	// warnings about evidence that is authentic and still not to be believed.
	warnings func(c attest.Claims) []string
}

// inspection is evidence that was decoded and not verified: an attacker may
// have written all of it.
type inspection struct {
	Document any // for JSON, in the platform's own words
	facts    []cli.Fact
	title    string
	regs     map[int]attest.Bytes
	chain    []*x509.Certificate // root first, leaf last
	time     time.Time           // when the evidence says that it was made, or zero
}

// checked is one line of what a verification has looked at.
type checked struct {
	Name   string
	State  string // "ok", "unchecked", "not_checked", "partial", "failed"
	Detail string
}

// tees lists the platforms that this build verifies.
func tees() []tee { return []tee{nitroTEE()} }

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
		return fmt.Sprintf("%s (%s)", b, plural(len(b), "byte"))
	}
	return fmt.Sprintf("%s… (%s)", b[:32], plural(len(b), "byte"))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
