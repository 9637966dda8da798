package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/svid"
)

// trustFiles name what a relying party trusts.
type trustFiles struct{ bundle, keys, root, domain, denyList, audience string }

func (f *trustFiles) add(c *cobra.Command) {
	l := c.Flags()
	l.StringVar(&f.bundle, "bundle", "", "`FILE` with the trust domain's bundle: SPIFFE bundle JSON, or PEM (not for tokens)")
	l.StringVar(&f.keys, "verifier-keys", "", "`FILE` with the signed verifier-keys document; for certificates")
	l.StringVar(&f.root, "verifier-root", "", "PEM `FILE` with the public key of the verifier root, which you pin; for certificates and deny-lists")
	l.StringVar(&f.domain, "trust-domain", "", "the `TRUST-DOMAIN` whose bundle it is; for tokens")
	l.StringVar(&f.audience, "audience", "", "`WHOM` the token must be for; for tokens")
	l.StringVar(&f.denyList, "deny-list", "", "`FILE` with the signed deny-list: what it names is refused")
}

// complete says which flags are missing for what is shown.
func (f *trustFiles) complete(token bool) error {
	need := []struct{ flag, value string }{{"--bundle", f.bundle}, {"--verifier-keys", f.keys}, {"--verifier-root", f.root}}
	hint := "`assay bundle export` writes the bundle and the verifier keys; the verifier root is made by `assayd init` (verifier-root.pem)"
	if token {
		need = []struct{ flag, value string }{{"--bundle", f.bundle}, {"--trust-domain", f.domain}, {"--audience", f.audience}}
		hint = "a token is verified with the JWT authorities of its trust domain's bundle, for an audience"
	}
	if f.denyList != "" && f.root == "" {
		need = append(need, struct{ flag, value string }{"--verifier-root", ""})
	}
	var missing []string
	for _, x := range need {
		if x.value == "" {
			missing = append(missing, x.flag)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return cli.Usagef(hint, "%s must be given: nothing is verified without it", strings.Join(missing, ", "))
}

// trusted is what the files hold.
type trusted struct {
	source  svid.Source
	tokens  jwtbundle.Source
	require []svid.Requirement
}

// read reads what is trusted. An error in what the user trusts is usage, but
// signed documents can also be untrusted or stale: they may come from anywhere.
func (f *trustFiles) read(c *cobra.Command, token bool, at time.Time) (*trusted, error) {
	if token {
		return f.readForTokens(c, at)
	}
	rootPEM, err := readInput(c, f.root)
	if err != nil {
		return nil, err
	}
	root, err := svid.ParseVerifierRoot(rootPEM)
	if err != nil {
		return nil, cli.Usagef("the verifier root is the public key that `assayd init` wrote to verifier-root.pem", "--verifier-root %s: %w", f.root, err)
	}
	doc, err := readInput(c, f.keys)
	if err != nil {
		return nil, err
	}
	bundleBytes, err := readInput(c, f.bundle)
	if err != nil {
		return nil, err
	}
	keys, err := svid.ParseVerifierKeys(doc, root, at)
	if err != nil {
		return nil, fmt.Errorf("--verifier-keys %s: %w", f.keys, err)
	}
	if f.domain != "" && f.domain != keys.TrustDomain.Name() {
		return nil, cli.Usagef("", "--trust-domain %s: the verifier keys are those of %s", f.domain, keys.TrustDomain)
	}
	bundle, err := parseBundle(keys.TrustDomain, bundleBytes)
	if err != nil {
		return nil, cli.Usagef("`assay bundle export` writes one", "--bundle %s: %w", f.bundle, err)
	}
	denied, err := f.denied(c, keys.TrustDomain, at)
	if err != nil {
		return nil, err
	}
	return &trusted{source: svid.NewSource(bundle, keys), require: denied}, nil
}

func (f *trustFiles) readForTokens(c *cobra.Command, at time.Time) (*trusted, error) {
	td, err := spiffeid.TrustDomainFromString(f.domain)
	if err != nil || td.Name() != f.domain {
		return nil, cli.Usagef("as in attested.example.org", "--trust-domain %q is not the name of a trust domain", f.domain)
	}
	b, err := readInput(c, f.bundle)
	if err != nil {
		return nil, err
	}
	bundle, err := jwtBundle(td, b)
	if err != nil {
		return nil, cli.Usagef("`assay bundle export` writes one", "--bundle %s: %w", f.bundle, err)
	}
	denied, err := f.denied(c, td, at)
	if err != nil {
		return nil, err
	}
	return &trusted{tokens: bundle, require: denied}, nil
}

// denied is the requirement that the deny-list does not name it; none without a
// list.
func (f *trustFiles) denied(c *cobra.Command, td spiffeid.TrustDomain, at time.Time) ([]svid.Requirement, error) {
	if f.denyList == "" {
		return nil, nil
	}
	rootPEM, err := readInput(c, f.root)
	if err != nil {
		return nil, err
	}
	root, err := svid.ParseVerifierRoot(rootPEM)
	if err != nil {
		return nil, cli.Usagef("the verifier root is the public key that `assayd init` wrote to verifier-root.pem", "--verifier-root %s: %w", f.root, err)
	}
	doc, err := readInput(c, f.denyList)
	if err != nil {
		return nil, err
	}
	list, err := svid.NewDenyList(td, root)
	if err != nil {
		return nil, err
	}
	if err := list.Update(doc, at); err != nil {
		return nil, fmt.Errorf("--deny-list %s: %w", f.denyList, err)
	}
	return []svid.Requirement{svid.NotDenied(list)}, nil
}

// jwtBundle reads the JWT authorities of SPIFFE bundle JSON, or of a JWK Set.
func jwtBundle(td spiffeid.TrustDomain, b []byte) (*jwtbundle.Bundle, error) {
	if block, _ := pem.Decode(b); block != nil && !looksLikeJSON(b) {
		return nil, errors.New("PEM holds no JWT authorities: a token needs SPIFFE bundle JSON")
	}
	sb, err := spiffebundle.Parse(td, b)
	if err != nil {
		return nil, err
	}
	out := sb.JWTBundle()
	if out.Empty() {
		return nil, errors.New("it holds no JWT authority")
	}
	return out, nil
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
