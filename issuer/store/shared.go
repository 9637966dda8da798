package store

import (
	"context"
	"errors"
)

// Errors of a database that is elsewhere, and that several servers write.
var (
	// ErrUnavailable: the database could not be reached, or went away. A write
	// that ends so may have been written all the same: read before writing again.
	ErrUnavailable = errors.New("store: the database is not available")
	// ErrDuplicate: a serial, key or reference of a batch is on record already, in
	// this chain or another one. Nothing was written.
	ErrDuplicate = errors.New("store: on record already")
)

// Watcher is implemented by stores that several servers write: it tells each
// what the others changed, so that what a server remembers can be dropped.
type Watcher interface {
	// Watch calls on, from one goroutine, for every change until ctx ends, and
	// then returns nil. It begins with one Event for everything that ever changed,
	// and TopicHeard. What changed while the database could not be reached comes
	// when it can be reached again, before the next TopicHeard; TopicLost comes at
	// once. Changes of one's own come too.
	Watch(ctx context.Context, on func(Event)) error
}

// Event says that something was changed. What it is now must be read.
type Event struct {
	TrustDomain string
	Topic       Topic
	Key         string // of the one row that changed; empty: any of the topic
}

// Topic is what an Event is about.
type Topic string

// The topics. A change of the ledger makes no event: each server has its own
// chain, and appends must not wait for one another.
const (
	TopicTrustDomains Topic = "trust_domains" // key: the name
	TopicAuthorities  Topic = "authorities"   // key: use/ID
	TopicDocuments    Topic = "documents"     // key: the kind
	TopicPolicies     Topic = "policies"      // key: the name; also what was refused
	TopicInventory    Topic = "tpm_inventory"
	TopicBindings     Topic = "tpm_bindings" // key: the EK in hex
	TopicMembers      Topic = "members"      // key: the server's name
	TopicBans         Topic = "bans"
	TopicFederations  Topic = "federations" // key: the foreign trust domain
	// TopicLost: the database cannot be reached, and changes are not heard of. Who
	// must not be late asks the store until TopicHeard.
	TopicLost Topic = "lost"
	// TopicHeard: from now on changes are heard of, and those before were reported.
	TopicHeard Topic = "heard"
)

// Check refuses a change that would not come back as it went in. Every
// implementation makes it before it writes.
func (c PolicyChange) Check() error { return c.storable() }
