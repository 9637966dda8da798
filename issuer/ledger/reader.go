package ledger

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Reader reads one chain, and the denials beside it, from a store: that of a
// running server, or a file that its owner opened read-only.
type Reader struct {
	st          store.Store
	trustDomain string
	chain       string
}

// NewReader reads the chain of that name; "" is the only server's.
func NewReader(st store.Store, trustDomain, chain string) *Reader {
	def(&chain, MainChain)
	return &Reader{st: st, trustDomain: trustDomain, chain: chain}
}

// Item is one record as it is stored.
type Item struct {
	// Sequence is the position in the chain, from 1. Denials are not chained:
	// theirs is the position among the denials.
	Sequence uint64          `json:"sequence"`
	Previous attest.Bytes    `json:"previous_hash,omitempty"` // 32 bytes; nil for a denial
	Hash     attest.Bytes    `json:"hash,omitempty"`          // 32 bytes; nil for a denial
	Payload  json.RawMessage `json:"payload"`                 // the bytes that are hashed
	Entry    Entry           `json:"-"`                       // Payload, decoded

	index *store.Entry // the look-up columns, where the item comes from a store
}

// Filter selects records. Zero fields select everything.
type Filter struct {
	Outcome  string // "", Granted or Denied
	SPIFFEID string
	Instance string
	After    uint64    // sequence greater than
	Before   time.Time // older than
	Oldest   bool      // oldest first; otherwise newest first
	Limit    int       // 0 = 50, at most 1000
}

// List returns the records that match, issuances and denials merged by time.
func (r *Reader) List(ctx context.Context, f Filter) ([]Item, error) {
	def(&f.Limit, 50)
	f.Limit = min(max(f.Limit, 1), 1000)
	find := store.Find{SPIFFEID: f.SPIFFEID, Instance: f.Instance, After: f.After, Before: f.Before, Oldest: f.Oldest, Limit: f.Limit}
	var out []Item
	switch f.Outcome {
	case "", Granted, Denied:
	default:
		return nil, fmt.Errorf("ledger: outcome %.40q, want %q or %q", f.Outcome, Granted, Denied)
	}
	if f.Outcome != Denied {
		entries, err := r.st.FindEntries(ctx, r.trustDomain, r.chain, find)
		if err != nil {
			return nil, unavailable(err)
		}
		for _, e := range entries {
			item, err := r.item(ctx, e)
			if err != nil {
				return nil, err
			}
			out = append(out, item)
		}
	}
	if f.Outcome != Granted {
		denials, err := r.st.FindDenials(ctx, r.trustDomain, find)
		if err != nil {
			return nil, unavailable(err)
		}
		for _, d := range denials {
			item, err := denialItem(d)
			if err != nil {
				return nil, err
			}
			out = append(out, item)
		}
	}
	slices.SortStableFunc(out, func(a, b Item) int {
		c := a.Entry.Time.Compare(b.Entry.Time)
		if !f.Oldest {
			c = -c
		}
		return c
	})
	return out[:min(len(out), f.Limit)], nil
}

// Get finds one record by its reference ("as-…"), or an issuance by its
// sequence number ("17"). The error satisfies errors.Is(err, store.ErrNotFound)
// when there is none.
func (r *Reader) Get(ctx context.Context, key string) (Item, error) {
	if seq, err := strconv.ParseUint(key, 10, 63); err == nil {
		e, err := r.st.Entry(ctx, r.trustDomain, r.chain, seq)
		if err != nil {
			return Item{}, fmt.Errorf("ledger: entry %d: %w", seq, err)
		}
		return r.item(ctx, e)
	}
	if !isReference(key) { // an empty one would match everything
		return Item{}, fmt.Errorf("ledger: %.40q is no reference and no sequence number: %w", key, store.ErrNotFound)
	}
	find := store.Find{Reference: key, Limit: 1}
	entries, err := r.st.FindEntries(ctx, r.trustDomain, r.chain, find)
	if err != nil {
		return Item{}, unavailable(err)
	}
	if len(entries) > 0 {
		return r.item(ctx, entries[0])
	}
	denials, err := r.st.FindDenials(ctx, r.trustDomain, find)
	if err != nil {
		return Item{}, unavailable(err)
	}
	if len(denials) > 0 {
		return denialItem(denials[0])
	}
	return Item{}, fmt.Errorf("ledger: reference %.40q: %w", key, store.ErrNotFound)
}

// item makes an Item of a row, and reads the row before for its hash. What is shown is what was hashed: a payload that was
// altered is an error here too, not only in a verification of the whole chain.
func (r *Reader) item(ctx context.Context, e store.Entry) (Item, error) {
	entry, err := ParseEntry(e.Payload)
	if err != nil {
		return Item{}, damaged(e.Sequence, err)
	}
	var previous [32]byte
	if e.Sequence > 1 {
		p, err := r.st.Entry(ctx, r.trustDomain, r.chain, e.Sequence-1)
		if err != nil {
			return Item{}, damaged(e.Sequence, fmt.Errorf("the entry before it: %w", err))
		}
		previous = p.Hash
	}
	if hash := entryHash(r.trustDomain, r.chain, e.Sequence, previous, e.Payload); hash != e.Hash {
		err := damaged(e.Sequence, errors.New("its payload or hash was altered"))
		err.Check, err.Expected, err.Got = "chain_hash", hex.EncodeToString(hash[:]), hex.EncodeToString(e.Hash[:])
		return Item{}, err
	}
	return Item{Sequence: e.Sequence, Previous: previous[:], Hash: slices.Clone(e.Hash[:]), Payload: e.Payload, Entry: entry}, nil
}

func denialItem(d store.Denial) (Item, error) {
	entry, err := ParseEntry(d.Payload)
	if err != nil {
		return Item{}, damaged(d.ID, err)
	}
	return Item{Sequence: d.ID, Payload: d.Payload, Entry: entry}, nil
}

// damaged is a row that cannot be what was written.
func damaged(sequence uint64, err error) *attest.Error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: "chain_payload", Err: fmt.Errorf("entry %d: %w", sequence, err),
		Hint: "the database was changed: 'assay ledger verify' finds where, a backup holds what was there",
	}
}

// Entries yields the chain after a sequence number, in order, for export and
// verification. Payloads that are damaged are yielded with a zero Entry: the
// verification reports them.
func (r *Reader) Entries(ctx context.Context, after uint64) iter.Seq2[Item, error] {
	const page = 256
	return func(yield func(Item, error) bool) {
		previous := make([]byte, 32)
		if after > 0 {
			e, err := r.st.Entry(ctx, r.trustDomain, r.chain, after)
			if err != nil {
				yield(Item{}, fmt.Errorf("ledger: entry %d: %w", after, err))
				return
			}
			copy(previous, e.Hash[:])
		}
		for {
			entries, err := r.st.Entries(ctx, r.trustDomain, r.chain, after, page)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for i := range entries {
				e := &entries[i]
				if e.Identities, err = r.st.EntryIdentities(ctx, r.trustDomain, r.chain, e.Sequence); err != nil {
					yield(Item{}, err)
					return
				}
				entry, _ := ParseEntry(e.Payload) // a zero Entry fails the verification, which names the reason
				item := Item{Sequence: e.Sequence, Previous: slices.Clone(previous), Hash: slices.Clone(e.Hash[:]), Payload: e.Payload, Entry: entry, index: e}
				if !yield(item, nil) {
					return
				}
				copy(previous, e.Hash[:])
				after = e.Sequence
			}
			if len(entries) < page {
				return
			}
		}
	}
}

// HasSerial reports whether an issuance of this trust domain named the serial
// (lower-case hex): nothing else was ever signed.
func (r *Reader) HasSerial(ctx context.Context, serial string) (bool, error) {
	ok, err := r.st.HasSerial(ctx, r.trustDomain, serial)
	if err != nil {
		return false, unavailable(err)
	}
	return ok, nil
}

// Evidence returns what an attester sent, while it is kept. The error satisfies
// errors.Is(err, store.ErrNotFound) when it never was, or no longer is.
func (r *Reader) Evidence(ctx context.Context, digest [32]byte) (store.Evidence, error) {
	return r.st.Evidence(ctx, r.trustDomain, digest)
}

// Certificate returns an SVID as issued, by its serial (lower-case hex), while
// it is kept; best effort. Errors as of Evidence.
func (r *Reader) Certificate(ctx context.Context, serial string) ([]byte, error) {
	c, err := r.st.Certificate(ctx, r.trustDomain, serial)
	if err != nil {
		return nil, err
	}
	return c.DER, nil
}

// Checkpoints returns the stored checkpoints, oldest first. Their signatures
// are not checked.
func (r *Reader) Checkpoints(ctx context.Context) ([][]byte, error) {
	cps, err := r.st.Checkpoints(ctx, r.trustDomain, r.chain)
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([][]byte, len(cps))
	for i, c := range cps {
		out[i] = c.Note
	}
	return out, nil
}

// Verify checks the whole chain, its look-up columns, the stored checkpoints,
// and those from elsewhere: a sink, a witness, the agents.
func (r *Reader) Verify(ctx context.Context, key VerifierKey, elsewhere [][]byte) (Report, error) {
	stored, err := r.Checkpoints(ctx)
	if err != nil {
		return Report{}, err
	}
	report, err := VerifyChain(r.trustDomain, r.chain, r.Entries(ctx, 0), append(stored, elsewhere...), key)
	if err != nil {
		return Report{}, err
	}
	stray, err := r.st.StrayIdentities(ctx, r.trustDomain)
	switch {
	case err != nil:
		return Report{}, unavailable(err)
	case stray > 0:
		return Report{}, untrusted("chain_index", fmt.Errorf("the look-up columns name %d identities that belong to no entry", stray))
	}
	return report, nil
}
