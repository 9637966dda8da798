package main

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/cmd/assay-signer/internal/store"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Open every store and sign once with every key, without serving",
		Long: `check validates the configuration, opens every store, and has every key sign
random bytes. It tries the PIN of a token once, even if the token reports that a
wrong one was tried before, unless that would be the last try.`,
		Example: `  assay-signer check
  assay-signer check --config ./assay-signer.yaml`,
		Args: cobra.NoArgs,
	}
	file := configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		clients, err := clientsOf(cfg)
		if err != nil {
			return err
		}
		set, err := store.Open(c.Context(), cfg, store.Options{Log: logger(cfg, c.ErrOrStderr()), TryPIN: true})
		if err != nil {
			return opening(err)
		}
		defer func() { err = errors.Join(err, set.Close()) }()
		for _, k := range set.Keys() {
			if err := try(c, k); err != nil {
				return fmt.Errorf("key %s: %w", k.Name, err)
			}
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "ok: %s signed, for %s\n", cli.Count(len(set.Keys()), "key"), cli.Count(len(clients), "client"))
		return err
	}
	return c
}

// try has a key sign what nobody could use: a digest that is drawn.
func try(c *cobra.Command, k *store.Key) error {
	pub, err := k.Public()
	if err != nil {
		return err
	}
	input := make([]byte, crypto.SHA256.Size())
	_, _ = rand.Read(input) // crypto/rand.Read never fails (Go 1.24)
	for _, how := range []signerwire.Sign{
		{Scheme: signerwire.ECDSA, Hash: signerwire.SHA256},
		{Scheme: signerwire.PKCS1, Hash: signerwire.SHA256},
		{Scheme: signerwire.Ed25519, Hash: signerwire.NoHash},
	} {
		how.Key, how.Purpose, how.Input = k.Name, k.Purposes[0], input
		if how.Fits(pub) == nil {
			_, err := k.Sign(c.Context(), how)
			return err
		}
	}
	return fmt.Errorf("no scheme fits a key of %s", k.Algorithm)
}
