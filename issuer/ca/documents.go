package ca

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// documentKind is the kind under which the store keeps a document that the
// verifier root signs.
type documentKind string

// The documents: which keys may sign attestation results, and which deny-lists.
// They have one form (docs/spec/verifier-keys.md) and different types.
const (
	verifierKeysKind documentKind = "verifier-keys"
	denyListKeysKind documentKind = "deny-list-keys"
)

func documentKinds() []documentKind { return []documentKind{verifierKeysKind, denyListKeysKind} }

func (k documentKind) use() store.Use {
	if k == denyListKeysKind {
		return store.DenyList
	}
	return store.Verifier
}

func (k documentKind) sign(keys *svid.VerifierKeys, root crypto.Signer) ([]byte, error) {
	if k == denyListKeysKind {
		return svid.SignDenyListKeys(keys, root)
	}
	return keys.Sign(root)
}

func (k documentKind) parse(doc []byte, root crypto.PublicKey, at time.Time) (*svid.VerifierKeys, error) {
	if k == denyListKeysKind {
		return svid.ParseDenyListKeys(doc, root, at)
	}
	return svid.ParseVerifierKeys(doc, root, at)
}

// document is a document with its content.
type document struct {
	signed []byte
	keys   *svid.VerifierKeys
	// ahead: by this server's clock it was issued in the future. One of the clocks is
	// wrong; it is shown all the same, because an older one lacks keys, and replaced
	// where the root's key is.
	ahead bool
	// seen is when this process met it, by this server's clock.
	seen time.Time
}

func (c *CA) documentOf(kind documentKind) *atomic.Pointer[document] {
	if kind == denyListKeysKind {
		return &c.denyListKeys
	}
	return &c.document
}

// inDocument says that the newest document names a verifier or deny-list key, and
// is good now.
func (c *CA) inDocument(a *authority) bool {
	kind := verifierKeysKind
	if a.row.Use == store.DenyList {
		kind = denyListKeysKind
	}
	d := c.documentOf(kind).Load()
	if d == nil || !c.cfg.Now().Before(d.keys.NextUpdate) {
		return false
	}
	return d.names(a)
}

func (d *document) names(a *authority) bool {
	return slices.ContainsFunc(d.keys.Keys, func(k svid.VerifierKey) bool { return k.Key.Equal(a.verifierPublic()) })
}

// loadDocuments shows the newest stored documents, where they are good now and no
// older than those that were shown.
func (c *CA) loadDocuments(ctx context.Context) error {
	for _, kind := range documentKinds() {
		d, err := c.storedDocument(ctx, kind, c.cfg.Now())
		if err != nil {
			if isStore(err) {
				return err
			}
			continue // renewDocument tells
		}
		c.show(kind, d)
	}
	return nil
}

// isStore says that the store failed, and not what it holds.
func isStore(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (c *CA) show(kind documentKind, d *document) {
	if old := c.documentOf(kind).Swap(d); old == nil || string(old.signed) != string(d.signed) {
		c.untold.Bundle = true
	}
}

// storedDocument returns the newest stored document, if it is good now and no
// older than the one that was shown.
func (c *CA) storedDocument(ctx context.Context, kind documentKind, now time.Time) (*document, error) {
	d, err := c.cfg.Store.LatestDocument(ctx, c.td.Name(), string(kind))
	if err != nil {
		return nil, err
	}
	if shown := c.documentOf(kind).Load(); shown != nil && shown.keys.Sequence == d.Sequence && bytes.Equal(shown.signed, d.Body) &&
		now.Before(shown.keys.NextUpdate) && !shown.keys.IssuedAt.After(now) {
		return shown, nil // as verified before
	}
	ahead := false
	keys, err := kind.parse(d.Body, c.verifierRoot, now)
	if strings.HasSuffix(attest.CheckOf(err), "_keys_future") {
		ahead = true // so it has not ended, whatever the row says of its time
		keys, err = kind.parse(d.Body, c.verifierRoot, d.CreatedAt)
	}
	if err != nil {
		return nil, err
	}
	if keys.TrustDomain != c.td {
		return nil, fmt.Errorf("the %s document is of %s", kind, keys.TrustDomain)
	}
	if keys.Sequence != d.Sequence {
		return nil, fmt.Errorf("the %s document stored as %d says that it is %d", kind, d.Sequence, keys.Sequence)
	}
	if shown := c.documentOf(kind).Load(); shown != nil && keys.Sequence < shown.keys.Sequence {
		return nil, fmt.Errorf("the newest stored %s document is %d, and %d was served", kind, keys.Sequence, shown.keys.Sequence)
	}
	return &document{d.Body, keys, ahead, c.cfg.Now()}, nil
}

// settling is how long a key that has ended stays in a document, because servers do
// not agree on whether it has: each goes by its own clock. Otherwise two servers
// whose clocks differ by a second would sign documents against each other for that
// second, without a pause.
const settling = 10 * time.Minute

// wanted are the keys that the document should name: of all servers, those that
// sign, will, and did, until the last of what they signed has ended.
func (s *snapshot) wanted(kind documentKind, now time.Time) (out []*authority) {
	for _, a := range s.all {
		if a.row.Use == kind.use() && !a.revoked() && !a.over(now) {
			out = append(out, a)
		}
	}
	return out
}

// differs says why a document is not the one that is wanted: "" if it is. A key
// that has ended, and is wanted for clocks that are behind, is not brought back; one that has only ended stays in it
// until its own time is over, or until this process has seen the document for a
// while. What an operator has withdrawn goes at once.
func (d *document) differs(s *snapshot, kind documentKind, now time.Time) string {
	wanted := s.wanted(kind, now)
	for _, a := range wanted {
		if !d.names(a) && now.Before(a.ends()) {
			return fmt.Sprintf("it does not name the key %s of the server %s", a.row.KeyName, a.row.Server)
		}
	}
	settled := now.Sub(d.seen) >= settling
	for _, k := range d.keys.Keys {
		of := func(a *authority) bool { return a.row.Use == kind.use() && k.Key.Equal(a.verifierPublic()) }
		if !now.Before(k.NotAfter) || slices.ContainsFunc(wanted, of) {
			continue
		}
		if n := slices.IndexFunc(s.all, of); settled || n >= 0 && s.all[n].withdrawn() {
			return "it names a key that is withdrawn, or has retired"
		}
	}
	return ""
}

// documentDue says why a new document is to be signed; "" if none is.
func (c *CA) documentDue(kind documentKind, s *snapshot, current *document, now time.Time) string {
	wanted := s.wanted(kind, now)
	switch {
	case len(wanted) == 0:
		return ""
	case current == nil:
		return "there is none that is good"
	case current.ahead:
		return "it was issued in the future, by this server's clock"
	}
	if differs := current.differs(s, kind, now); differs != "" {
		return differs
	}
	if !now.Before(middle(current.keys.IssuedAt, current.keys.NextUpdate)) {
		return "half of its time is over"
	}
	return ""
}

// renewDocument signs a new document when there is none, when half of its time is
// over, or when it does not name the keys that it should; where the verifier
// root's key is offline it goes on with the stored one as long as that is good.
// The checks:
//
//	verifier_root          the key in the ring is that of verifier-root.pem
//	verifier_root_missing  the document is missing or has ended, and the root's key is not there
//	(those of svid.ParseVerifierKeys over the stored document)
func (c *CA) renewDocument(ctx context.Context, kind documentKind, at stops, warn func(string, ...any)) (renewed bool, err error) {
	now := c.cfg.Now()
	last, err := c.cfg.Store.LatestDocument(ctx, c.td.Name(), string(kind))
	follows := last.Sequence
	if errors.Is(err, store.ErrNotFound) {
		follows, err = store.FollowsNone, nil
	}
	if err != nil {
		return false, err
	}
	current, problem := c.storedDocument(ctx, kind, now)
	if problem == nil {
		c.show(kind, current)
	}
	if c.documentDue(kind, c.now.Load(), current, now) == "" {
		return false, nil
	}
	// The newest document was read first, and now the rows: so every key is here
	// that this document names. Another server that signs one meanwhile makes this
	// attempt void.
	s, err := c.load(ctx)
	if err != nil {
		return false, err
	}
	c.changed(s)
	if s.fault != nil {
		return false, s.fault
	}
	why := c.documentDue(kind, s, current, now)
	if why == "" {
		return false, nil
	}
	wanted := s.wanted(kind, now)
	root, err := c.root(ctx, verifierRootKey, c.verifierRoot)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return false, c.withoutRoot(kind, s, current, problem, why, warn)
	}
	next := &svid.VerifierKeys{
		TrustDomain: c.td, Sequence: nextSequence(last.Sequence, now), IssuedAt: now.UTC().Truncate(time.Second),
		NextUpdate: now.UTC().Add(c.cfg.DocumentTTL).Truncate(time.Second),
	}
	if shown := c.documentOf(kind).Load(); shown != nil {
		next.Sequence = max(next.Sequence, nextSequence(shown.keys.Sequence, now))
	}
	for _, a := range wanted {
		next.Keys = append(next.Keys, svid.VerifierKey{Key: a.verifierPublic(), NotBefore: a.row.NotBefore, NotAfter: a.row.NotAfter})
	}
	signed, err := kind.sign(next, root)
	if err != nil {
		return false, err
	}
	keys, err := kind.parse(signed, c.verifierRoot, now)
	if err != nil {
		return false, err
	}
	if err := at(string(kind) + " signed"); err != nil {
		return false, err
	}
	// Stored before it is shown: what was shown is there at the next start.
	err = c.cfg.Store.PutDocument(ctx, store.Document{TrustDomain: c.td.Name(), Kind: string(kind), Sequence: next.Sequence, Body: signed, CreatedAt: now, Follows: follows})
	if errors.Is(err, store.ErrConflict) {
		return false, c.loadDocuments(ctx) // another server was first: the next round sees what is still to do
	}
	if err != nil {
		return false, err
	}
	c.show(kind, &document{signed, keys, false, now})
	c.log.Info("ca: signed a document", slog.String("kind", string(kind)), slog.Uint64("sequence", next.Sequence), slog.Time("next_update", next.NextUpdate), slog.Int("keys", len(next.Keys)))
	return true, at(string(kind) + " stored")
}

// withoutRoot says what becomes of a document that cannot be renewed now.
func (c *CA) withoutRoot(kind documentKind, s *snapshot, current *document, problem error, why string, warn func(string, ...any)) error {
	const hint = "put the verifier root's key back into the keys directory, start the server once, and take it offline again"
	switch {
	case problem == nil:
		warn("the %s document ends at %s, and the verifier root's key is not there to renew it: %s", kind, current.keys.NextUpdate.Format(time.RFC3339), why)
		return nil
	case kind == denyListKeysKind:
		warn("there is no deny-list: the verifier root's key is not there to sign the %s document", kind)
		return nil
	case s.pick(store.Verifier, c.cfg.Chain, c.cfg.Now()) == nil && errors.Is(problem, store.ErrNotFound):
		warn("the verifier root's key is not there to sign the first %s document", kind) // Ready says that nothing is issued
		return nil
	}
	return fault("verifier_root_missing", fmt.Errorf("no %s document can be served: %w", kind, problem), hint)
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

// VerifierKeysDocument is the signed document of verifier keys
// (docs/spec/verifier-keys.md); nil before there is one.
func (c *CA) VerifierKeysDocument() []byte {
	if d := c.document.Load(); d != nil {
		return d.signed
	}
	return nil
}

// VerifierKeys is its content.
func (c *CA) VerifierKeys() *svid.VerifierKeys {
	d := c.document.Load()
	if d == nil {
		return &svid.VerifierKeys{TrustDomain: c.td}
	}
	k := *d.keys
	return &k
}

// DenyListSigner is the key that signs deny-lists now, and the document that
// names it. An error, of kind Unavailable, says why there is none.
func (c *CA) DenyListSigner() (crypto.Signer, []byte, error) {
	s, now := c.now.Load(), c.cfg.Now()
	a := c.signer(s, store.DenyList, now)
	if a == nil {
		return nil, nil, c.notReady(s, store.DenyList, now)
	}
	d := c.denyListKeys.Load()
	if d == nil || !d.names(a) {
		return nil, nil, c.notReady(s, store.DenyList, now)
	}
	// A key retires after the longest life of a list: nothing is to be counted.
	return a.signer, d.signed, nil
}
