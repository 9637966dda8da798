package ledger

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/assay-project/assay/issuer/store"
)

// Each server's checkpoints name the newest checkpoint that it has seen of every
// other chain. So who cuts or rewrites one chain has to do so with all that have
// seen it, and with what these have handed to their agents and sinks; and a server
// that is alive notices at its next checkpoint. A chain in which nothing is written
// makes no checkpoints, and so says nothing.

// PeerKeys are the checkpoint keys of the trust domain's servers, by their names:
// those that the bootstrap root has endorsed.
type PeerKeys func() map[string]ed25519.PublicKey

// FollowPeers has checkpoints name those of the other servers. It is called before
// Run. Without it, or for a chain whose key is not known, nothing is named.
func (l *Ledger) FollowPeers(keys PeerKeys) { l.peerKeys = keys }

// lookAtPeers brings l.peers up to date. What cannot be read stays as it was seen
// last. Only the writer calls it.
func (l *Ledger) lookAtPeers(ctx context.Context) []Peer {
	if l.peerKeys == nil {
		return l.peers
	}
	names, err := l.Chains(ctx)
	if err != nil {
		l.log.Warn("ledger: the other servers' chains cannot be looked at", slog.Any("error", err))
		return l.peers
	}
	for _, p := range l.peers {
		if !slices.Contains(names, p.Chain) {
			l.peerFault(p.Chain, errors.New("it is gone"))
		}
	}
	keys := l.peerKeys()
	for _, name := range names {
		key, ok := keys[ChainOwner(name)]
		if name == l.chain || !ok || !validChain(name) {
			continue
		}
		i, known := slices.BinarySearchFunc(l.peers, name, func(p Peer, name string) int { return strings.Compare(p.Chain, name) })
		var seen *Peer
		if known {
			seen = &l.peers[i]
		}
		now, err := l.lookAtPeer(ctx, name, key, seen)
		switch {
		case errors.Is(err, store.ErrNotFound) || err == nil && now == nil:
		case err != nil:
			l.peerFault(name, err)
		case known:
			l.peers[i] = *now
		case len(l.peers) < maxPeers:
			l.peers = slices.Insert(l.peers, i, *now)
		}
	}
	return slices.Clone(l.peers)
}

// lookAtPeer reads the newest checkpoint of another chain, and that the chain still
// holds what was seen of it. It returns nil where there is nothing new.
func (l *Ledger) lookAtPeer(ctx context.Context, name string, key ed25519.PublicKey, seen *Peer) (*Peer, error) {
	k, err := NewVerifierKey(ChainName(l.trustDomain, name), key)
	if err != nil {
		return nil, err
	}
	if seen != nil && seen.Size > 0 {
		e, err := l.st.Entry(ctx, l.trustDomain, name, seen.Size)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil, fmt.Errorf("it had %d entries, and no longer has", seen.Size)
		case err != nil:
			return nil, nil //nolint:nilerr // it cannot be told now
		case e.Hash != seen.Head:
			return nil, fmt.Errorf("entry %d has another hash than it had", seen.Size)
		}
	}
	last, err := l.st.LastCheckpoint(ctx, l.trustDomain, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, err
	case err != nil:
		return nil, nil //nolint:nilerr // it cannot be told now
	}
	cp, err := openCheckpoint(l.trustDomain, name, last.Note, k)
	if err != nil {
		return nil, err
	}
	if seen != nil && cp.Size <= seen.Size {
		return nil, nil // the checkpoint that was seen may have been another's copy of it
	}
	// What the note says of the chain's end is checked by who verifies the chain.
	return &Peer{Chain: name, Size: cp.Size, Head: cp.Head}, nil
}

func (l *Ledger) peerFault(name string, err error) {
	l.counters.peerFaults.Add(1)
	l.log.Error("ledger: another server's chain was cut or written anew; run 'assay ledger verify', and keep a copy of the database", slog.String("chain", name), slog.Any("error", err))
}
