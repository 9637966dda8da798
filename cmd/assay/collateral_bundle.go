package main

import (
	"crypto"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

const keyHint = "make a key pair with `openssl genpkey -algorithm ed25519 -out key.pem` and `openssl pkey -in key.pem -pubout -out key.pub`"

func collateralExportCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "export --cache DIR --out FILE --key KEY --expires DURATION",
		Short: "Write a signed bundle of everything in a cache directory",
		Long: `Write the certificates and CRLs of a cache directory into one file, signed with a
key of yours, to be imported by servers that have no way to the KDS. Whoever imports
it verifies the signature, the expiry, that it is not older than the last one, and
every item under AMD's pinned roots. What does not verify is not exported.`,
		Example: `  openssl genpkey -algorithm ed25519 -out key.pem
  assay collateral export --cache collateral --out snp.bundle --key key.pem --expires 720h`,
		Args: cobra.NoArgs,
	}
	var f collateralFlags
	var out, key string
	var life time.Duration
	f.add(c, "the cache `DIR`ectory to export")
	c.Flags().StringVar(&out, "out", "", "`FILE` to write the bundle to")
	c.Flags().StringVar(&key, "key", "", "PEM `FILE` with the private key that signs: Ed25519, P-256 or P-384 (PKCS #8)")
	c.Flags().DurationVar(&life, "expires", 0, "how long the bundle can be imported, such as 720h")
	for _, name := range []string{"cache", "out", "key", "expires"} {
		_ = c.MarkFlagRequired(name) // the flag exists: it was added above
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if life <= 0 {
			return cli.Usagef("say how long the bundle can be imported, such as 720h", "--expires %s: want more than 0", life)
		}
		text, err := readInput(c, key)
		if err != nil {
			return err
		}
		signer, err := collateral.ParsePrivateKey(text)
		if err != nil {
			return cli.Usagef(keyHint, "--key %s: %w", key, err)
		}
		if err := existingCache(&f); err != nil {
			return err
		}
		cache, err := f.open(c, now)
		if err != nil {
			return err
		}
		defer func() { _ = cache.Close() }() // only read
		objects, bad, err := cache.List()
		if err != nil {
			return err
		}
		if bad > 0 {
			cli.Warn(c.ErrOrStderr(), "%s in %s cannot be used, and is not exported", cli.Count(bad, "file"), f.cache)
		}
		if len(objects) == 0 {
			return cli.Usagef("fill it with `assay collateral fetch`", "--cache %s: nothing in it can be exported", f.cache)
		}
		b := collateral.NewBundle(objects, now(), life)
		doc, err := b.Sign(signer)
		if err != nil {
			return cli.Usagef("", "%w", err)
		}
		if err := replaceFile(out, doc); err != nil {
			return err
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("wrote %s: %s, %s, %s", out, cli.Count(len(b.Certificates), "certificate"), cli.Count(len(b.CRLs), "CRL"), cli.Count(len(doc), "byte"))
		p.Facts(cli.Fact{Name: "sequence", Value: fmt.Sprint(b.Sequence)}, cli.Fact{Name: "expires", Value: stamp(b.Expires)})
		return p.Err()
	}
	return c
}

func collateralImportCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "import FILE --cache DIR --trust KEY",
		Short: "Put a signed bundle into a cache directory",
		Long: `Verify a bundle, and put what is in it into a cache directory. A running server
that uses the directory sees it within seconds. Refused, with nothing imported: a
bundle by a key that is not trusted, changed, expired, or older than what its key
brought here before, and one with an item that does not verify under the roots.`,
		Example: `  assay collateral import snp.bundle --cache /var/lib/assay/collateral --trust key.pub`,
		Args:    cobra.ExactArgs(1),
	}
	var f collateralFlags
	var trust []string
	f.add(c, "the cache `DIR`ectory; made if it is not there")
	c.Flags().StringArrayVar(&trust, "trust", nil, "PEM `FILE` with the public key of whoever may bring bundles; may be repeated")
	for _, name := range []string{"cache", "trust"} {
		_ = c.MarkFlagRequired(name) // the flag exists: it was added above
	}
	format := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, a []string) error {
		var keys []crypto.PublicKey
		for _, name := range trust {
			text, err := readInput(c, name)
			if err != nil {
				return err
			}
			k, err := collateral.ParsePublicKey(text)
			if err != nil {
				return cli.Usagef(keyHint, "--trust %s: %w", name, err)
			}
			keys = append(keys, k)
		}
		doc, err := readBundle(a[0])
		if err != nil {
			return err
		}
		cache, err := f.open(c, now)
		if err != nil {
			return err
		}
		defer func() { _ = cache.Close() }() // what was written was synced
		done, err := cache.Import(doc, keys)
		if err != nil {
			return err
		}
		if *format == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), done)
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("imported %s: %d stored, %d there already", a[0], done.Stored, done.Kept)
		p.Facts(cli.Fact{Name: "sequence", Value: fmt.Sprint(done.Sequence)}, cli.Fact{Name: "issued", Value: stamp(done.IssuedAt)})
		return p.Err()
	}
	return c
}

// readBundle reads a file that may be larger than other input.
func readBundle(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, cli.Usagef(fileHint(err), "%s", clean(err))
	}
	defer func() { _ = file.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(file, collateral.MaxBundleSize+1))
	if err != nil {
		return nil, &attest.Error{Kind: attest.Internal, Check: "read", Err: err}
	}
	return b, nil
}
