// Package store holds the places that keep private keys: a token of an HSM, AWS
// KMS, Google Cloud KMS and Azure Key Vault through go.step.sm/crypto, and the
// transit engine of Vault over its HTTP API. The rest of the signer sees a
// [Set] of [Key]s.
//
//	set, err := store.Open(ctx, cfg, store.Options{Log: log})
//	sig, err := set.Key("x509-1").Sign(ctx, request)
//
// Three promises:
//
//   - A private key never enters this process. Where a store can tell whether it
//     made a key itself and whether it could give it away, it is asked.
//   - A PIN that was refused is not tried again (see pkcs11.go): tokens lock.
//   - A public key does not change while the process runs. A store that answers
//     with another one after a reconnect is refused.
package store

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
)

// backend is one place that keeps keys. Errors are [attest.Error]; a key that is
// not there satisfies errors.Is(err, fs.ErrNotExist), one that is there already
// fs.ErrExist.
type backend interface {
	// key returns the key that the store calls ref. Its Sign may block.
	key(ctx context.Context, ref string) (crypto.Signer, error)
	// create makes a key and returns what the store calls it. It replaces none.
	create(ctx context.Context, name string, alg Algorithm) (ref string, pub crypto.PublicKey, err error)
	close() error
}

// Options are what Open needs besides the configuration.
type Options struct {
	Log *slog.Logger
	// TryPIN tries a PIN although the token says that a wrong one was tried
	// before: an operator's command does, a service that is started again and
	// again does not.
	TryPIN bool
}

// Set is every configured key, open.
type Set struct {
	keys   map[string]*Key
	stores map[string]*place
}

// place is an open store, and how many signatures it may make at once.
type place struct {
	name string
	backend
	slots chan struct{}
}

// cloudSlots is how many requests are under way at a cloud's service at once.
const cloudSlots = 16

// Open opens the stores that the configuration names, and its keys in them. It
// fails if any cannot be had: a signer with half its keys would be found out
// only when the other half is needed.
func Open(ctx context.Context, c *config.Config, o Options) (_ *Set, err error) {
	s := &Set{keys: map[string]*Key{}, stores: map[string]*place{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	used := map[string]bool{}
	for _, k := range c.Keys {
		used[k.Store] = true
	}
	var modules modules
	for _, name := range slices.Sorted(maps.Keys(c.Stores)) {
		if !used[name] {
			continue
		}
		if s.stores[name], err = open(ctx, name, c.Stores[name], &modules, o); err != nil {
			delete(s.stores, name)
			return nil, err
		}
	}
	for _, k := range c.Keys {
		if s.keys[k.Name], err = openKey(ctx, k, s.stores[k.Store]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Create makes a key in a store of the configuration, for `keys create`.
func Create(ctx context.Context, c *config.Config, store, name string, alg Algorithm, o Options) (ref string, pub crypto.PublicKey, err error) {
	p, err := open(ctx, store, c.Stores[store], new(modules), o)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	return p.create(ctx, name, alg)
}

func open(ctx context.Context, name string, c config.Store, m *modules, o Options) (*place, error) {
	var b backend
	var err error
	slots := cloudSlots
	switch {
	case c.PKCS11 != nil:
		slots = c.PKCS11.Sessions
		b, err = openToken(ctx, *c.PKCS11, m, o)
	case c.AWSKMS != nil:
		b, err = openAWS(ctx, *c.AWSKMS)
	case c.Vault != nil:
		b, err = openVault(*c.Vault)
	case c.CloudKMS != nil:
		b, err = openCloudKMS(ctx, *c.CloudKMS)
	case c.AzureKMS != nil:
		b, err = openAzure(ctx, *c.AzureKMS)
	default:
		err = fmt.Errorf("it is of no kind")
	}
	if err != nil {
		return nil, in(err, "store %s", name)
	}
	return &place{name: name, backend: b, slots: make(chan struct{}, slots)}, nil
}

// Key returns a key by its name, or nil.
func (s *Set) Key(name string) *Key { return s.keys[name] }

// Keys lists the keys, sorted by name.
func (s *Set) Keys() []*Key {
	return slices.SortedFunc(maps.Values(s.keys), func(a, b *Key) int { return cmp.Compare(a.Name, b.Name) })
}

// Close closes the stores.
func (s *Set) Close() error {
	var errs []error
	for _, p := range s.stores {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// in says where an error happened and keeps its kind, check and hint.
func in(err error, format string, a ...any) error {
	where := fmt.Sprintf(format, a...)
	var e *attest.Error
	if !errors.As(err, &e) {
		return &attest.Error{Kind: attest.Internal, Check: "store", Err: fmt.Errorf("%s: %w", where, err)}
	}
	told := *e
	told.Err = fmt.Errorf("%s: %w", where, e.Err)
	return &told
}

func fault(kind attest.Kind, check, hint string, err error) error {
	return &attest.Error{Kind: kind, Check: check, Err: err, Hint: hint}
}
