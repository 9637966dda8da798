package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// Check looks at what Open would load, and changes nothing: for `assayd check`,
// also while a server runs (open the store read-only). It returns every problem
// that it finds, joined. What the first start would make may be missing.
func Check(ctx context.Context, cfg Config) error {
	if cfg.Keys == nil || cfg.Store == nil || cfg.Now == nil || cfg.DataDir == "" {
		return errors.New("ca: Config.Keys, Store, Now and DataDir are required")
	}
	def(&cfg.Chain, ledger.MainChain)
	c, err := prepare(ctx, cfg)
	if err != nil {
		return err
	}
	var problems []error
	for _, use := range []store.Use{store.X509, store.Verifier} {
		a, err := c.checkAuthority(ctx, use)
		if err != nil {
			problems = append(problems, err)
		}
		if use == store.Verifier {
			c.verifier = a
		}
	}
	if _, err := CheckpointSigner(ctx, cfg.Keys); err != nil {
		problems = append(problems, err)
	}
	_, verifierErr := c.offlineOr(ctx, verifierRootKey, c.verifierRoot)
	_, bootstrapErr := c.offlineOr(ctx, bootstrapRootKey, c.bootstrapRoot.PublicKey)
	problems = append(problems, verifierErr, bootstrapErr) // errors.Join leaves out nil
	now := cfg.Now()
	problems = append(problems, c.bootstrapEnded(now))
	if c.verifier != nil {
		if _, err := c.storedDocument(ctx, now); err != nil && !c.has(ctx, verifierRootKey) {
			problems = append(problems, fault("verifier_root_missing", fmt.Errorf("no verifier-keys document can be served: %w", err),
				"put the verifier root's key back into the keys directory, start the server once, and take it offline again"))
		}
	}
	if _, err := c.readServer(filepath.Join(KeysPath(cfg.DataDir), serverFile), now); err != nil && !c.has(ctx, bootstrapRootKey) {
		problems = append(problems, fault("bootstrap_root_missing", fmt.Errorf("the server has no TLS certificate that is good now: %w", err),
			"put the bootstrap root's key back into the keys directory, start the server once, and take it offline again"))
	}
	return errors.Join(problems...)
}

// checkAuthority opens the authority of a use, or returns nil where the first
// start would make it.
func (c *CA) checkAuthority(ctx context.Context, use store.Use) (*authority, error) {
	all, err := c.authorities(ctx, use)
	if err != nil {
		return nil, err
	}
	if own := c.newest(all); own != nil {
		return own, c.live(own)
	}
	head, err := c.cfg.Store.Head(ctx, c.td.Name(), c.cfg.Chain)
	if err != nil {
		return nil, err
	}
	if head.Sequence > 0 {
		return nil, noAuthority(head.Sequence, use)
	}
	return nil, nil
}

func noAuthority(entries uint64, use store.Use) error {
	return fault("authority_missing", fmt.Errorf("the ledger has %d entries, and the database names no %s authority", entries, use),
		"restore the database from a backup")
}

// offlineOr is root, for which a key that is not there is no problem.
func (c *CA) offlineOr(ctx context.Context, name string, want crypto.PublicKey) (bool, error) {
	_, err := c.root(ctx, name, want)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (c *CA) has(ctx context.Context, name string) bool {
	_, err := c.cfg.Keys.Get(ctx, name)
	return err == nil
}
