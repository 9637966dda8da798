package keys

import (
	"context"
	"crypto"
)

// Ring is a place that holds private keys under names. Names are those that
// [CheckName] accepts. A Ring is safe for concurrent use.
type Ring interface {
	// Get returns the key of that name. The error satisfies
	// errors.Is(err, fs.ErrNotExist) when there is none.
	Get(ctx context.Context, name string) (crypto.Signer, error)
	// Create makes a key and returns once it is durable. It never replaces one:
	// the error then satisfies errors.Is(err, fs.ErrExist).
	Create(ctx context.Context, name string, alg Algorithm) (crypto.Signer, error)
	// Names lists the keys, sorted.
	Names(ctx context.Context) ([]string, error)
}
