package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/cmd/assay-signer/internal/store"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

func keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "List the keys, or make one"}
	c.AddCommand(keysListCommand(), keysCreateCommand())
	return c
}

// listedKey is one key as --output json shows it.
type listedKey struct {
	Name      string               `json:"name"`
	Algorithm string               `json:"algorithm"`
	Purposes  []signerwire.Purpose `json:"purposes"`
	Store     string               `json:"store"`
	Ref       string               `json:"ref"`
	SPKI      string               `json:"spki_sha256"`
	Public    string               `json:"public_key"`
}

func keysListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "Open the stores and list the configured keys",
		Example: `  assay-signer keys list
  assay-signer keys list --output json`,
		Args: cobra.NoArgs,
	}
	file, format := configFlag(c), cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		set, err := store.Open(c.Context(), cfg, store.Options{Log: logger(cfg, c.ErrOrStderr())})
		if err != nil {
			return opening(err)
		}
		defer func() { err = errors.Join(err, set.Close()) }()
		list := []listedKey{}
		var rows [][]string
		for _, k := range set.Keys() {
			sum := sha256.Sum256(k.SPKI)
			e := listedKey{Name: k.Name, Algorithm: k.Algorithm, Purposes: k.Purposes, Store: k.Store, Ref: k.Ref, SPKI: hex.EncodeToString(sum[:]), Public: publicPEM(k.SPKI)}
			list = append(list, e)
			rows = append(rows, []string{e.Name, e.Algorithm, joined(e.Purposes), e.Store, e.Ref, e.SPKI})
		}
		if *format == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), list)
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Table([]string{"name", "algorithm", "purposes", "store", "ref", "SHA-256 of the public key"}, rows)
		return p.Err()
	}
	return c
}

func keysCreateCommand() *cobra.Command {
	alg := store.P256
	var in, ref string
	var purposes []string
	c := &cobra.Command{
		Use:   "create [NAME] --store STORE --purpose PURPOSE",
		Short: "Make a key in a store, and print what to add to the configuration",
		Long: `create has a store make a key. The private key never leaves it. What is printed
is the entry for "keys" in the configuration, and the public key as a comment:
nothing uses the key before it is entered there and the signer started again.

Without NAME one is drawn, in the form by which assayd knows the keys of its
authorities: the prefix of the purpose (x509-ca-, verifier-, jwt-, deny-list-) and
16 hex digits.

It replaces no key. --ref is what the store is to call the key, where that is not
its name: Google Cloud KMS needs projects/P/locations/L/keyRings/R/cryptoKeys/K.`,
		Example: `  assay-signer keys create --store hsm --purpose x509-authority
  assay-signer keys create checkpoint-1 --store aws --purpose checkpoint --algorithm Ed25519`,
		Args: cobra.MaximumNArgs(1),
	}
	file := configFlag(c)
	c.Flags().StringVar(&in, "store", "", "the store of the configuration that makes the key (required)")
	c.Flags().StringSliceVar(&purposes, "purpose", nil, "what the key will sign (required)")
	c.Flags().Var(&alg, "algorithm", "P-256, P-384, RSA-2048, RSA-3072, RSA-4096 or Ed25519")
	c.Flags().StringVar(&ref, "ref", "", "what the store is to call the key (default NAME)")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		name, err := nameOf(args, purposes)
		if err != nil {
			return err
		}
		entry, err := entryOf(cfg, name, in, purposes)
		if err != nil {
			return err
		}
		called := name
		if ref != "" {
			called = ref
		}
		made, pub, err := store.Create(c.Context(), cfg, in, called, alg, store.Options{Log: logger(cfg, c.ErrOrStderr())})
		if err != nil {
			return opening(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "  - name: %s\n    store: %s\n    ref: %q\n    purposes: [%s]\n    # %s\n",
			entry.Name, entry.Store, made, joined(entry.Purposes), strings.ReplaceAll(strings.TrimSpace(publicPEM(spki)), "\n", "\n    # "))
		return err
	}
	return c
}

// nameOf is the name that was given, or one that is drawn for the purpose.
func nameOf(args, purposes []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	if len(purposes) == 1 {
		if name, ok := keys.DrawName(signerwire.Purpose(purposes[0])); ok {
			return name, nil
		}
	}
	return "", cli.Usagef("assay-signer keys create NAME …; names are drawn for one purpose of x509-authority, verifier, jwt and deny-list", "what is the key called?")
}

// entryOf checks what was asked for before a store is told to make it.
func entryOf(cfg *config.Config, name, in string, purposes []string) (config.Key, error) {
	k := config.Key{Name: name, Store: in}
	if err := keys.CheckName(name); err != nil {
		return k, cli.Usagef("", "%w", err)
	}
	if _, ok := cfg.Stores[in]; !ok {
		return k, cli.Usagef("--store NAME, one of the configuration's stores", "there is no store %q", in)
	}
	for _, other := range cfg.Keys {
		if other.Name == name {
			return k, cli.Usagef("choose another name", "the configuration has a key %s already", name)
		}
	}
	if len(purposes) == 0 {
		return k, cli.Usagef("--purpose x509-authority", "what is the key for?")
	}
	for _, s := range purposes {
		var p signerwire.Purpose
		if err := p.UnmarshalText([]byte(s)); err != nil {
			return k, cli.Usagef("", "--purpose: %w", err)
		}
		k.Purposes = append(k.Purposes, p)
	}
	return k, nil
}

func joined(purposes []signerwire.Purpose) string {
	out := make([]string, 0, len(purposes))
	for _, p := range purposes {
		out = append(out, string(p))
	}
	return strings.Join(out, ", ")
}

func publicPEM(spki []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
}
