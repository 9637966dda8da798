package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// documentKind is the kind under which the store keeps the verifier-keys
// document.
const documentKind = "verifier-keys"

// document is a verifier-keys document with its content.
type document struct {
	signed []byte
	keys   *svid.VerifierKeys
}

// renewDocument signs a new verifier-keys document when there is none, when half
// of its time is over, or when it does not name the current key; where the
// verifier root's key is offline it goes on with the stored one as long as that
// is good. The checks:
//
//	verifier_root          the key in the ring is that of verifier-root.pem
//	verifier_root_missing  the document is missing, ended or outdated, and the root's key is not there
//	(those of svid.ParseVerifierKeys over the stored document)
func (c *CA) renewDocument(ctx context.Context, at stops, warn func(string, ...any)) error {
	now := c.cfg.Now()
	current, problem := c.storedDocument(ctx, now)
	if problem == nil {
		c.document.Store(current)
		if now.Before(middle(current.keys.IssuedAt, current.keys.NextUpdate)) {
			return nil
		}
	}
	root, err := c.root(ctx, verifierRootKey, c.verifierRoot)
	if err != nil {
		if problem == nil && errors.Is(err, fs.ErrNotExist) {
			warn("the verifier-keys document ends at %s, and the verifier root's key is not there to renew it", current.keys.NextUpdate.Format(time.RFC3339))
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fault("verifier_root_missing", fmt.Errorf("no verifier-keys document can be served: %w", errors.Join(problem, err)),
				"put the verifier root's key back into the keys directory, start the server once, and take it offline again")
		}
		return err
	}
	last, err := c.cfg.Store.LatestDocument(ctx, c.td.Name(), documentKind)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if shown := c.document.Load(); shown != nil {
		last.Sequence = max(last.Sequence, shown.keys.Sequence)
	}
	next := &svid.VerifierKeys{
		TrustDomain: c.td, Sequence: nextSequence(last.Sequence, now), IssuedAt: now.UTC().Truncate(time.Second),
		NextUpdate: now.UTC().Add(c.cfg.DocumentTTL).Truncate(time.Second),
	}
	all, err := c.authorities(ctx, store.Verifier)
	if err != nil {
		return err
	}
	for _, a := range all {
		if now.Before(a.row.NotAfter) {
			next.Keys = append(next.Keys, svid.VerifierKey{Key: a.verifierPublic(), NotBefore: a.row.NotBefore, NotAfter: a.row.NotAfter})
		}
	}
	signed, err := next.Sign(root)
	if err != nil {
		return err
	}
	keys, err := svid.ParseVerifierKeys(signed, c.verifierRoot, now)
	if err != nil {
		return err
	}
	if err := at("document signed"); err != nil {
		return err
	}
	// Stored before it is shown: what was shown is there at the next start.
	if err := c.cfg.Store.PutDocument(ctx, store.Document{TrustDomain: c.td.Name(), Kind: documentKind, Sequence: next.Sequence, Body: signed, CreatedAt: now}); err != nil {
		return err
	}
	c.document.Store(&document{signed, keys})
	c.log.Info("ca: signed a verifier-keys document", slog.Uint64("sequence", next.Sequence), slog.Time("next_update", next.NextUpdate))
	return at("document stored")
}

// storedDocument returns the newest stored document, if it is good now and
// names the current verifier key.
func (c *CA) storedDocument(ctx context.Context, now time.Time) (*document, error) {
	d, err := c.cfg.Store.LatestDocument(ctx, c.td.Name(), documentKind)
	if err != nil {
		return nil, err
	}
	keys, err := svid.ParseVerifierKeys(d.Body, c.verifierRoot, now)
	if err != nil {
		return nil, err
	}
	if keys.Sequence != d.Sequence {
		return nil, fmt.Errorf("the verifier-keys document stored as %d says that it is %d", d.Sequence, keys.Sequence)
	}
	if shown := c.document.Load(); shown != nil && keys.Sequence < shown.keys.Sequence {
		return nil, fmt.Errorf("the newest stored verifier-keys document is %d, and %d was served", keys.Sequence, shown.keys.Sequence)
	}
	for _, k := range keys.Keys {
		if k.Key.Equal(c.verifier.verifierPublic()) {
			return &document{d.Body, keys}, nil
		}
	}
	return nil, errors.New("the stored verifier-keys document does not name the current key")
}

// nextSequence is greater than that of the last stored document, and at least
// the time in seconds: whoever deletes documents from the database cannot make
// the root sign a number for a second time, unless the clock goes back as well.
func nextSequence(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.Unix(), 0)))
}

// root loads the key of a root and compares it with its public file.
func (c *CA) root(ctx context.Context, name string, want crypto.PublicKey) (crypto.Signer, error) {
	key, err := c.cfg.Keys.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if !samePublic(want, key.Public()) {
		return nil, fault(name, fmt.Errorf("the key %s is not that of its public file, which others pin", name), "restore the key, or the file, from a backup")
	}
	return key, nil
}

// middle is the half of a validity: when to renew.
func middle(from, to time.Time) time.Time { return from.Add(to.Sub(from) / 2) }
