package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// Check looks at what Open would load, and changes nothing: for `assayd check`,
// also while a server runs (open the store read-only). It returns every problem
// that it finds, joined. What the first start would make may be missing.
func Check(ctx context.Context, cfg Config) error {
	c, err := prepare(ctx, cfg)
	if err != nil {
		return err
	}
	c.reading = true
	var problems []error
	now := cfg.Now()
	s, err := c.load(ctx)
	if err != nil {
		problems = append(problems, err)
	} else {
		c.now.Store(s)
		problems = append(problems, s.fault)
		for _, use := range []store.Use{store.X509, store.Verifier} {
			problems = append(problems, c.checkUse(ctx, s, use, now)) // errors.Join leaves out nil
		}
	}
	_, verifierErr := c.offlineOr(ctx, verifierRootKey, c.verifierRoot)
	_, bootstrapErr := c.offlineOr(ctx, bootstrapRootKey, c.bootstrapRoot.PublicKey)
	problems = append(problems, verifierErr, bootstrapErr)
	problems = append(problems, c.bootstrapEnded(now))
	if s != nil && len(s.wanted(verifierKeysKind, now)) > 0 {
		if _, err := c.storedDocument(ctx, verifierKeysKind, now); err != nil && !c.has(ctx, verifierRootKey) {
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

// checkUse: there is an authority of the use that signs or will, or the first
// start would make it.
func (c *CA) checkUse(ctx context.Context, s *snapshot, use store.Use, now time.Time) error {
	if s.pick(use, c.cfg.Chain, now) != nil {
		return nil
	}
	own := false
	for _, a := range s.all {
		if a.row.Use != use || a.row.Server != c.cfg.Chain {
			continue
		}
		if c.pending(a, now) {
			return nil
		}
		own = true
	}
	if own {
		return c.notReady(s, use, now)
	}
	head, err := c.cfg.Store.Head(ctx, c.td.Name(), c.cfg.Chain)
	if err != nil {
		return err
	}
	if head.Sequence > 0 {
		return noAuthority(head.Sequence, use)
	}
	return nil
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
