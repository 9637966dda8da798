package store

import "context"

// RestoredStore is for a database that was restored and is older than what the
// world has seen of it.
type RestoredStore interface {
	// RaiseBundleSequence makes the trust domain's bundle sequence that number
	// where it is lower: what was published after the backup was made had numbers
	// that must not come again with other content. ErrNotFound.
	RaiseBundleSequence(ctx context.Context, trustDomain string, atLeast uint64) error
}

var _ RestoredStore = (*SQLite)(nil)
