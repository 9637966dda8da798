package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Chain is one chain of a trust domain, to be verified.
type Chain struct {
	Name        string
	Entries     iter.Seq2[Item, error]
	Checkpoints [][]byte    // notes, from the store
	Key         VerifierKey // zero: none is known, and no checkpoint of it can be believed
}

// VerifyLedger checks all chains of a trust domain as [VerifyChain] does, and that
// what their checkpoints say of one another holds. elsewhere are checkpoints of any
// of them, that were kept outside. Beside the checks of VerifyChain:
//
//	peer_truncation  a chain is at least as long as another one's checkpoint says
//	peer_mismatch    its entry at that size has the hash that it says
//	chain_missing    a checkpoint is of a chain, or names one, that is not there
//
// The reports are in the order of the chains.
func VerifyLedger(trustDomain string, chains []Chain, elsewhere [][]byte) ([]Report, error) {
	at := map[string]int{}
	notes := make([][][]byte, len(chains))
	for i, c := range chains {
		if _, twice := at[c.Name]; twice {
			return nil, fmt.Errorf("ledger: chain %s comes twice", c.Name)
		}
		at[c.Name], notes[i] = i, slices.Clone(c.Checkpoints)
	}
	for n, note := range elsewhere {
		origin, _, _ := strings.Cut(string(note), "\n")
		i, ok := at[strings.TrimPrefix(origin, ChainName(trustDomain, ""))]
		switch {
		case ok && strings.HasPrefix(origin, ChainName(trustDomain, "")):
			notes[i] = append(notes[i], note)
		case len(chains) == 1: // it says what is wrong with the note, not only that it is of another
			notes[0] = append(notes[0], note)
		default:
			return nil, missing(fmt.Errorf("checkpoint %d from elsewhere is of %.200q, which is not there", n+1, origin))
		}
	}
	own, others := make([][]Checkpoint, len(chains)), make([][]mark, len(chains))
	for i, c := range chains {
		var err error
		if own[i], err = openCheckpoints(trustDomain, c.Name, notes[i], c.Key); err != nil {
			return nil, err
		}
		for _, cp := range own[i] {
			for _, p := range cp.Peers {
				j, ok := at[p.Chain]
				if !ok {
					return nil, missing(fmt.Errorf("chain %s saw %d entries of chain %s at %s, and there is no such chain", c.Name, p.Size, p.Chain, stampOf(cp.Time)))
				}
				said := Checkpoint{TrustDomain: trustDomain, Chain: p.Chain, Size: p.Size, Head: p.Head, Time: cp.Time}
				others[j] = append(others[j], mark{Checkpoint: said, by: c.Name})
			}
		}
	}
	reports := make([]Report, len(chains))
	for i, c := range chains {
		var err error
		if reports[i], err = verifyChain(trustDomain, c.Name, c.Entries, marks(own[i], others[i])); err != nil {
			if len(chains) > 1 {
				err = fmt.Errorf("chain %s: %w", c.Name, err)
			}
			return nil, err
		}
	}
	return reports, nil
}

func missing(err error) error { return untrusted("chain_missing", err) }

// Verify checks this chain, its look-up columns, the stored checkpoints, and those
// from elsewhere: a sink, a witness, the agents. [Reader.VerifyAll] checks all.
func (r *Reader) Verify(ctx context.Context, key VerifierKey, elsewhere [][]byte) (Report, error) {
	stored, err := r.Checkpoints(ctx)
	if err != nil {
		return Report{}, err
	}
	report, err := VerifyChain(r.trustDomain, r.chain, r.Entries(ctx, 0), append(stored, elsewhere...), key)
	if err != nil {
		return Report{}, err
	}
	if err := r.noStrays(ctx); err != nil {
		return Report{}, err
	}
	return report, nil
}

// VerifyAll checks every chain of the trust domain; keys are by the name of the
// server that writes a chain. One whose key is not among them is an error when it
// has checkpoints.
func (r *Reader) VerifyAll(ctx context.Context, keys map[string]VerifierKey, elsewhere [][]byte) ([]Report, error) {
	chains, err := r.chains(ctx, keys)
	if err != nil {
		return nil, err
	}
	reports, err := VerifyLedger(r.trustDomain, chains, elsewhere)
	if err != nil {
		return nil, err
	}
	return reports, r.noStrays(ctx)
}

// chains reads what there is of every chain but its entries. A chain that begins
// meanwhile may be named by a checkpoint that was read: then all is read again.
func (r *Reader) chains(ctx context.Context, keys map[string]VerifierKey) ([]Chain, error) {
	names, err := r.Chains(ctx)
	for range 10 {
		if err != nil {
			return nil, err
		}
		chains, err := r.chainsNamed(ctx, names, keys)
		if err != nil {
			return nil, err
		}
		again, err := r.Chains(ctx)
		if err != nil {
			return nil, err
		}
		if len(again) == len(names) {
			return chains, nil
		}
		names = again
	}
	return nil, unavailable(errors.New("chains begin as fast as they are read"))
}

func (r *Reader) chainsNamed(ctx context.Context, names []string, keys map[string]VerifierKey) (chains []Chain, err error) {
	for _, name := range names {
		in := r.In(name)
		notes, err := in.Checkpoints(ctx)
		if err != nil {
			return nil, err
		}
		c := Chain{Name: name, Entries: in.Entries(ctx, 0), Checkpoints: notes}
		if k, ok := keys[ChainOwner(name)]; ok {
			if c.Key, err = k.For(ChainName(r.trustDomain, name)); err != nil {
				return nil, err
			}
		}
		chains = append(chains, c)
	}
	return chains, nil
}

// noStrays is nil where every look-up row belongs to an entry.
func (r *Reader) noStrays(ctx context.Context) error {
	stray, err := r.st.StrayIdentities(ctx, r.trustDomain)
	switch {
	case err != nil:
		return unavailable(err)
	case stray > 0:
		return untrusted("chain_index", fmt.Errorf("the look-up columns name %d identities that belong to no entry", stray))
	}
	return nil
}
