package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/signed"
)

// policySigned is the JSON output of `policy sign`, `policy bundle show` and
// `policy bundle pack`. What it says is what the file says of itself.
type policySigned struct {
	File        string         `json:"file"`
	Format      string         `json:"format"` // "plain", "cose_sign1", "cose_sign"
	Policy      string         `json:"policy"` // "name@revision"
	TrustDomain string         `json:"trust_domain"`
	Digest      attest.Bytes   `json:"digest"` // SHA-256 of the policy
	Size        int            `json:"size"`   // of the policy, in bytes
	KeyIDs      []attest.Bytes `json:"key_ids"`
}

func signedOf(file string, u *signed.Unverified) policySigned {
	digest := u.UnverifiedDigest()
	out := policySigned{
		File: file, Format: "cose_sign1", Policy: u.Header.Version(), TrustDomain: u.Header.TrustDomain,
		Digest: digest[:], Size: len(u.UnverifiedPayload()), KeyIDs: keyIDs(u.KeyIDs),
	}
	if u.Joint {
		out.Format = "cose_sign"
	}
	return out
}

func (s policySigned) print(c *cobra.Command, output cli.Format, title string) error {
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), s)
	}
	p := cli.NewPage(c.OutOrStdout())
	p.Linef("%s", title)
	format := map[string]string{"plain": "not signed", "cose_sign1": "COSE_Sign1, one signer", "cose_sign": "COSE_Sign, others can approve it"}[s.Format]
	p.Facts(append([]cli.Fact{
		{Name: "policy", Value: s.Policy},
		{Name: "trust domain", Value: s.TrustDomain},
		{Name: "digest", Value: s.Digest.String()},
		{Name: "format", Value: format},
	}, idFacts("signed as", s.KeyIDs)...)...)
	return p.Err()
}

func policySignCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign a policy, or add an approval to a signed one",
		Long: `Sign a policy byte for byte, or add an approval to a policy that was signed with
--joint. The policy must compile; what is signed says which bundle, revision and
trust domain it is.

With one --key the result has room for that signature alone. With several, or
with --joint, others can add theirs: each on their own machine, with this same
command and the signed file. What is written is the FILE's name with .signed, or
the signed FILE itself; --out names another, and - is standard output.`,
		Example: `  assay policy sign policy.yaml --key alice
  assay policy sign policy.yaml --key alice --joint
  assay policy sign policy.signed --key bob`,
		Args: cobra.ExactArgs(1),
	}
	var keys []string
	var joint bool
	var out string
	c.Flags().StringArrayVar(&keys, "key", nil, "private `KEY` file, mode 0600; may be repeated")
	c.Flags().BoolVar(&joint, "joint", false, "leave room for the approvals of others")
	c.Flags().StringVar(&out, "out", "", "`FILE` to write to")
	_ = c.MarkFlagRequired("key") // the flag exists: it was added above
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		raw, err := readDocument(c, args[0])
		if err != nil {
			return err
		}
		signers, err := privateKeys(keys)
		if err != nil {
			return err
		}
		var doc []byte
		switch {
		case signed.Is(raw):
			doc, err = signed.Approve(args[0], raw, signers...)
		case joint || len(signers) > 1:
			doc, err = signed.SignJoint(args[0], raw, signers...)
		default:
			doc, err = signed.Sign(args[0], raw, signers[0])
		}
		if err != nil {
			return signingError(err)
		}
		u, err := signed.Open(doc)
		if err != nil {
			return err
		}
		to := out
		if to == "" {
			if to, err = signedName(args[0], raw, u); err != nil {
				return err
			}
		}
		if err := writeOut(c, to, doc); err != nil {
			return err
		}
		if to == "-" {
			return nil // standard output is the document
		}
		return signedOf(to, u).print(c, *output, "signed: "+to)
	}
	return c
}

// signingError says what an approver can do.
func signingError(err error) error {
	switch {
	case errors.Is(err, signed.ErrClosed):
		return cli.Usagef("sign the policy itself with --joint; then others can add theirs", "%w", err)
	case errors.Is(err, signed.ErrSignedAlready):
		return cli.Usagef("", "%w", err)
	}
	return err
}

// signedName is where a signed policy goes when nobody says where. A file that
// is no signed policy is not replaced, nor one that holds the same policy:
// somebody's approval would be lost.
func signedName(from string, raw []byte, u *signed.Unverified) (string, error) {
	if from == "-" {
		return "-", nil
	}
	if signed.Is(raw) {
		return from, nil
	}
	to := strings.TrimSuffix(from, filepath.Ext(from)) + ".signed"
	before, err := cli.ReadFile(to, signed.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return to, nil
	}
	if err != nil {
		return "", cli.Usagef("name another file with --out", "%s", clean(err))
	}
	old, err := signed.Open(before)
	if err != nil {
		return "", cli.Usagef("name another file with --out", "%s is there, and is no signed policy: it is not replaced", to)
	}
	if bytes.Equal(old.UnverifiedPayload(), u.UnverifiedPayload()) {
		return "", cli.Usagef("to add your signature, sign "+to+"; to begin anew, name it with --out", "%s holds this policy already, signed by %s", to, cli.Count(len(old.KeyIDs), "key"))
	}
	return to, nil
}

// writeOut writes to a file, whole or not at all, or to standard output.
func writeOut(c *cobra.Command, to string, content []byte) error {
	if to == "-" {
		_, err := c.OutOrStdout().Write(content)
		return err
	}
	return replaceFile(to, content)
}

// readDocument reads a policy, plain or signed.
func readDocument(c *cobra.Command, name string) ([]byte, error) {
	if name != "-" {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && info.Size() <= signed.MaxSize && info.Size() > maxInput {
			return os.ReadFile(name)
		}
	}
	return readInput(c, name)
}
